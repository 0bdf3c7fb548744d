"""berth "Node Look Requested": our own message, put on the queue directly, often with a delay. Never on a bus."""

from __future__ import annotations

import json
from typing import Final

from berth.events.signal import Envelope, Signal

__all__ = ["KEY", "body", "parse"]

KEY: Final = ("berth", "Node Look Requested")


def parse(event: Envelope) -> Signal:
    return Signal(event.instance_id(), event.text("reason"))


def body(instance_id: str, reason: str) -> str:
    """The message that :func:`parse` reads."""
    source, detail_type = KEY
    detail = {"instance-id": instance_id, "reason": reason or "look"}
    return json.dumps({"source": source, "detail-type": detail_type, "detail": detail})
