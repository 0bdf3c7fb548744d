"""The one line that each look at a node leaves in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from berth.converge import Convergence
from berth.events import Signal

__all__ = ["log_look"]

logger = logging.getLogger(__name__)


def log_look(instance_id: str, signals: Iterable[Signal], outcome: str, ran: Convergence | None = None) -> None:
    """Say why a node was looked at, what was planned, each call with its answer, and what came of it."""
    why = [s for s in signals if s.instance_id == instance_id]
    logger.info(
        "look",
        extra={
            "node": instance_id,
            "reasons": sorted({s.reason for s in why}),
            "events": sorted({s.event_id for s in why if s.event_id}),
            "state": ran.view.instance.state if ran else "",
            "revision": ran.view.record.revision if ran and ran.view.record else 0,
            "plan": [str(c) for c in (ran.planned or ())] if ran else [],
            "calls": ran.made if ran else [],
            "outcome": outcome,
        },
    )
