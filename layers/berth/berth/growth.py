"""The growing half of the planner: how many addresses are missing, and which calls bring them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from berth.calls import AssignAddresses, AssignPrefixes, Call, CreateInterface
from berth.contract import address_count
from berth.model import PREFIX_SIZE, InterfaceView, Limits, NodePolicy, NodeView, SubnetView

__all__ = ["HELD", "deficit", "grow", "indexes_in_use", "less_taken", "unattached"]

HELD: Final = ("attaching", "attached")


def deficit(view: NodeView, policy: NodePolicy) -> int:
    """Addresses that are missing, before any rounding to prefixes.

    ``need = in_use + waiting``, ``supply = assigned - cooling - surrendered - unusable``, and
    ``max(min(max_pods, need + warm) - supply, min(max_pods, minimum) - (assigned - surrendered), 0)``, where
    ``minimum`` is 1 at the least: a node without any address is never Ready, so no pod would ever come to need one
    (docs/decisions/0003).
    """
    rules, report, notes = policy.policy, view.report, view.notes
    warm, minimum = rules.warm_addresses, rules.minimum_addresses
    if view.now < notes.draining_until:
        warm = minimum = 0
    else:
        minimum = max(minimum, 1)
    minimum = notes.minimum(minimum, view.now)
    assigned = view.assigned()
    need = cooling = surrendered = unusable = 0
    if report is not None:
        here = {b for i in view.managed for b in i.blocks if (i.id, b) not in view.leaving}
        given_back = {s.cidr for s in report.surrendered} & here
        surrendered = sum(map(address_count, given_back))
        unusable = sum(map(address_count, (set(report.unusable) & here) - given_back))
        need, cooling = report.in_use + len(report.waiting), report.cooling
    supply = assigned - cooling - surrendered - unusable
    warm_gap = min(rules.max_pods, need + warm) - supply
    minimum_gap = min(rules.max_pods, minimum) - (assigned - surrendered)
    return max(warm_gap, minimum_gap, 0)


def less_taken(
    subnets: Sequence[SubnetView], before: Iterable[InterfaceView], now: Iterable[InterfaceView]
) -> tuple[SubnetView, ...]:
    """Subnets as they were counted ``before``, less the addresses that interfaces have taken since."""
    return _less(subnets, _held(now) - _held(before))


def _less(subnets: Sequence[SubnetView], taken: Mapping[str, int]) -> tuple[SubnetView, ...]:
    return tuple(replace(s, free=max(0, s.free - taken.get(s.id, 0))) for s in subnets)


def _held(interfaces: Iterable[InterfaceView]) -> Counter[str]:
    """Addresses that interfaces hold, by subnet."""
    held: Counter[str] = Counter()
    for interface in interfaces:
        held[interface.subnet_id] += 1 + sum(map(address_count, interface.blocks))
    return held


def indexes_in_use(view: NodeView, limits: Limits) -> set[int]:
    """Device indexes in use on the card we attach to, foreign interfaces included: they count against the limit."""
    at = (i.attachment for i in view.interfaces)
    return {a.device_index for a in at if a and a.network_card == limits.network_card and _here(a.instance_id, view)}


def _here(instance_id: str, view: NodeView) -> bool:
    return instance_id == view.instance.id


def unattached(view: NodeView) -> list[InterfaceView]:
    """Ours that wait to be attached; those in another zone can never be."""
    return [i for i in view.ours if i.attachment is None and i.zone == view.instance.zone]


@dataclass(frozen=True, slots=True)
class _Host:
    """An interface with room: ``blocks`` more of ``per`` addresses each."""

    interface: InterfaceView
    blocks: int
    per: int

    @property
    def capacity(self) -> int:
        return self.blocks * self.per

    def take(self, wanted: int) -> tuple[Call, int]:
        """The call for as much of ``wanted`` as fits, and how many addresses it brings."""
        count = min(self.blocks, -(-wanted // self.per))
        call = AssignPrefixes if self.per > 1 else AssignAddresses
        return call(self.interface.id, count), count * self.per


def grow(
    view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView]
) -> tuple[list[Call], int, str]:
    missing = deficit(view, policy)
    calls: list[Call] = []
    taken: Counter[str] = Counter()
    for host in _choose(_hosts(view, policy, limits, subnets), missing):
        call, brought = host.take(missing)
        calls.append(call)
        taken[host.interface.subnet_id] += brought
        missing -= brought
        if missing <= 0:
            return calls, 0, ""
    if missing <= 0:
        return calls, 0, ""
    created, missing, reason = _create(view, policy, limits, _less(subnets, taken), missing)
    return calls + created, max(missing, 0), reason


def _per_block(view: NodeView, policy: NodePolicy, limits: Limits, subnet_id: str) -> int:
    prefixes = policy.policy.mode == "prefixes" and limits.prefixes and subnet_id not in view.setbacks.fragmented
    return PREFIX_SIZE if prefixes else 1


def _hosts(view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView]) -> list[_Host]:
    """Interfaces with room, the preferred first: the primary, then the fullest secondary."""
    free = {s.id: s.free for s in subnets}
    hosts: list[_Host] = []
    for interface in view.managed:
        subnet = interface.subnet_id
        # one that is only refused for now keeps its room: what it will hold needs no other interface
        if subnet in view.setbacks.exhausted or interface.id in view.setbacks.full:
            continue
        if interface not in _reachable(view):
            continue
        per = _per_block(view, policy, limits, subnet)
        room = limits.addresses_per_interface - interface.slots
        # AvailableIpAddressCount already leaves out ranges reserved for prefixes, so it bounds single addresses only
        room = min(room, free.get(subnet, room)) if per == 1 else room
        if room > 0:
            hosts.append(_Host(interface, room, per))
    return sorted(hosts, key=lambda h: (not h.interface.is_primary_of(view.instance.id), h.capacity, h.interface.id))


def _reachable(view: NodeView) -> list[InterfaceView]:
    """Interfaces the node has or will have. One that is being detached is left alone."""
    return [
        i
        for i in view.managed
        if (i.attachment is None and i.zone == view.instance.zone)
        or (i.attachment is not None and i.attachment.status in HELD)
    ]


def _choose(hosts: list[_Host], wanted: int) -> list[_Host]:
    """The fewest hosts that hold ``wanted`` together; among those, the preferred ones first. All, if none do."""
    if wanted <= 0:
        return []
    if sum(h.capacity for h in hosts) <= wanted:
        return hosts
    chosen: list[_Host] = []
    rest = list(hosts)
    while wanted > 0:
        others = _fewest(rest, wanted) - 1
        pick = next(h for h in rest if h.capacity + _largest([r for r in rest if r is not h], others) >= wanted)
        chosen.append(pick)
        rest.remove(pick)
        wanted -= pick.capacity
    return chosen


def _largest(hosts: list[_Host], count: int) -> int:
    return sum(sorted((h.capacity for h in hosts), reverse=True)[:count])


def _fewest(hosts: list[_Host], wanted: int) -> int:
    return next(n for n in range(1, len(hosts) + 1) if _largest(hosts, n) >= wanted)


def _create(
    view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView], missing: int
) -> tuple[list[Call], int, str]:
    """New interfaces for ``missing`` addresses, each made with its blocks in one call."""
    groups = policy.groups or (view.primary.groups if view.primary else ())
    if view.setbacks.no_create:
        return [], missing, "EC2 refused to create another interface"
    if not groups or not set(groups) <= view.allowed_groups:
        return [], missing, f"security groups {', '.join(groups) or '(none)'} are not all tagged berth:allowed"
    slots = limits.interfaces - len(indexes_in_use(view, limits)) - len(unattached(view))
    if slots <= 0:
        return [], missing, "the instance type allows no further interface"
    free = {s.id: s.free for s in subnets}
    calls: list[Call] = []
    for _ in range(slots):
        if missing <= 0:
            break
        made = _create_one(view, policy, limits, [s for s in subnets if free[s.id] > 1], free, groups, missing)
        if made is None:
            return calls, missing, "no subnet tagged berth:allowed in this zone has free addresses"
        call, brought = made
        calls.append(call)
        free[call.subnet_id] -= brought + 1
        missing -= brought
    return calls, missing, "the instance type allows no further interface" if missing > 0 else ""


def _create_one(
    view: NodeView,
    policy: NodePolicy,
    limits: Limits,
    subnets: list[SubnetView],
    free: dict[str, int],
    groups: tuple[str, ...],
    missing: int,
) -> tuple[CreateInterface, int] | None:
    usable = [s for s in subnets if s.id not in view.setbacks.exhausted and _selected(s, view, policy)]
    slots = limits.addresses_per_interface - 1
    # the instance's own subnet first, as long as the new interface fits; then the one with the most free addresses
    usable.sort(key=lambda s: (s.id != view.instance.subnet_id or free[s.id] <= missing, -free[s.id], s.id))
    for subnet in usable:
        per = _per_block(view, policy, limits, subnet.id)
        count = min(slots, -(-missing // per))
        # the count of free addresses leaves out ranges reserved for prefixes, so it bounds single addresses only
        count = min(count, free[subnet.id] - 1) if per == 1 else count
        if count > 0:
            kind = {"prefixes": count} if per > 1 else {"addresses": count}
            return CreateInterface(subnet.id, tuple(sorted(groups)), **kind), count * per
    return None


def _selected(subnet: SubnetView, view: NodeView, policy: NodePolicy) -> bool:
    if not subnet.allowed or (subnet.zone, subnet.vpc_id) != (view.instance.zone, view.instance.vpc_id):
        return False
    if policy.subnets is None:
        return True
    key, value = policy.subnets
    tags = dict(subnet.tags)
    return key in tags and value in (None, tags[key])
