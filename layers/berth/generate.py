"""The layer's build: compiles the methods that ``dataclasses`` generates, for the Python that runs this.

``python generate.py FOLDER`` imports the package ``berth`` in FOLDER, notes every source that dataclasses compile, and
writes the code to the file that ``berth.coldstart`` reads. Modules that cannot be imported here (there may be no boto3
where the layer is built) are left out: their classes are compiled at the start, as ever.
"""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import importlib.util
import marshal
import pkgutil
import sys
from pathlib import Path
from types import CodeType
from typing import Any


def compiled(folder: Path) -> dict[str, CodeType]:
    """Code by its source, of all of the package's dataclasses."""
    code: dict[str, CodeType] = {}

    def execute(source: str, *scopes: Any) -> None:
        code[source] = compile(source, "<string>", "exec", dont_inherit=True)
        builtins.exec(code[source], *scopes)  # noqa: S102 - what dataclasses itself does

    vars(dataclasses)["exec"] = execute
    missing: dict[str, str] = {}
    for module in pkgutil.walk_packages([str(folder / "berth")], "berth."):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            missing[module.name] = str(error)
    if missing:
        reasons = "; ".join(sorted(set(missing.values())))
        print(f"{len(missing)} modules are not ready-made for quick starts: {reasons}", file=sys.stderr)
    return code


def known(target: Path) -> int:
    """How much another interpreter of this version has compiled already."""
    try:
        magic, code = marshal.loads(target.read_bytes())  # noqa: S302 - written by this very script
    except (OSError, ValueError, EOFError, TypeError):
        return 0
    return len(code) if magic == importlib.util.MAGIC_NUMBER else 0


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(folder))
    code = compiled(folder)
    from berth.coldstart import generated_file

    target = generated_file(folder / "berth")
    if len(code) <= known(target):
        return
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(marshal.dumps((importlib.util.MAGIC_NUMBER, code)))


if __name__ == "__main__":
    main()
