"""berth "Node Look Requested": our own message, put on the queue directly, often with a delay. Never on a bus.

It may name a launch hook in which the sweep has found the instance waiting: the event that told of it may be lost.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from berth.events.signal import Envelope, Signal

__all__ = ["KEY", "HookWait", "body", "parse"]

HookWait = tuple[str, str, float]
"""A launch hook that an instance waits in: group, hook's name, Unix time of hearing of it."""

KEY: Final = ("berth", "Node Look Requested")


def parse(event: Envelope) -> Signal:
    due = event.detail.get("due", 0.0)
    signal = Signal(event.instance_id(), event.text("reason"), due=due if isinstance(due, float) else 0.0)
    if "hook-name" not in event.detail:
        return signal
    group, name = event.text("hook-group"), event.text("hook-name")
    return replace(signal, hook_group=group, hook_name=name, hook_at=event.sent_at())


def body(instance_id: str, reason: str, hook: HookWait | None = None, due: float = 0.0) -> str:
    """The message that :func:`parse` reads. ``due`` is when the node's notes say that its next look is."""
    source, detail_type = KEY
    message: dict[str, Any] = {"source": source, "detail-type": detail_type}
    detail: dict[str, Any] = {"instance-id": instance_id, "reason": reason or "look"}
    if due:
        detail["due"] = due
    if hook is not None:
        group, name, found = hook
        detail |= {"hook-group": group, "hook-name": name}
        message["time"] = datetime.fromtimestamp(found, tz=UTC).isoformat()
    return json.dumps(message | {"detail": detail})
