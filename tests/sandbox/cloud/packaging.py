"""What ``sam build`` and ``sam package`` do: builds functions and layers, zips them, and points the template at them.

Functions: the folder of ``CodeUri`` and its ``requirements.txt`` installed into it. Layers: ``BuildMethod: makefile``
runs the Makefile target ``build-<LogicalId>`` with ``ARTIFACTS_DIR`` (SAM developer guide, "Building layers"). Builds
are kept by the hash of what they are made of.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from samtranslator.yaml_helper import yaml_parse

__all__ = ["Artifact", "BuildError", "build", "packaged"]

_CODE_PROPERTY: Final = {"AWS::Serverless::Function": "CodeUri", "AWS::Serverless::LayerVersion": "ContentUri"}
_SKIPPED: Final = frozenset({"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".git"})
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)

Progress = Callable[[str], None]


class BuildError(RuntimeError):
    """A function or layer did not build. The message has the builder's output."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A built zip. ``key`` is its content's hash, which is also its name in the bucket."""

    logical_id: str
    key: str
    data: bytes


def build(template_path: Path, runtime: str, cache: Path, progress: Progress = lambda _: None) -> list[Artifact]:
    """Build all functions and layers of a template. ``runtime`` is as Lambda names it (``python3.11``).

    Raises :class:`BuildError`.
    """
    template = yaml_parse(template_path.read_text())
    artifacts = []
    for logical_id, resource in template["Resources"].items():
        source = _source(resource)
        if source is None:
            continue
        progress(f"build {logical_id}")
        folder = (template_path.parent / source).resolve()
        if not folder.is_dir():
            raise BuildError(f"{logical_id}: there is no folder {folder}")
        data = _cached(cache, _Job(logical_id, resource, folder, runtime))
        artifacts.append(Artifact(logical_id, hashlib.sha256(data).hexdigest()[:32], data))
    return artifacts


def packaged(template_path: Path, bucket: str, artifacts: list[Artifact]) -> str:
    """The template as JSON with each built resource's code in ``bucket``."""
    template = yaml_parse(template_path.read_text())
    for artifact in artifacts:
        resource = template["Resources"][artifact.logical_id]
        resource["Properties"][_CODE_PROPERTY[resource["Type"]]] = f"s3://{bucket}/{artifact.key}"
    return json.dumps(template)


def _source(resource: Mapping[str, Any]) -> str | None:
    """The local folder of a resource's code, if it has one."""
    name = _CODE_PROPERTY.get(resource["Type"])
    value = resource.get("Properties", {}).get(name) if name else None
    return value if isinstance(value, str) and not value.startswith("s3://") else None


@dataclass(frozen=True, slots=True)
class _Job:
    logical_id: str
    resource: Mapping[str, Any]
    folder: Path
    runtime: str

    @property
    def method(self) -> str:
        return str((self.resource.get("Metadata") or {}).get("BuildMethod") or "python")

    @property
    def is_layer(self) -> bool:
        return bool(self.resource["Type"] == "AWS::Serverless::LayerVersion")


def _cached(cache: Path, job: _Job) -> bytes:
    stored = cache / f"{job.logical_id}-{_fingerprint(job)}.zip"
    if stored.exists():
        return stored.read_bytes()
    with tempfile.TemporaryDirectory(prefix="berth-build-") as temporary:
        artifacts = Path(temporary) / "artifacts"
        artifacts.mkdir()
        if job.method == "makefile":
            _make(job, artifacts)
        else:
            _python(job, artifacts)
        data = _zip(artifacts)
    cache.mkdir(parents=True, exist_ok=True)
    partial = stored.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.rename(stored)
    return data


def _fingerprint(job: _Job) -> str:
    digest = hashlib.sha256(f"{job.method} {job.runtime} {job.is_layer}".encode())
    for name, path in _files(job.folder):
        content = path.read_bytes()
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:24]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        skipped = _SKIPPED.intersection(relative.parts) or any(p.endswith(".egg-info") for p in relative.parts)
        if path.is_file() and not skipped and path.suffix != ".pyc":
            yield relative.as_posix(), path


def _make(job: _Job, artifacts: Path) -> None:
    # this interpreter's folder first: uv is installed there, and the recipe uses it where there is no pip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environ = {**os.environ, "ARTIFACTS_DIR": str(artifacts), "PYTHON": sys.executable, "PATH": path}
    _run(job, ["make", "--silent", "--directory", str(job.folder), f"build-{job.logical_id}"], environ)


def _python(job: _Job, artifacts: Path) -> None:
    """A function's code at the top of its zip; a layer's below ``python``."""
    target = artifacts / "python" if job.is_layer else artifacts
    target.mkdir(exist_ok=True)
    requirements = job.folder / "requirements.txt"
    if requirements.exists() and requirements.read_text().strip():
        _install(job, requirements, target)
    for name, path in _files(job.folder):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target / name)


def _install(job: _Job, requirements: Path, target: Path) -> None:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv:
        version = job.runtime.removeprefix("python")
        command = [uv, "pip", "install", "--quiet", "--target", str(target), "--python-version", version]
        _run(job, [*command, "--only-binary", ":all:", "--requirement", str(requirements)], dict(os.environ))
        return
    from aws_lambda_builders.builder import LambdaBuilder

    builder = LambdaBuilder(language="python", dependency_manager="pip", application_framework=None)
    with tempfile.TemporaryDirectory(prefix="berth-pip-") as scratch:
        builder.build(str(job.folder), str(target), scratch, str(requirements), runtime=job.runtime)


def _run(job: _Job, command: list[str], environ: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=job.folder)
    except FileNotFoundError:
        raise BuildError(f"{job.logical_id}: {command[0]} is not installed") from None
    if done.returncode != 0:
        raise BuildError(f"{job.logical_id}: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def _zip(folder: Path) -> bytes:
    """Equal folders give equal zips: fixed times, sorted names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()
