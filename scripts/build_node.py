"""Builds the node agent's bundle: a folder that Python runs, with locked dependencies and the plugin, and its tar.gz.

build/node/<arch>/berth-node/ and build/node/berth-node-<version>-<arch>.tar.gz. On a host with Python 3.11 or newer and
the nft program, ``python3 -I berth-node install`` is all. Built the same way twice, the result is the same.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

from scripts import build_plugin

ROOT: Final = build_plugin.ROOT
OUTPUT: Final = ROOT / "build" / "node"
LOCK: Final = ROOT / "requirements" / "node.lock"
_MAIN: Final = "import sys\n\nfrom berth_node.cli import main\n\nsys.exit(main())\n"
WIRE_FORMATS: Final = ("__init__.py", "_pods.py", "_reading.py", "contract.py")


class BuildError(Exception):
    """The bundle could not be made; the message is the tool's."""


def build(arch: str, output: Path = OUTPUT) -> Path:
    """Make the bundle's folder for one architecture and return it. Raises :class:`BuildError`."""
    folder = output / arch / "berth-node"
    draft = folder.with_name(".berth-node.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    _dependencies(arch, draft)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "node_agent" / "berth_node", draft / "berth_node", ignore=ignore)
    (draft / "berth").mkdir()
    for name in WIRE_FORMATS:
        shutil.copyfile(ROOT / "layers" / "berth" / "berth" / name, draft / "berth" / name)
    (draft / "plugin").mkdir()
    shutil.copy(build_plugin.build(arch), draft / "plugin" / "berth")
    (draft / "__main__.py").write_text(_MAIN)
    from berth_node import __version__

    name = f"{__version__}-{_digest(draft)[:12]}"
    (draft / "bundle.json").write_text(json.dumps({"name": name, "arch": arch}) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return folder


def _dependencies(arch: str, to: Path) -> None:
    """The wheels of the lock file, with their hashes checked, for that architecture whatever this one is."""
    command = [
        str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--target", str(to),
        "--python-platform", f"{arch}-manylinux_2_28", "--python-version", "3.11", "--only-binary", ":all:",
        "--no-deps", "--require-hashes", "--link-mode", "copy", "-r", str(LOCK),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{arch}: dependencies: {done.stderr.strip()}")
    shutil.rmtree(to / "bin", ignore_errors=True)
    (to / ".lock").unlink(missing_ok=True)
    for record in to.glob("*.dist-info"):  # says which machine installed it, and when; the metadata itself stays
        for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"):
            (record / name).unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in _files(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{content}  {path.relative_to(folder)}\n".encode())
    return total.hexdigest()


def pack(folder: Path, prefix: str = "berth-node") -> bytes:
    """A tar.gz of a folder that is the same for the same content: no times, no owners."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _files(folder):
            info = tarfile.TarInfo(f"{prefix}/{path.relative_to(folder)}")
            info.size = path.stat().st_size
            info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            with path.open("rb") as content:
                tar.addfile(info, content)
    return gzip.compress(plain.getvalue(), mtime=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", action="append", choices=build_plugin.ARCHITECTURES, help="default: both")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    try:
        for arch in options.arch or build_plugin.ARCHITECTURES:
            folder = build(arch, options.output)
            name = json.loads((folder / "bundle.json").read_text())["name"]
            packed = options.output / f"berth-node-{name.partition('-')[0]}-{arch}.tar.gz"
            packed.write_bytes(pack(folder))
            print(f"{packed} {packed.stat().st_size} bytes")
    except (BuildError, build_plugin.BuildError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
