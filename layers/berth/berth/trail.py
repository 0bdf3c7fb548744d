"""What each look at a node leaves in the log: one line, and one for each decision that `berth replay` can make again.

A quiet decision (nothing to do, to miss or to wait for) is logged in full at DEBUG only: steady nodes make two a minute
each, and their views would be most of the log's cost. The line of the look has its short form.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from berth.converge import Convergence
from berth.decision import Recorder, encode, prune
from berth.events import Signal

__all__ = ["log_look"]

logger = logging.getLogger(__name__)


def log_look(instance_id: str, signals: Iterable[Signal], outcome: str, ran: Convergence | None = None) -> None:
    """Say why a node was looked at, what was planned, each call with its answer, and what came of it."""
    why = [s for s in signals if s.instance_id == instance_id]
    about = {
        "node": instance_id,
        "reasons": sorted({s.reason for s in why}),
        "events": sorted({s.event_id for s in why if s.event_id}),
    }
    _log_decisions(about, ran)
    report = ran.view.report if ran else None
    logger.info(
        "look",
        extra={
            **about,
            "state": ran.view.instance.state if ran else "",
            "revision": ran.view.record.revision if ran and ran.view.record else 0,
            "assigned": ran.view.assigned() if ran else 0,
            "in_use": report.in_use if report else 0,
            "waiting": len(report.waiting) if report else 0,
            "plan": [str(c) for c in (ran.planned or ())] if ran else [],
            "calls": ran.made if ran else [],
            "outcome": outcome,
        },
    )


def _log_decisions(about: Mapping[str, object], ran: Convergence | None) -> None:
    recorder = ran.planner if ran else None
    for step, decision in enumerate(recorder.decisions if isinstance(recorder, Recorder) else ()):
        level = logging.DEBUG if decision.quiet else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(level, "decision", extra={**about, "step": step, "decision": encode(prune(decision))})
