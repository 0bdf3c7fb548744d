"""The planner against brute force: no plan with fewer mutating calls reaches the target.

What counts as one mutating call: each request that changes EC2. So a new interface counts three (create, attach,
DeleteOnTermination), also on a pending node, where the last two come later; more addresses on an interface count one.
What a node's own unattached interfaces and unfinished settings need (attach, DeleteOnTermination, groups) is no choice
and counts for both sides.

Brute force knows what the planner can know: the room on each interface and card, and the free addresses of each subnet.
Prefixes come from ranges that no count tells of, so free addresses bound single ones and primary ones alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from berth.calls import AssignIpv6Prefixes, CreateInterface
from berth.contract import IpFamilies, address_count
from berth.model import Attachment, InterfaceView, Limits, NodePolicy, NodeView, Setbacks, SubnetView
from berth.plan import plan, planner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.control.plan_world import World, carry_out
from tests.unit.control.test_plan import GROUP, INSTANCE, NODE, NOW, report, rules, view

OTHER_GROUP = "sg-22222222"


@dataclass(frozen=True)
class Case:
    view: NodeView
    policy: NodePolicy
    limits: Limits
    subnets: tuple[SubnetView, ...]


@st.composite
def cases(draw: st.DrawFn, most_free: int = 9) -> Case:
    """Nodes of tiny types: one or two cards, one or two blocks on an interface, subnets with little room."""
    cards = draw(st.sampled_from([((0, 3),), ((0, 2), (1, 1)), ((0, 1), (1, 2)), ((0, 2),), ((0, 4),)]))
    limits = Limits(
        interfaces=draw(st.sampled_from([sum(n for _, n in cards), sum(n for _, n in cards) - 1])) or 1,
        addresses_per_interface=draw(st.sampled_from([2, 3, 4])),
        cards=cards,
        prefixes=draw(st.sampled_from([True, True, False])),
        ipv6=True,
    )
    subnets = tuple(
        SubnetView(f"subnet-{n}", f"10.{n}.0.0/24", "vpc-1", zone, free, allowed, (), routed, ipv6)
        for n, zone, free, allowed, routed, ipv6 in zip(
            "abc",
            ("az-a", "az-a", draw(st.sampled_from(["az-a", "az-b"]))),
            draw(st.lists(st.integers(0, most_free), min_size=3, max_size=3)),
            draw(st.lists(st.sampled_from([True, True, False]), min_size=3, max_size=3)),
            (True, True, draw(st.booleans())),
            draw(st.lists(st.booleans(), min_size=3, max_size=3)),
            strict=True,
        )
    )
    interfaces = draw(_interfaces(limits, len(subnets)))
    mode = draw(st.sampled_from(["prefixes", "addresses"]))
    held = sum(address_count(b) for i in interfaces for b in i.blocks)
    # in use all that there is, and so many wait that a few calls may just do
    waiting = draw(st.integers(0, 8 if mode == "addresses" else 80))
    made = view(
        *interfaces,
        report=draw(
            st.sampled_from([None, report(in_use=held, waiting=waiting), report(in_use=held, waiting=waiting)])
        ),
        setbacks=Setbacks(fragmented=frozenset(draw(st.sets(st.sampled_from([s.id for s in subnets]), max_size=2)))),
        instance=replace(INSTANCE, state=draw(st.sampled_from(["running", "running", "pending"]))),
        allowed_groups=frozenset({GROUP, OTHER_GROUP}),
    )
    policy = rules(
        mode,
        warm=draw(st.integers(0, 2)),
        minimum=draw(st.sampled_from([0, 0, 17, 40])),
        max_pods=draw(st.sampled_from([4, 250, 250])),
    )
    families: IpFamilies = draw(st.sampled_from(["ipv4", "ipv4", "dual"]))
    policy = replace(policy, policy=replace(policy.policy, ip_families=families))
    return Case(made, policy, limits, subnets)


@st.composite
def _interfaces(draw: st.DrawFn, limits: Limits, subnets: int) -> list[InterfaceView]:
    """The primary, others attached at free places (ours or foreign), and unattached ones of ours."""
    found = [_interface(draw, limits, 0, Attachment("attach-0", NODE, 0, 0, "attached", True), "subnet-a", False)]
    places = [(card, n) for card, most in limits.cards for n in range(most) if (card, n) != (0, 0)]
    for number, (card, index) in enumerate(places, 1):
        if len(found) < limits.interfaces and draw(st.booleans()):
            at = Attachment(f"attach-{number}", NODE, index, card, "attached", draw(st.booleans()))
            name = f"subnet-{draw(st.sampled_from('abc'[:subnets]))}"
            found.append(_interface(draw, limits, number, at, name, draw(st.booleans())))
    for number in range(10, 10 + draw(st.sampled_from([0, 0, 1, 2]))):
        found.append(_interface(draw, limits, number, None, "subnet-a", True))
    return found


def _interface(
    draw: st.DrawFn, limits: Limits, number: int, at: Attachment | None, subnet: str, ours: bool
) -> InterfaceView:
    room = limits.addresses_per_interface - 1
    prefixes = draw(st.integers(0, room)) if limits.prefixes else 0
    singles = draw(st.integers(0, room - prefixes))
    return InterfaceView(
        id=f"eni-{number}",
        mac=f"06:00:00:00:00:{number:02x}",
        subnet_id=subnet,
        vpc_id="vpc-1",
        zone="az-a",
        primary_address=f"10.9.{number}.250",
        prefixes=tuple(f"10.9.{number}.{16 * n}/28" for n in range(prefixes)),
        addresses=tuple(f"10.9.{number}.{200 + n}" for n in range(singles)),
        groups=(draw(st.sampled_from([GROUP, GROUP, OTHER_GROUP])) if ours else GROUP,),
        attachment=at,
        cluster="demo" if ours else None,
        node=NODE if ours else None,
        created_at=NOW - 30 if ours else None,
    )


# ------------------------------------------------------------------------------------------------- brute force


@dataclass(frozen=True)
class Start:
    """Where both sides begin: what is the node's, what it lacks, what it still takes."""

    mine: list[InterfaceView]
    wanted: int
    places: int
    fixed_calls: int


