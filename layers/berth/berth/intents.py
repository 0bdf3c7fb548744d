"""Intents as JSON: what is stored before a mutating call and completed after it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from berth.calls import MUTATING, Call
from berth.model import Attachment, Intent, InterfaceView, Outcome

__all__ = ["decode_intents", "encode_intents"]

_INTERFACE_FIELDS: Final = frozenset(f.name for f in fields(InterfaceView))
"""A newer version may have stored more: what this one does not know of an interface it does not need."""
_CALLS: Final = {call.__name__: call for call in MUTATING}


def encode_intents(intents: Sequence[Intent]) -> str:
    """A JSON array, one object for each intent."""
    return json.dumps(
        [{**_fields(i), "call": {"type": type(i.call).__name__, **_fields(i.call)}} for i in intents],
        default=_fields,
        separators=(",", ":"),
    )


def _fields(value: Any) -> dict[str, Any]:
    """A dataclass as an object; what is within it is the encoder's to ask for. ``asdict`` copies it all first."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def decode_intents(text: str) -> tuple[Intent, ...]:
    """Read :func:`encode_intents`. A call this version does not know is left out: it belongs to a newer version, and
    leaving it out costs no more than a describe that is a little out of date."""
    return tuple(_intent(item) for item in json.loads(text) if item["call"]["type"] in _CALLS)


def _intent(item: Mapping[str, Any]) -> Intent:
    outcome = item["outcome"]
    return Intent(
        token=item["token"],
        call=_call(item["call"]),
        at=item["at"],
        outcome=_outcome(outcome) if outcome is not None else None,
        done_at=item["done_at"],
    )


def _call(item: Mapping[str, Any]) -> Call:
    parameters = {k: v for k, v in item.items() if k != "type"}
    return _CALLS[item["type"]](**_tuples(parameters))


def _outcome(item: Mapping[str, Any]) -> Outcome:
    shown = item["interface"]
    return Outcome(
        interface=_interface(shown) if shown is not None else None,
        attachment_id=item["attachment_id"],
        blocks=tuple(item["blocks"]),
    )


def _interface(item: Mapping[str, Any]) -> InterfaceView:
    at = item["attachment"]
    known = {k: v for k, v in _tuples(item).items() if k in _INTERFACE_FIELDS}
    return InterfaceView(**{**known, "attachment": Attachment(**at) if at is not None else None})


def _tuples(item: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists only; our values are tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in item.items()}
