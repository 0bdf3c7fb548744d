"""Imported first by every function: what makes the rest of a cold start shorter (docs/decisions/0009).

* The garbage collector rests until :func:`started`. Imports make tens of thousands of objects that stay, and the
  collector would walk them again and again.
* ``dataclasses`` writes the source of each class's methods and compiles it at every import; no ``.pyc`` file helps.
  The layer's build compiles these sources once (``generate.py``), and here they are looked up by their text. What is
  not found, for another version of Python or another text, is compiled as ever.
"""

from __future__ import annotations

import builtins
import dataclasses
import gc
import importlib.util
import marshal
import sys
from pathlib import Path
from types import CodeType
from typing import Any

__all__ = ["generated_file", "started"]


def generated_file(package: Path) -> Path:
    """Where compiled methods are kept for this version of Python."""
    return package / "__pycache__" / f"generated.{sys.implementation.cache_tag}.bin"


def _load(path: Path) -> dict[str, CodeType]:
    """Code by its source. Empty without a file, or with one of another bytecode."""
    try:
        magic, code = marshal.loads(path.read_bytes())  # noqa: S302 - from our own layer, as .pyc files are
    except (OSError, ValueError, EOFError, TypeError):
        return {}
    return code if magic == importlib.util.MAGIC_NUMBER else {}


def _use(code: dict[str, CodeType]) -> None:
    def execute(source: str, *scopes: Any) -> None:
        builtins.exec(code.get(source, source), *scopes)  # noqa: S102 - what dataclasses itself does

    # a global of the module comes before the built-in function
    vars(dataclasses)["exec"] = execute


def started() -> None:
    """All is imported and connected: what is there stays, and the collector need not look at it again."""
    vars(dataclasses).pop("exec", None)
    gc.freeze()
    gc.enable()


gc.disable()
if _code := _load(generated_file(Path(__file__).parent)):
    _use(_code)