def start(case: Case) -> Start:
    v, limits = case.view, case.limits
    here = [i for i in v.interfaces if i.attachment]
    on_card = Counter(i.attachment.network_card for i in here if i.attachment)
    places = min(limits.interfaces - len(here), sum(max(most - on_card[card], 0) for card, most in limits.cards))
    loose = sorted(
        (i for i in v.interfaces if i.attachment is None), key=lambda i: (-sum(map(address_count, i.blocks)), i.id)
    )
    adopted = loose[: max(places, 0)]
    attached_ours = [i for i in here if i.node == NODE]
    mine = [v.interfaces[0], *attached_ours, *adopted]
    running = v.instance.state == "running"
    fixed = sum(i.groups != (GROUP,) for i in (*attached_ours, *adopted))
    if running:
        fixed += 2 * len(adopted)
        fixed += sum(not i.attachment.delete_on_termination for i in attached_ours if i.attachment)
    p, r = case.policy.policy, v.report
    supply = sum(address_count(b) for i in mine for b in i.blocks)
    need = r.in_use + len(r.waiting) if r else 0
    target = max(min(p.max_pods, need + p.warm_addresses), min(p.max_pods, max(p.minimum_addresses, 1)))
    return Start(mine, max(target - supply, 0), places - len(adopted), fixed)


def reachable(case: Case, begin: Start, most_calls: float) -> Iterator[tuple[int, int, int]]:
    """(calls, new interfaces, addresses) of all that can be done with up to ``most_calls``, in every amount."""
    room = case.limits.addresses_per_interface
    fresh = [s for s in case.subnets if s.allowed and s.routed and s.zone == "az-a"]
    free = {s.id: s.free for s in case.subnets}
    hosts = [(i.subnet_id, room - i.slots) for i in begin.mine if i.slots < room]

    def amounts(subnet: str, most: int) -> Iterator[tuple[int, int]]:
        """(addresses taken from the count, addresses brought) of one call."""
        yield from ((n, n) for n in range(1, min(most, free[subnet]) + 1))
        prefixes = case.policy.policy.mode == "prefixes" and case.limits.prefixes
        if prefixes and subnet not in case.view.setbacks.fragmented:
            yield from ((0, 16 * n) for n in range(1, most + 1))

    def fresh_from(at: int, left: int, calls: int, new: int, brought: int) -> Iterator[tuple[int, int, int]]:
        yield calls, new, brought
        if not left or calls + 3 > most_calls:
            return
        for index in range(at, len(fresh)):
            name = fresh[index].id
            if free[name] < 1:
                continue
            free[name] -= 1
            for taken, more in list(amounts(name, room - 1)):
                free[name] -= taken
                yield from fresh_from(index, left - 1, calls + 3, new + 1, brought + more)
                free[name] += taken
            free[name] += 1

    def host_from(at: int, calls: int, brought: int) -> Iterator[tuple[int, int, int]]:
        if at == len(hosts):
            yield from fresh_from(0, max(begin.places, 0), calls, 0, brought)
            return
        yield from host_from(at + 1, calls, brought)
        name, most = hosts[at]
        if calls + 1 > most_calls:
            return
        for taken, more in list(amounts(name, most)):
            free[name] -= taken
            yield from host_from(at + 1, calls + 1, brought + more)
            free[name] += taken

    yield from host_from(0, 0, 0)


