"""What every event comes down to: look at this node. And the envelope that EventBridge puts around each event."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

__all__ = ["Envelope", "MalformedEventError", "Signal", "UnknownEventError", "read_envelope"]

_INSTANCE: Final = re.compile(r"i-[0-9a-f]{8}(?:[0-9a-f]{9})?")


class MalformedEventError(ValueError):
    """An event whose form is not its schema's. Trying again cannot help. The message names the field."""


class UnknownEventError(ValueError):
    """An event that no parser is registered for."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Look at ``instance_id``, because of ``reason`` (for logs and metrics alone: EC2 is the truth, not the event).

    Only what EC2 cannot be asked about comes along: until when warm growth is off, addresses asked for ahead of need,
    with the time of asking since the latest request counts, and the launch hook (of which group) that the instance
    waits in, with the time since when. ``event_id`` is EventBridge's, for logs; ``at`` is when it happened, for metrics
    (0: nobody said); ``reports`` says that an agent runs there. ``due`` is when a delayed look of our own is, and
    ``boot`` marks a report that asks for nothing but is the first of its agent's boot. Times are Unix seconds.
    """

    instance_id: str
    reason: str
    draining_until: float = 0.0
    requested: int = 0
    requested_until: float = 0.0
    requested_at: float = 0.0
    event_id: str = ""
    at: float = 0.0
    reports: bool = False
    hook_group: str = ""
    hook_name: str = ""
    hook_at: float = 0.0
    due: float = 0.0
    boot: bool = False

    @property
    def has_hints(self) -> bool:
        return self.draining_until > 0 or self.requested_until > 0 or bool(self.hook_name)


@dataclass(frozen=True, slots=True)
class Envelope:
    """EventBridge's envelope. ``detail`` is the event's own part."""

    id: str
    source: str
    detail_type: str
    time: str
    detail: Mapping[str, Any]

    def text(self, field: str) -> str:
        value = self.detail.get(field)
        if not isinstance(value, str) or not value:
            raise MalformedEventError(f"detail.{field}: expected a text, got {value!r:.80}")
        return value

    def instance_id(self, field: str = "instance-id") -> str:
        value = self.text(field)
        if not _INSTANCE.fullmatch(value):
            raise MalformedEventError(
                f"detail.{field}: expected an instance id such as i-0123456789abcdef0, got {value!r:.80}"
            )
        return value

    def count(self, field: str, lowest: int, highest: int) -> int:
        value = self.detail.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise MalformedEventError(f"detail.{field}: expected {lowest} to {highest}, got {value!r:.80}")
        return value

    def moment(self, field: str) -> float:
        """A time in ``detail``, ISO 8601 with an offset."""
        return _moment(f"detail.{field}", self.text(field))

    def sent_at(self) -> float:
        return _moment("time", self.time)


def _moment(field: str, text: str) -> float:
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        value = None
    if value is None or value.tzinfo is None:
        raise MalformedEventError(f"{field}: expected a time such as 2026-11-01T06:00:00Z, got {text!r:.80}")
    return value.timestamp()


def read_envelope(body: str) -> Envelope:
    """Read the envelope. Raises :class:`MalformedEventError`."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of more than 4300 digits
        raise MalformedEventError(f"is not JSON: {error}") from None
    if not isinstance(event, dict):
        raise MalformedEventError(f"expected an object, got {type(event).__name__}")
    for field in ("source", "detail-type"):
        if not isinstance(event.get(field), str):
            raise MalformedEventError(f"{field}: expected a text, got {event.get(field)!r:.80}")
    if not isinstance(event.get("detail"), dict):
        raise MalformedEventError(f"detail: expected an object, got {event.get('detail')!r:.80}")
    return Envelope(
        id=str(event.get("id", "")),
        source=event["source"],
        detail_type=event["detail-type"],
        time=str(event.get("time", "")),
        detail=event["detail"],
    )
