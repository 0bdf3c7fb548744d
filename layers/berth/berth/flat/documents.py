"""Snapshots as JSON, so that they can be saved, sent and checked elsewhere."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from berth.flat.snapshot import Snapshot

__all__ = ["VERSION", "UnreadableSnapshotError", "dump", "load"]

VERSION: Final = 1
_KIND: Final = "berth flat-network snapshot"


class UnreadableSnapshotError(ValueError):
    """The JSON is no snapshot that this version reads. The message names the field."""


def dump(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as plain JSON values, with its version."""
    return {"kind": _KIND, "version": VERSION, **dataclasses.asdict(snapshot)}


def load(item: Any) -> Snapshot:
    """What :func:`dump` made. Fields of later versions are passed over. Raises :class:`UnreadableSnapshotError`."""
    if not isinstance(item, Mapping) or item.get("kind") != _KIND:
        raise UnreadableSnapshotError(f"no snapshot: the field kind is not {_KIND!r}")
    if item.get("version") != VERSION:
        raise UnreadableSnapshotError(f"a snapshot of version {item.get('version')!r}, and this one reads {VERSION}")
    made: Snapshot = _value(Snapshot, {k: v for k, v in item.items() if k not in ("kind", "version")}, "snapshot")
    return made


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(hint: Any, value: Any, path: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kind = next(k for k in inner if k is not type(None))
        return None if value is None else _value(kind, value, path)
    if origin is tuple:
        return _many(inner, value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _object(hint, value, path)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UnreadableSnapshotError(f"{path}: expected {hint.__name__}, got {value!r:.60}")
    return value


def _many(inner: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UnreadableSnapshotError(f"{path}: expected a list, got {value!r:.60}")
    kinds = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
    if len(kinds) != len(value):
        raise UnreadableSnapshotError(f"{path}: expected {len(kinds)} values, got {len(value)}")
    return tuple(_value(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))


def _object(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise UnreadableSnapshotError(f"{path}: expected an object, got {value!r:.60}")
    hints = _hints(kind)
    try:
        return kind(**{n: _value(hints[n], v, f"{path}.{n}") for n, v in value.items() if n in hints})
    except TypeError as error:  # a field without a default is missing
        raise UnreadableSnapshotError(f"{path}: {error}") from None