def cost(case: Case, world: World, begin: Start) -> tuple[int, int]:
    """(calls, new interfaces) of what was carried out, as both sides count them."""
    new = sum(isinstance(c, CreateInterface) for c in world.made)
    for_ipv6 = sum(isinstance(c, AssignIpv6Prefixes) for c in world.made)
    later = 2 * new if case.view.instance.state == "pending" else 0
    return len(world.made) - begin.fixed_calls - for_ipv6 + later, new


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(cases())
def test_no_plan_with_fewer_calls_reaches_the_target(case: Case) -> None:
    begin = start(case)
    world, last = carry_out(case.view, case.policy, case.limits, case.subnets)
    calls, new = cost(case, world, begin)
    assert begin.wanted - _brought(world, begin) <= last.unmet
    if last.unmet == 0:
        others = [(c, n) for c, n, brought in reachable(case, begin, calls) if brought >= begin.wanted]
        assert min(others) == (calls, new), "fewest calls, then fewest interfaces"
        return
    everything = list(reachable(case, begin, math.inf))
    most = max(brought for _, _, brought in everything)
    assert most < begin.wanted, "it gave up where there was a way"
    assert last.unmet == begin.wanted - most, "the smallest shortage"
    assert last.reason
    assert min((c, n) for c, n, brought in everything if brought == most) == (calls, new)


def _brought(world: World, begin: Start) -> int:
    ids = {i.id for i in begin.mine}
    made = (i for i in world.view.managed if i.id in ids or i.id.startswith("eni-new"))
    return sum(address_count(b) for i in made for b in i.blocks) - sum(
        address_count(b) for i in begin.mine for b in i.blocks
    )


@settings(max_examples=150, deadline=None)
@given(cases(most_free=40))
def test_the_plan_of_a_whole_look_comes_to_the_same_with_its_own_count_of_free_addresses(case: Case) -> None:
    """The shell counts a subnet once in a look and takes off what its own calls have taken."""
    expected, _ = carry_out(case.view, case.policy, case.limits, case.subnets)
    world = World(case.view, case.limits, case.subnets)
    planned = planner(case.policy, case.limits, case.subnets)
    while calls := planned(world.view).calls:
        world.make(calls[0])
        world.settle()
    assert [type(c) for c in world.made] == [type(c) for c in expected.made]


@settings(max_examples=200, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_of_what_it_is_given(case: Case, order: object) -> None:
    shuffle = order.shuffle  # type: ignore[attr-defined]
    interfaces, subnets = list(case.view.interfaces), list(case.subnets)
    shuffle(interfaces)
    shuffle(subnets)
    shuffled = replace(case.view, interfaces=tuple(interfaces))
    limits = replace(case.limits, cards=tuple(reversed(case.limits.cards)))
    assert plan(shuffled, case.policy, limits, subnets) == plan(case.view, case.policy, case.limits, case.subnets)


@pytest.mark.parametrize("mode", ["prefixes", "addresses"])
def test_a_new_interface_is_cheaper_than_four_calls(mode: str) -> None:
    """Five interfaces with room for one block each against one that is made with five."""
    limits = Limits(interfaces=7, addresses_per_interface=6)
    room_for_one = 4 if mode == "prefixes" else 0
    interfaces = [
        InterfaceView(
            id=f"eni-{n}",
            mac=f"06:00:00:00:00:0{n}",
            subnet_id="subnet-a",
            vpc_id="vpc-1",
            zone="az-a",
            primary_address=f"10.0.{n}.250",
            prefixes=tuple(f"10.0.{n}.{16 * k}/28" for k in range(room_for_one)),
            addresses=() if room_for_one else tuple(f"10.0.{n}.{k}" for k in range(4)),
            groups=(GROUP,),
            attachment=Attachment(f"attach-{n}", NODE, n, 0, "attached", True),
            cluster="demo" if n else None,
            node=NODE if n else None,
        )
        for n in range(5)
    ]
    per = 16 if mode == "prefixes" else 1
    subnets = (SubnetView("subnet-a", "10.0.0.0/20", "vpc-1", "az-a", 4000, True),)
    policy = rules(mode, warm=0, minimum=5 * 4 * per + 4 * per, max_pods=1000)
    kind = (4, 0) if mode == "prefixes" else (0, 4)
    assert plan(view(*interfaces), policy, limits, subnets).calls == (CreateInterface("subnet-a", (GROUP,), *kind),)
