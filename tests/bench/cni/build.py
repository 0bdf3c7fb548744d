"""Compiles the bench's C programs as the plugin is compiled: static, against musl, by PyPI's ``ziglang``."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from scripts import build_plugin

__all__ = ["compiled", "plugin"]

_HERE: Final = Path(__file__).parent


def plugin() -> Path:
    """Berth's plugin for this machine."""
    return build_plugin.build(platform.machine())


def compiled(name: str, folder: Path) -> Path:
    """Build ``<name>.c`` into ``folder``. Raises :class:`scripts.build_plugin.BuildError`."""
    folder.mkdir(parents=True, exist_ok=True)
    binary, source = folder / name, _HERE / f"{name}.c"
    arch = platform.machine()
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-musl"]
    compiler = zig if _runs(zig[:3]) else [shutil.which("cc") or "cc"]
    environment = build_plugin._zig_environment(build_plugin.OUTPUT.parent / ".zig-cache")
    argv = [*compiler, *build_plugin.FLAGS, "-o", str(binary), str(source)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise build_plugin.BuildError(f"{source}: {done.stderr}")
    return binary


def _runs(zig: list[str]) -> bool:
    return subprocess.run([*zig, "version"], capture_output=True, check=False).returncode == 0
