"""The growing half of the planner: how many addresses are missing, and which calls bring them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from berth.calls import AssignAddresses, AssignIpv6Prefixes, AssignPrefixes, Call, CreateInterface
from berth.contract import address_count
from berth.model import PREFIX_SIZE, InterfaceView, Limits, NodePolicy, NodeView, SubnetView
from berth.positions import addresses_on, adoptable, free_positions, serving
from berth.publics import lacking_addresses
from berth.sources import Choice, Host, Site, choose
from berth.standby_choice import fitting, with_standby

__all__ = ["Growth", "deficit", "grow", "grow_ipv6", "less_taken", "singles_missing", "usable_subnets", "wanted_groups"]

_UNCOUNTED: Final = 1 << 32
"""Free addresses of a subnet that we were not told of: as many as one likes, EC2 will say."""


@dataclass(frozen=True, slots=True)
class Growth:
    """``calls`` that bring addresses; ``unmet`` ones cannot be had, for ``reason``. ``waiting``: put off, and why."""

    calls: tuple[Call, ...] = ()
    unmet: int = 0
    reason: str = ""
    waiting: str = ""


# ----------------------------------------------------------------------------------------------------- how many


def deficit(view: NodeView, policy: NodePolicy, limits: Limits | None = None) -> int:
    """IPv4 addresses that are missing, before any rounding to prefixes.

    ``need = in_use + waiting``, ``supply = assigned - cooling - surrendered - unusable``, and
    ``max(min(max_pods, need + warm) - supply, min(max_pods, minimum) - (assigned - surrendered), 0)``, where
    ``minimum`` is 1 at the least: a node without any address is never Ready, so no pod would ever come to need one
    (docs/decisions/0003). A spared primary counts nowhere (0024). With the policy ``ipv6`` only that one is kept, and
    what pods ask for (0005).

    Without ``limits`` every interface of ours counts that can ever be attached; with them, those that the type has
    room for.
    """
    rules, report = policy.policy, view.report
    warm, minimum = _kept_ready(view, policy)
    spared = rules.spare_primary
    managed = [i for i in (view.ours if spared else view.managed) if not i.pod]
    mine = serving(view, limits, spare_primary=spared) if limits is not None else managed
    assigned = sum(map(addresses_on, mine)) - _leaving(view, mine)
    need = cooling = surrendered = unusable = 0
    if report is not None:
        here = {b for i in mine for b in i.blocks if (i.id, b) not in view.leaving}
        given_back = {s.cidr for s in report.surrendered} & here
        surrendered = sum(map(address_count, given_back))
        unusable = sum(map(address_count, (set(report.unusable) & here) - given_back))
        need, cooling = report.in_use + len(report.waiting), report.cooling
    supply = assigned - cooling - surrendered - unusable
    warm_gap = min(rules.max_pods, need + warm) - supply
    minimum_gap = min(rules.max_pods, minimum) - (assigned - surrendered)
    return max(warm_gap, minimum_gap, 0)


def _kept_ready(view: NodeView, policy: NodePolicy) -> tuple[int, int]:
    """(warm, minimum) as they are for now."""
    rules, notes = policy.policy, view.notes
    if rules.ip_families == "ipv6":
        return 0, 0 if view.now < notes.draining_until else 1
    if view.now < notes.draining_until:
        return 0, notes.minimum(0, view.now)
    return rules.warm_addresses, notes.minimum(max(rules.minimum_addresses, 1), view.now)


def _leaving(view: NodeView, interfaces: Iterable[InterfaceView]) -> int:
    if not view.leaving:
        return 0
    return sum(address_count(b) for i in interfaces for b in i.blocks if (i.id, b) in view.leaving)


# ------------------------------------------------------------------------------------------------- what there is


def less_taken(
    subnets: Sequence[SubnetView], before: Iterable[InterfaceView], now: Iterable[InterfaceView]
) -> tuple[SubnetView, ...]:
    """Subnets as they were counted ``before``, less the addresses that interfaces have taken since.

    Prefixes alone never bring a count to nothing: whether they came from a range that is reserved for prefixes, and so
    was not in the count, EC2 alone knows.
    """
    before, now = tuple(before), tuple(now)
    single = _held(now, 0) - _held(before, 0)
    taken = _held(now, PREFIX_SIZE) - _held(before, PREFIX_SIZE)
    return tuple(
        replace(s, free=max(s.free - taken[s.id], min(1, s.free - single[s.id]), 0)) if s.id in taken else s
        for s in subnets
    )


def _held(interfaces: Iterable[InterfaceView], per_prefix: int) -> Counter[str]:
    """Addresses that interfaces hold, by subnet, with so many for a prefix."""
    held: Counter[str] = Counter()
    for interface in interfaces:
        held[interface.subnet_id] += 1 + len(interface.addresses) + per_prefix * len(interface.prefixes)
    return held


def usable_subnets(view: NodeView, policy: NodePolicy, subnets: Iterable[SubnetView]) -> list[SubnetView]:
    """Subnets for new interfaces, those with the most free addresses first.

    They are tagged ``berth:allowed``, match the policy's selector if it has one, lie in the instance's zone (EC2
    attaches across subnets but not across zones) and in its VPC, and are routed within it.
    """
    place = (view.instance.zone, view.instance.vpc_id)
    found = [s for s in subnets if s.allowed and s.routed and (s.zone, s.vpc_id) == place and _selected(s, policy)]
    return sorted(found, key=lambda s: (-s.free, s.id != view.instance.subnet_id, s.id))


def _selected(subnet: SubnetView, policy: NodePolicy) -> bool:
    if policy.subnets is None:
        return True
    key, value = policy.subnets
    return any(k == key and value in (None, v) for k, v in subnet.tags)


def wanted_groups(view: NodeView, policy: NodePolicy) -> tuple[str, ...]:
    """The security groups that interfaces of ours are to have: the policy's, else the primary interface's."""
    return tuple(sorted(policy.groups or (view.primary.groups if view.primary else ())))


# ---------------------------------------------------------------------------------------------- where they come from


def grow(
    view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView], pods_own: int = 0
) -> Growth:
    """The fewest calls for what is missing: see :mod:`berth.sources`, and :mod:`berth.standby_choice`.

    ``pods_own`` of the instance's free places are for interfaces that single pods have for themselves.
    """
    alone = _grow_singles(view, policy, limits, subnets, pods_own)
    rest = _grow(view, policy, limits, subnets, pods_own)
    if not alone.calls and not alone.unmet:
        return rest
    return Growth((*alone.calls, *rest.calls), rest.unmet or alone.unmet, rest.reason or alone.reason, rest.waiting)


def _grow_singles(
    view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView], pods_own: int
) -> Growth:
    """Single addresses on a node of prefixes, for pods with a public one (docs/decisions/0026)."""
    missing = singles_missing(view, policy, limits)
    if missing <= 0:
        return Growth()
    single = replace(policy, policy=replace(policy.policy, mode="addresses"))
    usable, most_new, reason = _room_for_new(view, single, limits, subnets, pods_own)
    hosts, sites = _sources(view, single, limits, subnets, usable)
    # whoever wants public pods has launched the node where there is an internet gateway: elsewhere need be none
    own = view.instance.subnet_id
    choice = choose([h for h in hosts if h.site == own], [s for s in sites if s.id == own], most_new, missing)
    if choice.brought < missing:
        choice = choose(hosts, sites, most_new, missing)
    left = max(missing - choice.brought, 0)
    return Growth(_calls(view, single, limits, subnets, choice), left, (reason or _TYPE_IS_FULL) if left else "")


def singles_missing(view: NodeView, policy: NodePolicy, limits: Limits) -> int:
    """How many more single addresses pods wait for which can have no other.

    The report says how many of those that are there are not to be had: lent, cooling, or given up.
    """
    wanting = lacking_addresses(view) if policy.policy.mode == "prefixes" else 0
    if not wanting or view.report is None:
        return 0
    mine = serving(view, limits, spare_primary=policy.policy.spare_primary)
    singles = {f"{a}/32" for i in mine for a in i.addresses if (i.id, f"{a}/32") not in view.leaving}
    unusable = len(singles & set(view.report.unusable))
    return min(wanting, policy.policy.max_pods) - max(len(singles) - view.report.singles_taken - unusable, 0)


def _grow(view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView], pods_own: int) -> Growth:
    missing = deficit(view, policy, limits)
    if missing <= 0:
        return Growth()
    usable, most_new, reason = _room_for_new(view, policy, limits, subnets, pods_own)
    hosts, sites = _sources(view, policy, limits, subnets, usable)
    choice = choose(hosts, sites, most_new, missing)
    calls = _calls(view, policy, limits, subnets, choice)
    fit = _standby(view, policy, limits, subnets, pods_own)
    way = with_standby(view, policy, fit, calls, missing, max(missing - choice.brought, 0))
    if way.left and not reason:
        used_up = len(choice.new) >= most_new
        reason = _TYPE_IS_FULL if used_up else _no_subnet(view, policy, subnets)
    return Growth(way.calls, way.left, reason if way.left else "", way.waiting)


def _places(view: NodeView, limits: Limits, pods_own: int) -> int:
    """Free places that the pool may grow into."""
    return len(free_positions(view, limits)) - len(adoptable(view, limits)) - pods_own


def _standby(
    view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView], pods_own: int
) -> tuple[InterfaceView, ...]:
    """Standby interfaces that can take the place of a new one. They need no free address of their subnet."""
    room = view.standby and _places(view, limits, pods_own) > 0
    if not room or view.setbacks.no_create:
        return ()
    here = frozenset(s.id for s in usable_subnets(view, policy, subnets))
    return fitting(view, policy, limits, here, wanted_groups(view, policy))


def _no_subnet(view: NodeView, policy: NodePolicy, subnets: Sequence[SubnetView]) -> str:
    if usable_subnets(view, policy, subnets):
        return "no subnet tagged berth:allowed in this zone has free addresses"
    return f"no subnet in {view.instance.zone} is tagged berth:allowed"


_TYPE_IS_FULL: Final = "the instance type allows no further interface"


def _room_for_new(
    view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView], pods_own: int
) -> tuple[list[SubnetView], int, str]:
    """Subnets for new interfaces, how many the instance takes, and why there can be none ("": there can)."""
    if view.setbacks.no_create:
        return [], 0, "EC2 refused to create another interface"
    groups = wanted_groups(view, policy)
    if not groups or not set(groups) <= view.allowed_groups:
        return [], 0, f"security groups {', '.join(groups) or '(none)'} are not all tagged berth:allowed"
    most = _places(view, limits, pods_own)
    if most <= 0:
        return [], 0, _TYPE_IS_FULL
    usable = [s for s in usable_subnets(view, policy, subnets) if s.id not in view.setbacks.exhausted]
    return usable, most, "" if usable else _no_subnet(view, policy, subnets)


def _sources(
    view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView], usable: Sequence[SubnetView]
) -> tuple[list[Host], list[Site]]:
    """Interfaces with room, the primary first and then the fullest; and the subnets, the preferred first."""
    with_room: list[tuple[bool, int, InterfaceView]] = []
    for interface in serving(view, limits, spare_primary=policy.policy.spare_primary):
        if interface.attachment is None and interface.id in view.claimed:
            continue  # until it is attached no describe of ours shows it: what was put on it since would not be seen
        # one that is only refused for now keeps its room: what it will hold needs no other interface
        room = limits.addresses_per_interface - interface.slots
        back = view.setbacks
        if room > 0 and interface.id not in back.full and interface.subnet_id not in back.exhausted:
            with_room.append((not interface.is_primary_of(view.instance.id), room, interface))
    hosts = [Host(i.id, i.subnet_id, room) for _, room, i in sorted(with_room, key=lambda x: (*x[:2], x[2].id))]
    free = {s.id: s.free for s in subnets}
    new = limits.addresses_per_interface - 1
    fresh = [Site(s.id, _per_block(view, policy, limits, s.id), s.free, new) for s in usable]
    others = sorted({h.site for h in hosts} - {s.id for s in usable})
    return hosts, fresh + [Site(s, _per_block(view, policy, limits, s), free.get(s, _UNCOUNTED)) for s in others]


def _per_block(view: NodeView, policy: NodePolicy, limits: Limits, subnet_id: str) -> int:
    """Addresses in a block to ask for. A fragmented subnet gives single ones, as long as this look lasts."""
    prefixes = policy.policy.mode == "prefixes" and limits.prefixes and subnet_id not in view.setbacks.fragmented
    return PREFIX_SIZE if prefixes else 1


def _calls(
    view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView], choice: Choice
) -> tuple[Call, ...]:
    calls: list[Call] = []
    for host, count in choice.hosts:
        whole = _per_block(view, policy, limits, host.site) > 1
        calls.append(AssignPrefixes(host.id, count) if whole else AssignAddresses(host.id, count))
    if choice.new:
        groups, ipv6 = wanted_groups(view, policy), _ipv6_subnets(view, policy, limits, subnets)
        for site, count in choice.new:
            prefixes, addresses = (count, 0) if site.per > 1 else (0, count)
            calls.append(CreateInterface(site.id, groups, prefixes, addresses, int(site.id in ipv6)))
    return tuple(calls)


# ------------------------------------------------------------------------------------------------------------ IPv6


def grow_ipv6(
    view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView]
) -> tuple[AssignIpv6Prefixes, ...]:
    """One /80 for the primary, unless it is spared, and each further interface with addresses for pods: 2^48 addresses
    are never too few."""
    usable = _ipv6_subnets(view, policy, limits, subnets)
    if not usable:
        return ()
    return tuple(
        AssignIpv6Prefixes(i.id)
        for i in serving(view, limits, spare_primary=policy.policy.spare_primary)
        if i.subnet_id in usable and not i.ipv6_prefixes and (i.blocks or i.is_primary_of(view.instance.id))
    )


def _ipv6_subnets(view: NodeView, policy: NodePolicy, limits: Limits, subnets: Iterable[SubnetView]) -> frozenset[str]:
    if policy.policy.ip_families == "ipv4" or not limits.ipv6:
        return frozenset()
    return frozenset(s.id for s in subnets if s.ipv6 and s.id not in view.setbacks.no_ipv6)
