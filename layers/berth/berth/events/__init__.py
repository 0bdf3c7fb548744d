"""One module for each EventBridge schema, and the registry that finds the right one.

To add an event: a module with ``KEY`` and ``parse``, a line below, a sample under ``events/``, a rule in the template.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from berth.events import (
    instance_state_change,
    launch_lifecycle_action,
    node_capacity_requested,
    node_look_requested,
    rebalance_recommendation,
    spot_interruption_warning,
    terminate_lifecycle_action,
)
from berth.events.signal import Envelope, MalformedEventError, Signal, UnknownEventError, read_envelope

__all__ = ["PARSERS", "Envelope", "MalformedEventError", "Signal", "UnknownEventError", "parse", "read_envelope"]

PARSERS: Final[dict[tuple[str, str], Callable[[Envelope], Signal]]] = {
    module.KEY: module.parse
    for module in (
        instance_state_change,
        launch_lifecycle_action,
        node_capacity_requested,
        node_look_requested,
        rebalance_recommendation,
        spot_interruption_warning,
        terminate_lifecycle_action,
    )
}


def parse(body: str) -> Signal:
    """Read one queued event.

    Raises :class:`MalformedEventError` or :class:`UnknownEventError`; neither gets better by trying again.
    """
    event = read_envelope(body)
    parser = PARSERS.get((event.source, event.detail_type))
    if parser is None:
        raise UnknownEventError(f"no parser for {event.detail_type!r:.80} from {event.source!r:.80}")
    # our own looks are asked for with a delay: how old they are says nothing
    at = event.sent_at() if event.time and event.source != node_look_requested.KEY[0] else 0.0
    return replace(parser(event), event_id=event.id, at=at)
