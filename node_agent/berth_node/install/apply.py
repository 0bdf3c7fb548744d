"""Carries a plan out below a root folder, and takes an installation away again by its manifest.

A kill between any two steps is safe. The manifest names a file before it is written, so that whatever is there can be
taken away; each file appears whole, by rename, so that a runtime that starts the plugin meanwhile gets the old one or
the new one; and a second run completes what the first one left.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from berth_node.durable import write_atomically

from .plan import SOFTWARE, File, Plan

__all__ = ["MANIFEST", "Manifest", "Step", "apply", "as_json", "remove"]

MANIFEST: Final = "/var/lib/berth/installed.json"
_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Step:
    """What was, or with a dry run would be, done with a path."""

    action: str
    path: str


@dataclass(slots=True)
class Manifest:
    """``files`` maps a path to the SHA-256 of what was written there last and before that: a kill may have left either.

    ``trees`` are the software's folders, newest last; ``folders`` those that were made on the way.
    """

    version: str = ""
    files: dict[str, list[str]] = field(default_factory=dict)
    trees: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, root: Path) -> Manifest:
        """The manifest below ``root``; an empty one if nothing is installed. Raises ValueError if it is unreadable."""
        path = _below(root, MANIFEST)
        try:
            body: Any = json.loads(path.read_text())
            if body["schema"] != _SCHEMA:
                raise ValueError(f"{path}: schema {body['schema']!r}, not {_SCHEMA}: use the release that wrote it")
            files = {str(name): [str(d) for d in digests] for name, digests in body["files"].items()}
            return cls(body["version"], files, list(body["trees"]), list(body["folders"]))
        except FileNotFoundError:
            return cls()
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a manifest of Berth: {error!r}") from error

    def save(self, root: Path) -> None:
        """Write it below ``root``."""
        body = {
            "schema": _SCHEMA,
            "version": self.version,
            "files": self.files,
            "trees": self.trees,
            "folders": self.folders,
        }
        write_atomically(_below(root, MANIFEST), json.dumps(body, indent=1) + "\n")


def apply(root: Path, plan: Plan, version: str, copy_tree: Callable[[Path], None], *, dry: bool = False) -> list[Step]:
    """Make it so. ``copy_tree(folder)`` fills a new folder with the software. Raises OSError, ValueError."""
    manifest = Manifest.load(root)
    steps = [_step(root, file) for file in plan.files]
    tree = _below(root, plan.tree) if plan.tree else None
    if tree:
        steps.insert(0, Step("same" if tree.is_dir() else "create", plan.tree))
    stale = _stale_trees(manifest, plan)
    steps += [Step("remove", path) for path in stale]
    if dry:
        return steps
    _note(root, plan, manifest, steps, version)
    for folder in plan.folders:
        _below(root, folder).mkdir(parents=True, exist_ok=True)
    if tree and not tree.is_dir():
        _make_tree(tree, copy_tree)
    actions = {step.path: step.action for step in steps}
    for file in plan.files:
        if actions[file.path] in ("create", "replace"):
            _write(_below(root, file.path), file)
    for path in stale:
        shutil.rmtree(_below(root, path), ignore_errors=True)
        manifest.trees.remove(path)
    manifest.save(root)
    return steps


def _note(root: Path, plan: Plan, manifest: Manifest, steps: Iterable[Step], version: str) -> None:
    """Put into the manifest what is about to be written."""
    actions = {step.path: step.action for step in steps}
    for file in plan.files:
        if actions[file.path] != "keep":
            known = [d for d in manifest.files.get(file.path, []) if d != _digest(file.content)]
            manifest.files[file.path] = [*known[-1:], _digest(file.content)]
    if plan.tree:
        manifest.trees = [t for t in manifest.trees if t != plan.tree] + [plan.tree]
    paths = [MANIFEST, plan.tree or MANIFEST, *(f.path for f in plan.files)]
    made = _new_folders(root, [*plan.folders, *(str(Path(path).parent) for path in paths)])
    manifest.folders += [f for f in made if f not in manifest.folders]
    manifest.version = version
    manifest.save(root)


def _stale_trees(manifest: Manifest, plan: Plan) -> list[str]:
    """All but the new software and the one before it, which runs until the service is restarted."""
    return [t for t in manifest.trees if t != plan.tree][:-1] if plan.tree else []


def _new_folders(root: Path, paths: Iterable[str]) -> list[str]:
    """The folders that do not exist yet, parents first, so that uninstall can take away what install made."""
    missing: dict[str, None] = {}
    for path in paths:
        for folder in reversed([Path(path), *Path(path).parents]):
            if not _below(root, str(folder)).exists():
                missing[str(folder)] = None
    return list(missing)


def _step(root: Path, file: File) -> Step:
    path = _below(root, file.path)
    if not path.exists():
        return Step("create", file.path)
    if file.keep:
        return Step("keep", file.path)
    same = path.read_bytes() == file.content and path.stat().st_mode & 0o7777 == file.mode
    return Step("same" if same else "replace", file.path)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.berth-new")


def _tree_draft(tree: Path) -> Path:
    return tree.with_name(f".{tree.name}.new")


def _write(path: Path, file: File) -> None:
    """By rename: whoever runs the old plugin goes on with it ("text file busy" is for writing in place)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    draft.unlink(missing_ok=True)  # of an installation that was killed
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(file.content)
        os.fchmod(out.fileno(), file.mode)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(path)


def _make_tree(tree: Path, copy_tree: Callable[[Path], None]) -> None:
    draft = _tree_draft(tree)
    shutil.rmtree(draft, ignore_errors=True)
    tree.parent.mkdir(parents=True, exist_ok=True)
    copy_tree(draft)
    draft.rename(tree)


def remove(root: Path, *, dry: bool = False) -> list[Step]:
    """Take away what the manifest lists, itself last. A file that somebody changed since is left, and told."""
    manifest = Manifest.load(root)
    steps = [_removal(root, path, digests) for path, digests in manifest.files.items()]
    steps += [Step("remove", tree) for tree in manifest.trees]
    if dry:
        return steps
    for step in steps:
        path = _below(root, step.path)
        if step.action == "remove" and step.path.startswith(SOFTWARE + "/"):
            shutil.rmtree(path, ignore_errors=True)
        elif step.action == "remove":
            path.unlink(missing_ok=True)
        for draft in (_draft(path), _tree_draft(path)):  # of an installation that was killed
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
    _below(root, MANIFEST).unlink(missing_ok=True)
    _tree_draft(_below(root, MANIFEST)).unlink(missing_ok=True)
    for folder in reversed(manifest.folders):
        path = _below(root, folder)
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return steps


def _removal(root: Path, path: str, digests: Collection[str]) -> Step:
    there = _below(root, path)
    if not there.exists():
        return Step("gone", path)
    return Step("remove" if _digest(there.read_bytes()) in digests else "changed, left", path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def as_json(steps: Iterable[Step]) -> list[Mapping[str, str]]:
    """For ``--json``."""
    return [{"action": s.action, "path": s.path} for s in steps]
