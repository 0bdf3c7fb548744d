"""Builds the node agent's container image for both architectures, without a container engine.

Two layers: Python 3.11 and nft with the libraries they need, from Debian's packages, whose signatures apt checks; and
the agent's bundle. No shell, no package manager. The result is build/image/berth-node.tar, an OCI layout:

    ctr -n k8s.io images import berth-node.tar        skopeo copy oci-archive:berth-node.tar docker://REGISTRY/berth-node

apt works in folders of its own below build/image, so the machine's packages and lists are not touched.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Final

from scripts import build_node, build_plugin
from scripts.oci import Layout, layer

OUTPUT: Final = build_plugin.ROOT / "build" / "image"
APP: Final = "app/berth-node"
PYTHON: Final = "/usr/bin/python3.11"
_DEBIAN: Final = {"x86_64": "amd64", "aarch64": "arm64"}  # Debian's names are Go's too
_WANTED: Final = ("python3.11", "nftables")
_CERTIFICATES: Final = "ca-certificates"  # without what it depends on: only its files are used
# What these packages depend on and neither Python nor nft runs: tools of the package manager, data, NIS.
_UNWANTED: Final = ("dpkg", "tar", "media-types", "readline-common", "gcc-12-base", "libtirpc", "libnsl2")
_UNWANTED_PATHS: Final = (
    "usr/share", "usr/games", "usr/bin/pdb3.11", "usr/bin/pydoc3.11", "usr/bin/pygettext3.11", "var", "etc",
    *(f"usr/lib/python3.11/{name}" for name in ("test", "idlelib", "lib2to3", "pydoc_data", "turtledemo", "unittest")),
)  # fmt: skip


class BuildError(Exception):
    """The image could not be made; the message is the tool's."""


def _run(command: Sequence[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise BuildError(f"{' '.join(command[:2])} …: {(done.stderr or done.stdout).strip()[-1500:]}")


def _download(arch: str, work: Path) -> list[Path]:
    """All packages, dependencies included, as if nothing were installed."""
    debs = work / "cache" / "archives"
    for folder in (work / "state" / "lists" / "partial", debs / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    (work / "status").touch()
    settings = {
        "APT::Architecture": arch,
        "APT::Architectures": arch,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Dir::State": str(work / "state"),
        "Dir::State::status": str(work / "status"),
        "Dir::Cache": str(work / "cache"),
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    _run([*apt, "update"])
    for old in debs.glob("*.deb"):
        old.unlink()
    _run([*apt, "install", "--yes", "--download-only", *_WANTED])
    _run([*apt, "download", _CERTIFICATES], debs)
    return [deb for deb in sorted(debs.glob("*.deb")) if not deb.name.startswith(_UNWANTED)]


def _base(arch: str, work: Path) -> Path:
    """A root folder with what Python and nft need."""
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)
    for deb in _download(arch, work):
        part = work / "part"
        shutil.rmtree(part, ignore_errors=True)
        _run(["dpkg-deb", "-x", str(deb), str(part)])
        for name in ("lib", "lib64", "bin", "sbin"):  # Debian's packages still say /lib for /usr/lib
            if (part / name).is_dir():
                shutil.copytree(part / name, part / "usr" / name, symlinks=True, dirs_exist_ok=True)
                shutil.rmtree(part / name)
        shutil.copytree(part, root, symlinks=True, dirs_exist_ok=True)
    certificates = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    bundle = "".join(path.read_text() for path in certificates)
    for name in _UNWANTED_PATHS:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name in ("lib", "lib64", "bin", "sbin"):
        if (root / "usr" / name).is_dir():
            (root / name).symlink_to(f"usr/{name}")
    (root / "etc/ssl/certs").mkdir(parents=True)
    (root / "etc/ssl/certs/ca-certificates.crt").write_text(bundle)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/sbin/nologin\n")
    (root / "tmp").mkdir()
    _compile(root / "usr/lib/python3.11", root)
    return root


def _compile(folder: Path, root: Path) -> None:
    """The container's file system is read-only: what is not compiled here is compiled at each start, in memory."""
    if sys.version_info[:2] != (3, 11):
        print("not Python 3.11: the image is not compiled, and starts slower", file=sys.stderr)
        return
    mode = PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, stripdir=str(root), prependdir="/", invalidation_mode=mode)


def build(arch: str, output: Path = OUTPUT) -> list[Path]:
    """The root folders of the image's layers for one architecture. Raises :class:`BuildError`."""
    work = output / arch
    work.mkdir(parents=True, exist_ok=True)
    base = _base(_DEBIAN[arch], work)
    app = work / "app-root"
    shutil.rmtree(app, ignore_errors=True)
    shutil.copytree(build_node.build(arch), app / APP)
    _compile(app, app)
    return [base, app]


def configuration() -> dict[str, list[str]]:
    """How the image runs. It holds no setting: those are in the mounted node.toml."""
    return {
        "Entrypoint": [PYTHON, "-I", f"/{APP}"],
        "Cmd": ["agent"],
        "Env": ["PATH=/usr/sbin:/usr/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", action="append", choices=build_plugin.ARCHITECTURES, help="default: both")
    parser.add_argument("--name", default="localhost/berth-node:dev", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    os.umask(0o022)
    layout = Layout()
    try:
        for arch in options.arch or build_plugin.ARCHITECTURES:
            layout.add(_DEBIAN[arch], [layer(root) for root in build(arch, options.output)], configuration())
    except (BuildError, build_node.BuildError, build_plugin.BuildError) as error:
        print(error, file=sys.stderr)
        return 1
    archive = options.output / "berth-node.tar"
    archive.write_bytes(layout.archive(options.name))
    print(f"{archive} {archive.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
