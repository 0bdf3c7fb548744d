"""An instance that waits in a launch hook of its Auto Scaling group: after each look it is told on, or told to wait."""

from __future__ import annotations

from berth.contract import Record
from berth.converge import Convergence
from berth.hooks import WORKING_SECONDS, Hook
from berth.model import NodeView
from berth.plan import Plan
from berth.records import usable_addresses
from berth.visit import Visit

__all__ = ["serve_hook"]


def serve_hook(visit: Visit, done: Convergence, record: Record, last: Plan) -> str:
    """Complete the launch hook of a node that is ready, keep that of one that is worked upon.

    ``record`` has been written. Returns why the node must be looked at again for it, "" if it need not be. A hook gets
    no ABANDON from here, whatever goes wrong: without heartbeats it runs into its own time-out.
    """
    hook, since = _waits_in(visit, done.view)
    if hook is None:
        return ""
    instance, edges = done.view.instance, visit.edges
    if _is_ready(done, record, last):
        if not edges.hooks.complete(hook, instance.id):
            return "the launch hook could not be completed"
        visit.counts["HooksCompleted"] += 1
        visit.hooked.add(instance.id)
        if done.view.notes.hook_name:
            edges.store.unhook(instance.arn, since)
    elif (done.again or last.waiting) and edges.clock() - since < WORKING_SECONDS:
        visit.counts["HookHeartbeats"] += edges.hooks.heartbeat(hook, instance.id)
    return ""


def _waits_in(visit: Visit, view: NodeView) -> tuple[Hook | None, float]:
    """The hook and since when, as noted; on the first look at a node as the event says that caused it."""
    notes, id_ = view.notes, view.instance.id
    if notes.hook_name:
        return Hook(notes.hook_group, notes.hook_name), notes.hook_at
    if id_ in visit.hooked:
        return None, 0.0
    told = max(
        (s for s in visit.signals if s.instance_id == id_ and s.hook_name), key=lambda s: s.hook_at, default=None
    )
    return (Hook(told.hook_group, told.hook_name), told.hook_at) if told else (None, 0.0)


def _is_ready(done: Convergence, record: Record, last: Plan) -> bool:
    """The record lists addresses, and all that the node can have now: nothing is left to call, to wait for, to attach.

    One address would do for the node to become Ready; but whoever gives a group a hook and its nodes a minimum wants
    the one to wait for the other, and the instance boots while it waits. Demand that cannot be met holds nothing up.
    """
    view = done.view
    unfinished = done.again or last.calls or view.setbacks.refused
    # while it is pending the planner plans no attachment yet
    to_attach = view.instance.state == "pending" and any(
        i.attachment is None and i.zone == view.instance.zone for i in view.ours
    )
    return usable_addresses(record) > 0 and not unfinished and not to_attach
