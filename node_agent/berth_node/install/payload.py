"""Where the plugin and the agent that are installed come from.

A *bundle* (``scripts/build_node.py``) is a folder that Python runs: ``python3 -I FOLDER install``. It has the agent,
its locked dependencies, the plugin and ``bundle.json``, and is copied as a whole. From a virtual environment that the
wheel was installed into, the agent stays where it is, and only what starts it is written.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import berth_node

from .plan import SOFTWARE

__all__ = ["Payload", "PayloadError", "find"]

_PACKAGES = Path(berth_node.__file__).resolve().parents[1]


class PayloadError(Exception):
    """There is nothing to install. The message says what to build or give."""


@dataclass(frozen=True, slots=True)
class Payload:
    """``agent`` is the bundle's name, empty without one; ``command`` starts the agent once it is installed."""

    plugin: bytes
    agent: str
    command: tuple[str, ...]
    folder: Path

    def copy(self, to: Path) -> None:
        """Copy the bundle and compile it: the service's file system is read-only, and compiling at each start would
        cost time and memory."""
        import compileall  # not in the agent's memory
        from py_compile import PycInvalidationMode

        shutil.copytree(self.folder, to, ignore=shutil.ignore_patterns("__pycache__"))
        final = f"{SOFTWARE}/{self.agent}"
        compileall.compile_dir(
            to, quiet=2, stripdir=str(to), prependdir=final, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
        )


def find(plugin: Path | None) -> Payload:
    """What the running program brings along. ``plugin`` names a binary instead. Raises :class:`PayloadError`."""
    python = os.path.realpath(sys.executable)
    description = _PACKAGES / "bundle.json"
    if not description.exists():
        return Payload(_plugin(plugin), "", (sys.executable, "-I", "-m", "berth_node"), _PACKAGES)
    name = str(json.loads(description.read_text())["name"])
    return Payload(
        _plugin(plugin or _PACKAGES / "plugin" / "berth"), name, (python, "-I", f"{SOFTWARE}/{name}"), _PACKAGES
    )


def _plugin(given: Path | None) -> bytes:
    checkout = _PACKAGES.parent / "build" / "plugin" / os.uname().machine / "berth"
    path = given or checkout
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PayloadError(f"no CNI plugin at {path} ({error.strerror}): give one by --plugin PATH") from error
    if not content.startswith(b"\x7fELF"):
        raise PayloadError(f"{path} is no program for Linux; build it with `make plugin`")
    return content
