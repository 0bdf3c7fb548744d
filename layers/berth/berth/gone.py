"""A node that died, or that EC2 does not show: cleaned up after, waited for, buried."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from berth.converge import Convergence
from berth.leases import closing_of
from berth.model import Instance, InterfaceView, Notes
from berth.plan import plan_absence, plan_death
from berth.records import tombstone
from berth.store import NodeState
from berth.visit import Visit

__all__ = ["ABSENCE_SECONDS", "TOMBSTONE_SECONDS", "clear"]

logger = logging.getLogger(__name__)

ABSENCE_SECONDS: Final = 600
"""An instance that two describes this far apart leave out is gone; one may be a describe that lags."""
TOMBSTONE_SECONDS: Final = 7 * 86_400


def clear(
    visit: Visit,
    instance_id: str,
    instance: Instance | None,
    cluster: str | None,
    interfaces: tuple[InterfaceView, ...],
    state: NodeState,
) -> str:
    """Clean up after a node. Returns what came of it, in words."""
    edges = visit.edges
    known = state.record is not None and not state.buried
    tagged = (i.cluster for i in interfaces if i.node == instance_id and i.cluster in edges.settings.clusters)
    cluster = cluster or next(tagged, None)
    leftovers = bool(state.report or state.intents or state.slots)
    if cluster is None and not known and not leftovers:
        visit.counts["NotANode"] += 1
        return "gone, and never a node"
    seen_dead = instance is not None
    # a tombstone says that it was confirmed before: what turns up now is the last of it
    confirmed = seen_dead or state.buried or 0 < state.notes.absent_since <= edges.clock() - ABSENCE_SECONDS
    if instance is None:
        instance = Instance(instance_id, edges.settings.arn(instance_id), "terminated", "", "", "", "", 0.0)
    view = visit.view(instance, cluster or "", interfaces, state)
    # what is tagged for an instance that nobody knows is cleaned up by age: there is nowhere to note an absence
    convergence = visit.convergence(view, state, plan_death if confirmed else plan_absence)
    last = visit.run(convergence)
    unread = "its claims of Elastic IP addresses cannot be read" if state.publics and view.publics is None else ""
    waiting = convergence.again or last.waiting or convergence.unborn or unread or _still_stopping(instance, state)
    if confirmed and not waiting:
        # also what a look or a late report has left beside a tombstone: nothing else would ever delete it
        if known or leftovers or convergence.intents or convergence.purse.kept():
            reason = "the node was terminated" if seen_dead else "EC2 does not show the node any more"
            _close_leases(visit, instance.id, state, reason)
            _bury(visit, instance.arn, state)
        return "gone, and nothing is left"
    if known or waiting:
        restless = convergence.restless or bool(last.waiting or convergence.unborn or _still_stopping(instance, state))
        _wait_for_death(visit, convergence, state, waiting, known, restless=restless)
    return f"gone; looking again: {waiting}" if waiting else "not shown; not believed yet"


def _still_stopping(instance: Instance, state: NodeState) -> str:
    """Why a node with leases is not buried yet, else "": while it shuts down its pods stop one by one, for hours if
    they like, and its leases are over when it is terminated."""
    stops = instance.state == "shutting-down" and state.report is not None and state.report.epoch
    return "it is shutting down, and its pods may hold their addresses" if stops else ""


def _close_leases(visit: Visit, instance_id: str, state: NodeState, reason: str) -> None:
    """Before the last report goes, which says until when they were known. One item for all of them.

    Without it the ledger knows less, and says so; a node's end must not wait for that.
    """
    closings = closing_of(instance_id, state.report, visit.edges.clock(), reason)
    try:
        if closings:
            visit.edges.ledger.write((), closings)
    except Exception:
        logger.exception("the node's leases could not be closed in the ledger", extra={"node": instance_id})
        visit.counts["LedgerErrors"] += 1


def _bury(visit: Visit, arn: str, state: NodeState) -> None:
    visit.edges.store.bury(arn, tombstone(arn, state.record), visit.edges.clock() + TOMBSTONE_SECONDS)
    visit.counts["NodesBuried"] += 1


def _wait_for_death(
    visit: Visit, done: Convergence, state: NodeState, waiting: str, known: bool, *, restless: bool
) -> None:
    view, due = done.view, done.due
    if not waiting:
        waiting = "EC2 does not show the instance; looking again before believing it"
    if not known or state.record is None:
        visit.look_again(view.instance.id, Notes(), waiting, due, restless=restless)
        return
    notes = view.notes
    if notes.absent_since == 0.0 and not view.instance.type:
        notes = replace(notes, absent_since=visit.edges.clock())
    new = visit.look_again(view.instance.id, notes, waiting, due, restless=restless)
    if new != view.notes:
        visit.edges.store.save(view.instance.arn, state.record, state.marked, new)
