"""berth.request "Node Capacity Requested": somebody wants addresses on a node before its pods do.

Schema: docs/events/node-capacity-requested.schema.json.
"""

from __future__ import annotations

from typing import Final

from berth.events.signal import Envelope, Signal

__all__ = ["KEY", "parse"]

KEY: Final = ("berth.request", "Node Capacity Requested")


def parse(event: Envelope) -> Signal:
    return Signal(
        event.instance_id(),
        "capacity requested",
        requested=event.count("addresses", 0, 4096),
        requested_until=event.moment("until"),
        requested_at=event.sent_at(),
    )
