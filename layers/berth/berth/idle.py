"""Nodes of a batch that need no look: what their messages are about has been seen to since, or is only to be noted.

Looks cost describes, and a launch of thousands of nodes has none to spare.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from berth.edges import Edges
from berth.events import Signal
from berth.ingest import needs_look
from berth.store import NodeState

__all__ = ["settle_idle"]

logger = logging.getLogger(__name__)

_SAME: Final = 0.01
"""Two times this close are the same; they were written as decimal numbers."""


def settle_idle(edges: Edges, signals: Sequence[Signal], ids: Sequence[str]) -> frozenset[str]:
    """Those of ``ids``, whose leases are held, that need no look for ``signals``. Takes note of what is to be noted.

    * A delayed look that we asked for ourselves, when a later look has asked for another one, or for none.
    * The first report of an agent's boot that asks for nothing: the record has to say which boot it was, for an agent
      that loses its files, and no more.
    """
    why = {i: [s for s in signals if s.instance_id == i] for i in ids}
    perhaps = [i for i in ids if all((s.due or s.boot) and not s.has_hints for s in why[i])]
    if not perhaps:
        return frozenset()
    try:
        states = edges.store.load([edges.settings.arn(i) for i in perhaps])
    except TimeoutError:
        return frozenset()  # the look will find the same, and put itself off
    return frozenset(i for i in perhaps if _settled_alone(edges, states[edges.settings.arn(i)], why[i]))


def _settled_alone(edges: Edges, state: NodeState, why: Sequence[Signal]) -> bool:
    """One node's trouble is left to its look, which fails alone."""
    try:
        return _settled(edges, state, why)
    except Exception:
        logger.exception("not settled; the node is looked at", extra={"node": why[0].instance_id})
        return False


def _settled(edges: Edges, state: NodeState, why: Sequence[Signal]) -> bool:
    record, report = state.record, state.report
    if record is None or state.buried or state.broken:
        return False
    if any(s.due and abs(s.due - state.notes.next_look) < _SAME for s in why):
        return False  # the very look that was asked for
    if report is None or report.order.boot <= record.accepted.boot:
        return True  # another look has noted it
    noted = replace(record, accepted=report.order)
    if needs_look(report, replace(state, record=noted), edges.clock()):
        return False
    edges.store.save(noted.instance_arn, noted, state.marked, state.notes)
    return True
