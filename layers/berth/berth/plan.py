"""The planner: what is, what should be, and the EC2 calls that are still needed. Pure.

:func:`plan` is level-triggered: applied to the outcome of its own calls it plans nothing more. It decides the same
from the same values: every choice is sorted, never taken from a map's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from berth.calls import (
    Attach,
    Call,
    CreateInterface,
    DeleteInterface,
    Detach,
    SetDeleteOnTermination,
    SetGroups,
    Unassign,
)
from berth.contract import address_count
from berth.growth import Growth, grow, grow_ipv6, less_taken, wanted_groups
from berth.model import InterfaceView, Limits, NodePolicy, NodeView, SubnetView
from berth.own_interfaces import for_itself, loose
from berth.pod_interfaces import pods_own
from berth.positions import HELD, adoptable, free_positions, serving
from berth.publics import claimed, public_calls
from berth.shed import shed_blocks, shed_interfaces
from berth.standby_choice import follow_up

__all__ = ["ORPHAN_SECONDS", "Plan", "due_for_release", "plan", "plan_absence", "plan_death", "planner"]

ORPHAN_SECONDS: Final = 600
"""An interface of ours that is attached to nothing is deleted when so long nobody has wanted it: somebody may only just
have detached it by hand, to attach it again. Where no node lives that could want it, its age counts instead."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``calls`` in the order to make them; ``unmet`` addresses are wanted and cannot be had, for ``reason``.

    ``waiting`` says that EC2 has to do something first (a state change, letting go of an interface): look again.
    ``unwanted`` interfaces are attached to nothing and of no use to this node; whoever remembers since when
    (:attr:`~berth.model.Notes.unwanted`) lets a later plan delete them.
    """

    calls: tuple[Call, ...] = ()
    unmet: int = 0
    reason: str = ""
    waiting: str = ""
    unwanted: tuple[str, ...] = ()


def plan(view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView]) -> Plan:
    """The calls that ``view`` still needs.

    Growth comes before all but attaching, so that a waiting pod never waits for a clean-up; what a release makes room
    for is planned once the release is done. A mutating call is one that changes EC2: an interface that is made costs
    three (create, attach, DeleteOnTermination), more addresses on one that is there cost one.
    """
    if view.instance.dead:
        return plan_death(view)
    state = view.instance.state
    own = pods_own(view, policy, limits, subnets)
    settle = [*_protect(view), *own.attach, *_adopt(view, limits)] if state in ("running", "stopped") else []
    growth = Growth()
    ipv6: tuple[Call, ...] = ()
    if state in ("pending", "running") and view.primary is not None:
        growth = grow(view, policy, limits, subnets, own.places)
        ipv6 = grow_ipv6(view, policy, limits, subnets)
    tidy: list[Call] = []
    if state != "stopping":
        in_step = (*_keep_in_step(view, policy, limits), *own.tidy)
        tidy = [*in_step, *_release(view, limits), *shed_interfaces(view, limits)]
    public = public_calls(view) if state in ("running", "stopped") else []
    unwanted = _unwanted(view, limits)
    later, unfinished = follow_up(view) if state in ("running", "stopped") else ([], "")
    wanted = (*settle, *growth.calls, *own.create, *ipv6, *public, *tidy, *_discard(view, unwanted), *later)
    calls = tuple(c for c in wanted if _target(c) not in _refused(view))
    waiting = _waiting(view, growth) or growth.waiting or unfinished or own.waiting
    return Plan(calls, growth.unmet, growth.reason, waiting, unwanted)


def _waiting(view: NodeView, growth: Growth) -> str:
    leaving = [i.id for i in view.ours if i.attachment is not None and i.attachment.status == "detaching"]
    if view.primary is None:
        return "EC2 does not show the primary interface yet"
    needs_more = growth.unmet or view.setbacks.refused or view.claimed or _loose(view)
    if view.instance.state == "pending" and needs_more:
        # one that has all it needs waits for nothing: were its `running` event lost, nobody would miss it
        return "the instance is pending: interfaces are attached once it runs"
    if view.setbacks.refused:
        return "EC2 refused a call in the present state"
    return f"EC2 has not let go of {leaving[0]} yet" if leaving else ""


def _loose(view: NodeView) -> bool:
    return any(i.attachment is None for i in view.ours)


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
    given_back = public_calls(view)
    calls = [c for c in (*given_back, *calls) if _target(c) not in _refused(view)]
    if claimed(view) and not given_back:
        waiting = "Elastic IP addresses of its pods are not given back yet"
    if view.setbacks.refused:
        waiting = "EC2 refused a call in the present state"
    return Plan(calls=tuple(calls), waiting=waiting)


def plan_absence(view: NodeView) -> Plan:
    """Clean up after an instance that EC2 does not show and of which there is no record: what is unattached and old.

    A node with a record is given time to be shown again, with all that it has.
    """
    if view.record is not None:
        return Plan()
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
        if i.id not in view.claimed
        and i.attachment
        and i.attachment.status in HELD
        and not i.attachment.delete_on_termination
    ]


def _adopt(view: NodeView, limits: Limits) -> list[Call]:
    waiting = adoptable(view, limits)
    places = free_positions(view, limits)[len(loose(view)) :] if waiting else []
    return [Attach(i.id, index, card) for i, (card, index) in zip(waiting, places, strict=False)]


def _keep_in_step(view: NodeView, policy: NodePolicy, limits: Limits) -> list[Call]:
    """Security groups of ours as policy has them, or as the primary interface has them now.

    Not with groups that are not allowed, and not in place of such: what is not in Berth's hands is left as it is.
    """
    groups = wanted_groups(view, policy)
    if policy.hold_groups or not groups or not set(groups) <= view.allowed_groups:
        return []
    ours = (i for i in serving(view, limits) if not i.is_primary_of(view.instance.id))
    return [SetGroups(i.id, groups) for i in ours if tuple(sorted(i.groups)) != groups]


def _unwanted(view: NodeView, limits: Limits) -> tuple[str, ...]:
    """Unattached ones of ours that cannot be attached here: too many, too full, or in another zone.

    Pods' own are a report's to judge; before there is one, or in another zone, these are too.
    """
    own = loose(view)
    places = len(free_positions(view, limits)) if own else 0
    wanted = {i.id for i in (*adoptable(view, limits), *own[:places])}
    return tuple(
        i.id
        for i in view.ours
        if i.attachment is None and i.id not in wanted and not (i.pod and view.report and i.pod not in for_itself(view))
    )


def _discard(view: NodeView, unwanted: Sequence[str]) -> list[Call]:
    since = dict(view.notes.unwanted)
    return [DeleteInterface(i) for i in unwanted if view.now - since.get(i, view.now) > ORPHAN_SECONDS]


def _is_old(interface: InterfaceView, view: NodeView) -> bool:
    return view.now - (interface.created_at or 0.0) > ORPHAN_SECONDS


def _release(view: NodeView, limits: Limits) -> list[Call]:
    due = {*due_for_release(view), *shed_blocks(view, limits)}
    calls: list[Call] = []
    for interface in sorted({i for i, _ in due}):
        blocks = sorted(b for i, b in due if i == interface)
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
