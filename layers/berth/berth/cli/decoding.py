"""Reads what :func:`berth.decision.encode` has written: JSON back to frozen values, by their own type hints."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from berth import calls
from berth.decision import VERSION, Decision

__all__ = ["UnreadableError", "decode"]

_CALLS: Final = {call.__name__: call for call in get_args(calls.Call)}


class UnreadableError(ValueError):
    """The JSON is no decision that this version can read. The message names the field."""


def decode(item: Mapping[str, Any]) -> tuple[Decision, tuple[str, ...]]:
    """The decision, and the fields that a newer version has written and this one does not know.

    Raises :class:`UnreadableError`.
    """
    if not isinstance(item, Mapping) or not isinstance(item.get("v"), int):
        raise UnreadableError("no decision: the field v (its version) is missing")
    if item["v"] > VERSION:
        raise UnreadableError(f"a decision of version {item['v']}, and this one reads {VERSION}: upgrade")
    unknown: list[str] = []
    rest = {k: v for k, v in item.items() if k != "v"}
    return _build(Decision, rest, "decision", unknown), tuple(unknown)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _build(kind: type, item: Any, path: str, unknown: list[str]) -> Any:
    if not isinstance(item, Mapping):
        raise UnreadableError(f"{path}: expected an object, got {item!r:.60}")
    hints, names = _hints(kind), {f.name for f in fields(kind)}
    unknown += [f"{path}.{name}" for name in item if name not in names and name != "call"]
    values = {n: _load(hints[n], v, f"{path}.{n}", unknown) for n, v in item.items() if n in names}
    try:
        return kind(**values)
    except TypeError as error:  # a field without a default is missing
        raise UnreadableError(f"{path}: {error}") from None


def _load(hint: Any, value: Any, path: str, unknown: list[str]) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _load_one_of(inner, value, path, unknown)
    if origin is Literal:
        if value not in inner:
            raise UnreadableError(f"{path}: expected one of {', '.join(map(str, inner))}, got {value!r:.60}")
        return value
    if origin in (tuple, frozenset):
        return _load_many(origin, inner, value, path, unknown)
    if is_dataclass(hint):
        return _build(hint, value, path, unknown)  # type: ignore[arg-type]
    # JSON has one kind of number
    if not isinstance(value, (int, float) if hint is float else hint) or (isinstance(value, bool) and hint is not bool):
        raise UnreadableError(f"{path}: expected {hint.__name__}, got {value!r:.60}")
    return value


def _load_one_of(kinds: tuple[Any, ...], value: Any, path: str, unknown: list[str]) -> Any:
    if value is None and type(None) in kinds:
        return None
    if set(kinds) == set(_CALLS.values()):
        name = value.get("call") if isinstance(value, Mapping) else None
        if name not in _CALLS:
            raise UnreadableError(f"{path}: {name!r:.60} is no call that this version knows")
        return _build(_CALLS[name], value, path, unknown)
    (kind,) = (k for k in kinds if k is not type(None))
    return _load(kind, value, path, unknown)


def _load_many(origin: Any, inner: tuple[Any, ...], value: Any, path: str, unknown: list[str]) -> Any:
    if not isinstance(value, list):
        raise UnreadableError(f"{path}: expected a list, got {value!r:.60}")
    if origin is frozenset or inner[-1] is Ellipsis:
        kinds = (inner[0],) * len(value)
    elif len(value) != len(inner):
        raise UnreadableError(f"{path}: expected {len(inner)} values, got {len(value)}")
    else:
        kinds = inner
    loaded = (_load(k, v, f"{path}[{i}]", unknown) for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    return origin(loaded)
