"""The planner: what is, what should be, and the EC2 calls that are still needed. Pure.

:func:`plan` is level-triggered: applied to the outcome of its own calls it plans nothing more. It decides the same
from the same values: every choice is sorted, never taken from a map's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from berth.calls import Attach, Call, CreateInterface, DeleteInterface, Detach, SetDeleteOnTermination, Unassign
from berth.contract import address_count
from berth.growth import HELD, grow, indexes_in_use, less_taken, unattached
from berth.model import InterfaceView, Limits, NodePolicy, NodeView, SubnetView

__all__ = ["ORPHAN_SECONDS", "Plan", "due_for_release", "plan", "plan_absence", "plan_death", "planner"]

ORPHAN_SECONDS: Final = 600
"""An interface of ours that nobody wants is deleted at this age: younger ones may be about to be attached."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``calls`` in the order to make them; ``unmet`` addresses are wanted and cannot be had, for ``reason``.

    ``waiting`` says that EC2 has to do something first (a state change, letting go of an interface): look again.
    """

    calls: tuple[Call, ...] = ()
    unmet: int = 0
    reason: str = ""
    waiting: str = ""


def plan(view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView]) -> Plan:
    """The calls that ``view`` still needs.

    Growth comes before release, so that a waiting pod never waits for a clean-up; what a release makes room for is
    planned once the release is done.
    """
    if view.instance.dead:
        return plan_death(view)
    state = view.instance.state
    settle = [*_protect(view), *_adopt(view, limits)] if state in ("running", "stopped") else []
    growth: list[Call] = []
    unmet, reason = 0, ""
    if state in ("pending", "running") and view.primary is not None:
        growth, unmet, reason = grow(view, policy, limits, subnets)
    release = _release(view) if state != "stopping" else []
    calls = tuple(c for c in (*settle, *growth, *release, *_discard(view, limits)) if _target(c) not in _refused(view))
    waiting = ""
    if view.primary is None:
        waiting = "EC2 does not show the primary interface yet"
    elif state == "pending":
        waiting = "the instance is pending: interfaces are attached once it runs"
    elif view.setbacks.refused:
        waiting = "EC2 refused a call in the present state"
    return Plan(calls=calls, unmet=unmet, reason=reason, waiting=waiting)


def plan_death(view: NodeView) -> Plan:
    """Clean up after an instance that will not run again.

    Interfaces with DeleteOnTermination are EC2's to delete, once the instance is terminated: that spares two calls.
    """
    calls: list[Call] = []
    waiting = ""
    for interface in view.ours:
        at = interface.attachment
        if at is None or at.status == "detached":
            calls.append(DeleteInterface(interface.id))
            continue
        waiting = f"EC2 has not let go of {interface.id} yet"
        if at.status == "attached" and not at.delete_on_termination:
            calls.append(Detach(interface.id, at.id))
    calls = [c for c in calls if _target(c) not in _refused(view)]
    if view.setbacks.refused:
        waiting = "EC2 refused a call in the present state"
    return Plan(calls=tuple(calls), waiting=waiting)


def plan_absence(view: NodeView) -> Plan:
    """Clean up after an instance that EC2 does not show: only what is attached to nothing, and old."""
    return Plan(calls=tuple(DeleteInterface(i.id) for i in view.ours if i.attachment is None and _is_old(i, view)))


def due_for_release(view: NodeView) -> tuple[tuple[str, str], ...]:
    """(interface, block) pairs whose release has gone through both phases, or had left the record already.

    A block is due when the record marks it as releasing *and* the last accepted report both acknowledges the revision
    that did so and still lists it. Nothing else is ever unassigned from a living node.
    """
    due = {(i.id, b) for i in view.managed for b in i.blocks if (i.id, b) in view.leaving}
    if view.record is None or view.report is None:
        return tuple(sorted(due))
    marked = dict(view.marked)
    listed = {(s.mac, s.cidr, s.assignment) for s in view.report.surrendered}
    shown = {i.id: i for i in view.managed}
    for interface in view.record.interfaces:
        for a in interface.assignments:
            acknowledged = a.releasing and a.id in marked and view.report.acknowledged_revision >= marked[a.id]
            here = interface.id in shown and a.cidr in shown[interface.id].blocks
            if acknowledged and here and (interface.mac, a.cidr, a.id) in listed:
                due.add((interface.id, a.cidr))
    return tuple(sorted(due))


# ------------------------------------------------------------------------------------------------ settled interfaces


def _target(call: Call) -> str:
    return "" if isinstance(call, CreateInterface) else call.interface_id


def _refused(view: NodeView) -> frozenset[str]:
    return view.setbacks.refused


def _protect(view: NodeView) -> list[Call]:
    """DeleteOnTermination, so that EC2 itself deletes the interface if nobody else comes to it."""
    return [
        SetDeleteOnTermination(i.id, i.attachment.id)
        for i in view.ours
        if i.attachment and i.attachment.status in HELD and not i.attachment.delete_on_termination
    ]


def _adopt(view: NodeView, limits: Limits) -> list[Call]:
    used = indexes_in_use(view, limits)
    calls: list[Call] = []
    for interface in unattached(view):
        free = [n for n in range(1, limits.interfaces) if n not in used]
        if len(used) >= limits.interfaces or not free:
            break
        used.add(free[0])
        calls.append(Attach(interface.id, free[0], limits.network_card))
    return calls


def _discard(view: NodeView, limits: Limits) -> list[Call]:
    """Unattached ones of ours that can never be attached here: too many, or in another zone. Old ones only."""
    room = max(limits.interfaces - len(indexes_in_use(view, limits)), 0)
    wanted = {i.id for i in unattached(view)[:room]}
    return [
        DeleteInterface(i.id) for i in view.ours if i.attachment is None and i.id not in wanted and _is_old(i, view)
    ]


def _is_old(interface: InterfaceView, view: NodeView) -> bool:
    return view.now - (interface.created_at or 0.0) > ORPHAN_SECONDS


def _release(view: NodeView) -> list[Call]:
    due = due_for_release(view)
    calls: list[Call] = []
    for interface in sorted({i for i, _ in due}):
        blocks = [b for i, b in due if i == interface]
        for kind in ([b for b in blocks if address_count(b) > 1], [b for b in blocks if address_count(b) == 1]):
            if kind:
                calls.append(Unassign(interface, tuple(sorted(kind))))
    return calls


def planner(policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView]) -> Callable[[NodeView], Plan]:
    """Plans for one look at a node, in which ``subnets`` were counted once, before the first plan.

    What the look's own calls have assigned since is taken off their free addresses.
    """
    first: list[NodeView] = []

    def planned(view: NodeView) -> Plan:
        if not first:
            first.append(view)
        return plan(view, policy, limits, less_taken(subnets, first[0].interfaces, view.interfaces))

    return planned
