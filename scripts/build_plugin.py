"""Builds the CNI plugin for both architectures into build/plugin/<arch>/berth.

The compiler is PyPI's ``ziglang``: a C cross-compiler with musl, so the result is static and the same on any machine.
A binary is rebuilt only when the source, the flags or the compiler changed (``berth.key`` beside it has their hash).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = tuple(sorted((ROOT / "node_agent" / "cni").glob("*.c")))
HEADERS: Final = tuple(sorted((ROOT / "node_agent" / "cni").glob("*.h")))
OUTPUT: Final = ROOT / "build" / "plugin"
ARCHITECTURES: Final = ("x86_64", "aarch64")
FLAGS: Final = ("-std=gnu11", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror")


class BuildError(Exception):
    """The plugin could not be compiled; the message is the compiler's."""


def _zig(arch: str, target: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        f"{arch}-linux-musl",
        *FLAGS,
        "-o",
        str(target),
        *map(str, SOURCES),
    ]


def _zig_environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache)}


def _zig_version() -> str | None:
    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        return None


def _compile(arch: str, target: Path, cache: Path) -> None:
    """Compile, by zig if it runs at all, else (own architecture only) by the machine's cc, and say so."""
    why = "the Python package ziglang is not installed"
    if _zig_version() is not None:
        probe = [sys.executable, "-m", "ziglang", "version"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            done = subprocess.run(
                _zig(arch, target), env=_zig_environment(cache), capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise BuildError(f"{arch}: ziglang cc failed:\n{done.stderr}")
            return
        why = "ziglang cannot run on this machine"
    cc = shutil.which("cc")
    if arch != platform.machine() or cc is None:
        raise BuildError(f"{arch}: {why}, and no cc can build for it here; pip install ziglang")
    print(f"{arch}: {why}; using {cc} instead", file=sys.stderr)
    done = subprocess.run(
        [cc, *FLAGS, "-o", str(target), *map(str, SOURCES)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"{arch}: cc failed:\n{done.stderr}")


def _key(arch: str) -> str:
    parts = (
        *(p.read_bytes() for p in (*SOURCES, *HEADERS)),
        arch.encode(),
        " ".join(FLAGS).encode(),
        (_zig_version() or "cc").encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def build(arch: str, output: Path = OUTPUT) -> Path:
    """Build for one architecture unless it is there already; returns the binary's path. Raises :class:`BuildError`."""
    folder = output / arch
    folder.mkdir(parents=True, exist_ok=True)
    binary, mark, key = folder / "berth", folder / "berth.key", _key(arch)
    # Two builds at once (make, tests) would write one file; the lock is dropped with the descriptor.
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if binary.exists() and mark.exists() and mark.read_text() == key:
            return binary
        draft = folder / "berth.new"
        _compile(arch, draft, output.parent / ".zig-cache")
        # The key goes first and comes last: a kill in between makes the next build compile again.
        mark.unlink(missing_ok=True)
        draft.replace(binary)
        mark.write_text(key)
    return binary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES, help="default: both")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--quiet", action="store_true", help="say nothing of what was built")
    options = parser.parse_args()
    try:
        for arch in options.arch or ARCHITECTURES:
            binary = build(arch, options.output)
            if not options.quiet:
                shown = binary.relative_to(Path.cwd()) if binary.is_relative_to(Path.cwd()) else binary
                print(f"{shown} {binary.stat().st_size} bytes")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
