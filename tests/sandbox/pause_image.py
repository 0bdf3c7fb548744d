"""The image of a pod sandbox, made here: one static binary in one layer, as an OCI image layout (image-layout.md)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tests.sandbox.world_ns import REPOSITORY

__all__ = ["IMAGE", "write"]

IMAGE: Final = "localhost/pause:1"
_SOURCE: Final = Path(__file__).with_name("pause.c")
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_TYPE: Final = "application/vnd.oci.image"


def _compile() -> bytes:
    machine = os.uname().machine
    folder = REPOSITORY / "build" / "sandbox"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"pause-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}-{machine}"
    if not target.exists():
        draft = target.with_suffix(f".{os.getpid()}")
        cache = str(REPOSITORY / "build" / ".zig-cache")
        argv = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-musl", "-static", "-Os", "-s"]
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        subprocess.run([*argv, "-o", str(draft), str(_SOURCE)], env=environment, check=True)
        draft.replace(target)
    return target.read_bytes()


def _tar(files: Iterable[tuple[str, bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content, mode in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _described(kind: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": f"{_TYPE}.{kind}", "digest": f"sha256:{_digest(content)}", "size": len(content), **more}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def write(path: Path) -> None:
    """Write the image as a tar file that ``ctr images import`` and ``podman load`` take."""
    layer = _tar([("pause", _compile(), 0o755)])
    packed = gzip.compress(layer, mtime=0)
    platform = {"architecture": _ARCHITECTURES[os.uname().machine], "os": "linux"}
    config = _json(
        {
            **platform,
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}"]},
            "history": [],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_TYPE}.manifest.v1+json",
            "config": _described("config.v1+json", config),
            "layers": [_described("layer.v1.tar+gzip", packed)],
        }
    )
    names = {"io.containerd.image.name": IMAGE, "org.opencontainers.image.ref.name": IMAGE}
    described = _described("manifest.v1+json", manifest, annotations=names, platform=platform)
    blobs = [(f"blobs/sha256/{_digest(blob)}", blob, 0o644) for blob in (config, manifest, packed)]
    layout = ("oci-layout", _json({"imageLayoutVersion": "1.0.0"}), 0o644)
    index = ("index.json", _json({"schemaVersion": 2, "manifests": [described]}), 0o644)
    path.write_bytes(_tar([layout, index, *blobs]))
