"""The planner's part for pods that ask for security groups, each of which gets an interface of its own. Pure.

An instance type's interfaces are shared by the pool and by such pods: what either takes the other has not. Interfaces
that are there are attached first, those of pods before the pool's; then pods get new ones before the pool grows, since
they wait and nothing else can serve them. The pool never gives an interface back while its node runs, so a pod that
finds none left is told so; ``berth:pod-interfaces`` keeps some free for pods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from berth.calls import Attach, Call, CreateInterface, DeleteInterface, Detach, SetGroups
from berth.contract import PodGrant
from berth.growth import usable_subnets
from berth.model import InterfaceView, Limits, NodePolicy, NodeView, SubnetView
from berth.own_interfaces import asks_of, for_itself, groups_of, kept, loose
from berth.positions import HELD, adoptable, attachments, free_positions

__all__ = ["PodsOwn", "grants", "pods_own"]

_REFUSED: Final = "EC2 refused to create an interface"
_MOST_REFUSALS: Final = 3
"""After so many in one look the next pod's would fare no better, and each costs a call."""
_NO_SUBNET: Final = "no subnet tagged berth:allowed in this zone has free addresses"


@dataclass(frozen=True, slots=True)
class PodsOwn:
    """``attach`` and ``create`` bring pods their interfaces. ``places`` of those that are free the pool leaves to them.
    ``tidy`` mends groups and takes back what no pod asks for; ``waiting`` says what EC2 has to do first for that."""

    attach: tuple[Attach, ...] = ()
    create: tuple[CreateInterface, ...] = ()
    tidy: tuple[Call, ...] = ()
    places: int = 0
    waiting: str = ""


def pods_own(view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView]) -> PodsOwn:
    """What pods' own interfaces need."""
    if not any(i.pod for i in view.interfaces) and not for_itself(view):
        return PodsOwn(places=policy.pod_interfaces)  # nearly every node
    running = view.instance.state == "running"
    waiting = loose(view) if view.instance.state in ("running", "stopped") else []  # pods hibernate with their node
    places = free_positions(view, limits)
    attach = [Attach(i.id, index, card) for i, (card, index) in zip(waiting, places, strict=False)]
    create = _create(view, policy, limits, subnets) if running else []
    gone, why = _let_go(view)
    return PodsOwn(
        attach=tuple(attach),
        create=tuple(create),
        tidy=(*_mend(view, policy), *gone),
        places=len(loose(view)) + max(len(create), policy.pod_interfaces - sum(bool(i.pod) for i in view.ours)),
        waiting=why,
    )


# ------------------------------------------------------------------------------------------------------- bringing


def _create(view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView]) -> list[CreateInterface]:
    found = _subnets(view, policy, subnets)
    if view.setbacks.no_create or not found or len(view.setbacks.pods) >= _MOST_REFUSALS:
        return []
    room = _room(view, limits)
    served = {*kept(view), *dict(view.setbacks.pods)}
    unserved = [r for r in for_itself(view).values() if r.id not in served]
    able = [(r, groups) for r in unserved if (groups := groups_of(r, policy.pod_groups, view.allowed_groups)[0])]
    # an address of the internet works behind an internet gateway alone, which nodes in public subnets have
    near = next((s for s in found if s.id == view.instance.subnet_id), found[0])
    return [
        CreateInterface((near if r.public else found[0]).id, groups, pod=r.id, pod_asks=asks_of(r))
        for r, groups in able[:room]
    ]


def _subnets(view: NodeView, policy: NodePolicy, subnets: Sequence[SubnetView]) -> list[SubnetView]:
    """Those with room, the one with the most first."""
    usable = usable_subnets(view, policy, subnets)
    return [s for s in usable if s.free > 0 and s.id not in view.setbacks.exhausted]


def _room(view: NodeView, limits: Limits) -> int:
    """Places for interfaces that are still to be made."""
    return len(free_positions(view, limits)) - len(loose(view)) - len(adoptable(view, limits))


# ---------------------------------------------------------------------------------------------- mending, taking back


def _mend(view: NodeView, policy: NodePolicy) -> list[SetGroups]:
    """The groups that each pod asked for, as the stack has them now. What it may not have now is left as it is."""
    wanted, found = for_itself(view), list[SetGroups]()
    for name, interface in kept(view).items():
        groups, _ = groups_of(wanted[name], policy.pod_groups, view.allowed_groups, interface.pod_asks)
        if groups and tuple(sorted(interface.groups)) != groups and _held(interface):
            found.append(SetGroups(interface.id, groups))
    return found


def _let_go(view: NodeView) -> tuple[list[Call], str]:
    """Detached and deleted at once is what no pod of the newest report has. Without a report nobody knows."""
    if view.report is None:
        return [], ""
    keep = {i.id for i in kept(view).values()}
    calls, waiting = list[Call](), ""
    for interface in (i for i in view.ours if i.pod and i.id not in keep):
        at = interface.attachment
        if at is None:
            calls.append(DeleteInterface(interface.id))
        elif at.status == "attached":
            calls.append(Detach(interface.id, at.id))
        else:
            waiting = f"EC2 is {at.status} {interface.id}, whose pod is gone"
    return calls, waiting


def _held(interface: InterfaceView) -> bool:
    return interface.attachment is not None and interface.attachment.status in HELD


# --------------------------------------------------------------------------------------------------------- telling


def grants(view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView]) -> tuple[PodGrant, ...]:
    """What the record answers to the requests for groups, in their order.

    Why EC2 refused is known only during the look that asked it, so such an answer stands until there is another.
    """
    wanted, mine = for_itself(view), kept(view)
    before = {g.id: g for g in view.record.grants} if view.record else {}
    told = list[PodGrant]()
    left = _room(view, limits) if wanted else 0
    for name, request in wanted.items():
        interface = mine.get(name)
        asked = interface.pod_asks if interface else ""
        groups, problem = groups_of(request, policy.pod_groups, view.allowed_groups, asked)
        if interface is not None:
            # a pod that has its interface and not what it asked for is told, but for what nobody remembers
            problem = problem if request.groups else ""
            listed = interface.id if _held(interface) else ""
            told += [PodGrant(name, interface_id=listed, problem=problem)] if listed or problem else []
            continue
        left -= bool(groups)
        if not problem:
            room = bool(_subnets(view, policy, subnets))
            problem = _full(view, limits) if left < 0 else _refusal(view, before.get(name), name, room=room)
        if problem:
            told.append(PodGrant(name, problem=problem))
    return tuple(told)


def _full(view: NodeView, limits: Limits) -> str:
    own = sum(bool(i.pod) for i in view.ours)
    others = len(attachments(view)) - own
    return (
        f"no interface slot is free: {view.instance.type} allows {limits.interfaces}, of which {own} are pods' own and "
        f"{others} serve all pods or are others'; use a larger type, or keep slots with the tag berth:pod-interfaces"
    )


def _refusal(view: NodeView, before: PodGrant | None, name: str, *, room: bool) -> str:
    if name in (told := dict(view.setbacks.pods)):
        return f"{_REFUSED}: {told[name]}"
    if len(told) >= _MOST_REFUSALS:
        return f"{_REFUSED} to {len(told)} pods of the node, this one was not tried: {view.setbacks.pods[-1][1]}"
    if view.setbacks.no_create:
        return _REFUSED
    if not room:
        return _NO_SUBNET
    fixed = before.problem if before is not None else ""
    return fixed if fixed.startswith((_REFUSED, _NO_SUBNET)) else ""
