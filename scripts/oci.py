"""Container images without a container engine: layers, and an OCI image layout as one tar file.

The format is OCI's image-spec 1.1; the tar is what ``ctr images import``, ``podman load`` and ``skopeo copy
oci-archive:`` take. Nothing in it depends on time or user, so the same content has the same digests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["Layout", "layer"]

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"


def layer(root: Path) -> bytes:
    """Everything below ``root`` as an uncompressed tar, owned by root and without times."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            info = tarfile.TarInfo(str(path.relative_to(root)))
            if path.is_symlink():
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
                tar.addfile(info)
            elif path.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            else:
                info.size, info.mode = path.stat().st_size, 0o755 if path.stat().st_mode & 0o100 else 0o644
                with path.open("rb") as content:
                    tar.addfile(info, content)
    return plain.getvalue()


@dataclass(slots=True)
class Layout:
    """Blobs by digest, and one image for each architecture."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)

    def _blob(self, kind: str, content: bytes) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def _document(self, kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
        return self._blob(kind, json.dumps(value, sort_keys=True).encode())

    def add(self, architecture: str, layers: Sequence[bytes], run: Mapping[str, Any]) -> None:
        """An image from uncompressed layers. ``architecture`` as Go names it; ``run`` is its ``config``."""
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": dict(run),
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(part).hexdigest() for part in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._document(_CONFIG, config),
            "layers": [self._blob(_LAYER, gzip.compress(part, mtime=0)) for part in layers],
        }
        platform = {"architecture": architecture, "os": "linux"}
        self.images.append({**self._document(_MANIFEST, manifest), "platform": platform})

    def archive(self, name: str) -> bytes:
        """The layout as a tar. ``name`` is the image's, with its tag."""
        index = self._document(_INDEX, {"schemaVersion": 2, "mediaType": _INDEX, "manifests": self.images})
        names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
        top = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [{**index, "annotations": names}]}
        files = {
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            "index.json": json.dumps(top, sort_keys=True).encode(),
            **{f"blobs/{digest.replace(':', '/')}": content for digest, content in sorted(self.blobs.items())},
        }
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, content in files.items():
                info = tarfile.TarInfo(path)
                info.size, info.mode = len(content), 0o644
                tar.addfile(info, io.BytesIO(content))
        return out.getvalue()
