"""The shell of ``reconcile_nodes``: takes the leases of a batch, looks, and lets go.

One writer per node: leases are taken first and EC2 is described after. An event for a leased node raises the lease's
``wakeups`` and is done; letting go fails if they moved, and then the holder looks again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from berth.edges import Edges
from berth.events import Signal
from berth.look import Look

__all__ = ["LEASE_SLACK_SECONDS", "ROUNDS", "RunResult", "reconcile"]

logger = logging.getLogger(__name__)

LEASE_SLACK_SECONDS: Final = 30.0
"""A lease outlives the invocation's deadline by this much: a holder can then never outlive its lease."""
ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class RunResult:
    """``failed`` nodes and why: their messages go back to the queue. ``counts`` are for metrics."""

    failed: dict[str, Exception] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def reconcile(edges: Edges, signals: Iterable[Signal], seconds: float) -> RunResult:
    """Look at every node that is signalled. ``seconds`` is what is left of the invocation."""
    wanted = list(signals)
    deadline = edges.clock() + seconds
    look = Look(edges, deadline)
    _remember(edges, wanted)
    holder, mine = edges.token(), list[str]()
    try:
        for instance_id in sorted({s.instance_id for s in wanted}):
            if _take(edges, look, instance_id, holder, deadline + LEASE_SLACK_SECONDS):
                mine.append(instance_id)
        seen = dict.fromkeys(mine, 0)
        for _ in range(ROUNDS):
            if mine:
                look.at(mine)
                mine = _let_go(edges, look, mine, holder, seen)
        if mine:
            # somebody keeps knocking: with a fresh message the other nodes of this batch can finish
            edges.looks.ask(mine, "knocked while busy", 1)
    finally:
        for instance_id in mine:
            edges.store.release(edges.settings.arn(instance_id), holder, None)
        look.counts["EventsNotSent"] += edges.bus.send(look.events)
    return RunResult(failed=look.failed, counts=look.counts)


def _remember(edges: Edges, signals: Iterable[Signal]) -> None:
    """Keep what EC2 cannot be asked about, before the lease: whoever holds it must see it."""
    for s in signals:
        if s.has_hints:
            edges.store.hint(edges.settings.arn(s.instance_id), s.draining_until, s.requested, s.requested_until)


def _take(edges: Edges, look: Look, instance_id: str, holder: str, until: float) -> bool:
    try:
        taken = edges.store.take(edges.settings.arn(instance_id), holder, edges.clock(), until)
    except TimeoutError as error:
        look.failed[instance_id] = error
        return False
    look.counts["LeasesBusy"] += not taken
    return taken


def _let_go(edges: Edges, look: Look, ids: list[str], holder: str, seen: dict[str, int]) -> list[str]:
    """Release what is done. Returns the nodes somebody knocked for meanwhile."""
    knocked: list[str] = []
    for instance_id in ids:
        arn = edges.settings.arn(instance_id)
        if instance_id in look.failed:
            edges.store.release(arn, holder, None)
        elif not edges.store.release(arn, holder, seen[instance_id]):
            seen[instance_id] = edges.store.wakeups(arn)
            knocked.append(instance_id)
            look.counts["LooksRepeated"] += 1
    return knocked
