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

from berth.converge import SPARE_SECONDS
from berth.edges import Edges
from berth.events import Signal
from berth.hooks import only_ours
from berth.idle import settle_idle
from berth.look import Look
from berth.trail import log_look

__all__ = ["LEASE_SLACK_SECONDS", "ROUNDS", "RunResult", "reconcile"]

logger = logging.getLogger(__name__)

LEASE_SLACK_SECONDS: Final = 30.0
"""A lease outlives the invocation's deadline by this much: a holder can then never outlive its lease."""
ROUNDS: Final = 3
_HOOK_SECONDS: Final = 3
"""Until the function that writes a node's first record is done."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """``failed`` nodes and why: their messages go back to the queue. ``counts`` are for metrics."""

    failed: dict[str, Exception] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def reconcile(edges: Edges, signals: Iterable[Signal], seconds: float) -> RunResult:
    """Look at every node that is signalled. ``seconds`` is what is left of the invocation."""
    wanted = [only_ours(s, edges.settings.launch_hook) for s in signals]
    deadline = edges.clock() + seconds
    look = Look(edges, deadline, wanted)
    unheard = _remember(edges, wanted)
    holder, mine = edges.token(), list[str]()
    try:
        for instance_id in sorted({s.instance_id for s in wanted}):
            mine.append(instance_id)  # first: a request that no answer came to may have taken it, and it is let go of
            if not _take(edges, look, instance_id, holder, deadline + LEASE_SLACK_SECONDS):
                mine.remove(instance_id)
        seen, knocked = dict.fromkeys(mine, 0), list[str]()

        def done(instance_id: str) -> None:
            if _let_go(edges, look, instance_id, holder, seen):
                knocked.append(instance_id)

        for again in range(ROUNDS):
            if mine and not (again and edges.clock() > deadline - SPARE_SECONDS):
                knocked.clear()
                idle = settle_idle(edges, wanted, mine) if not again else frozenset()
                for instance_id in idle:
                    done(instance_id)
                    log_look(instance_id, wanted, "nothing is left to see to")
                if len(idle) < len(mine):
                    look.at([i for i in mine if i not in idle], done)
                unheard = _remember_now(edges, look, unheard)
                mine = [*knocked]
        _come_again(edges, look, [s for s in unheard if s.instance_id not in seen or s.instance_id in look.postponed])
        _refuse(look, [s for s in unheard if s.instance_id in seen and s.instance_id not in look.postponed])
        if mine:
            # somebody keeps knocking: with a fresh message the other nodes of this batch can finish
            edges.looks.ask(mine, "knocked while busy", 1)
    finally:
        for instance_id in mine:
            edges.store.release(edges.settings.arn(instance_id), holder, None)
        look.counts["EventsNotSent"] += edges.bus.send(look.events)
    return RunResult(failed=look.failed, counts=look.counts)


def _remember(edges: Edges, signals: Iterable[Signal]) -> list[Signal]:
    """Keep what EC2 cannot be asked about, before the lease: whoever holds it must see it.

    Returns what could not be kept: the node has no record (yet), or a later request is known.
    """
    return [s for s in signals if s.has_hints and not edges.store.hint(edges.settings.arn(s.instance_id), s)]


def _remember_now(edges: Edges, look: Look, unheard: list[Signal]) -> list[Signal]:
    """Keep what came before its node's first look; the node is looked at again for it, which is rare.

    Not for a launch hook: that first look knew it, and has seen to the next one.
    """
    left = _remember(edges, [s for s in unheard if not (s.hook_name and s.instance_id in look.hooked)])
    heard = sorted({s.instance_id for s in unheard if s not in left and not s.hook_name} - look.failed.keys())
    if heard:
        edges.looks.ask(heard, "capacity requested")
    return left


def _come_again(edges: Edges, look: Look, unheard: list[Signal]) -> None:
    """Somebody else may just be writing the first record of these nodes: their messages are to come again.

    A launch hook has no time to wait for that: it goes into a message of its own, unless it has gone along with one.
    """
    for s in unheard:
        if s.hook_name and s.instance_id in look.postponed:
            continue
        if s.hook_name:
            edges.looks.ask([s.instance_id], s.reason, _HOOK_SECONDS, (s.hook_group, s.hook_name, s.hook_at))
            continue
        look.failed.setdefault(
            s.instance_id, BlockingIOError(f"{s.instance_id}: no record to note {s.reason!r} in yet")
        )


def _refuse(look: Look, unheard: list[Signal]) -> None:
    """Say which requests were not granted: their sender gets no answer."""
    for s in [s for s in unheard if s.requested_until > 0 and s.instance_id not in look.failed]:
        look.counts["CapacityRequestsRefused"] += 1
        logger.warning(
            "capacity request refused: the instance is no node of ours, or a later request is known",
            extra={"node": s.instance_id, "event": s.event_id, "addresses": s.requested},
        )


def _take(edges: Edges, look: Look, instance_id: str, holder: str, until: float) -> bool:
    try:
        taken = edges.store.take(edges.settings.arn(instance_id), holder, edges.clock(), until)
    except TimeoutError as error:
        look.failed[instance_id] = error
        return False
    look.counts["LeasesBusy"] += not taken
    if not taken:
        log_look(instance_id, look.signals, "left to the holder of its lease, who has been told")
    return taken


def _let_go(edges: Edges, look: Look, instance_id: str, holder: str, seen: dict[str, int]) -> bool:
    """Release the lease of what is done. True: somebody knocked meanwhile, so it is still held, to look again."""
    failed = instance_id in look.failed
    knocks = edges.store.release(edges.settings.arn(instance_id), holder, None if failed else seen[instance_id])
    if knocks is None or failed:
        return False
    seen[instance_id] = knocks
    look.counts["LooksRepeated"] += 1
    return True
