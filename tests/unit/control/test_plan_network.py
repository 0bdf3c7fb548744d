"""Where interfaces go, which security groups they have, IPv6, and whose they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth.calls import AssignAddresses, AssignIpv6Prefixes, AssignPrefixes, CreateInterface, SetGroups
from berth.contract import Policy
from berth.growth import usable_subnets
from berth.model import Attachment, Instance, InterfaceView, NodePolicy, NodeView, Setbacks, SubnetView
from berth.plan import plan
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.plan_world import carry_out
from tests.unit.control.test_plan import GROUP, INSTANCE, LIMITS, NODE, SUBNETS, calls, eni, nodes, primary, rules, view

PODS = "sg-22222222"
IPV6 = replace(LIMITS, ipv6=True)
DUAL_SUBNETS = (replace(SUBNETS[0], ipv6=True),)


def subnet(name: str, free: int, **changes: object) -> SubnetView:
    made = SubnetView(f"subnet-{name}", "10.1.0.0/24", "vpc-1", "az-a", free, True)
    return replace(made, **changes)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------- which subnet


def test_among_subnets_the_one_with_the_most_free_addresses_is_chosen() -> None:
    subnets = (subnet("a", 50), subnet("b", 70), subnet("c", 60))
    got = calls(view(primary(4)), rules(minimum=70, max_pods=200), subnets)
    assert got == [CreateInterface("subnet-b", (GROUP,), prefixes=1)]


def test_among_equals_the_instances_own_subnet_is_chosen() -> None:
    subnets = (subnet("0", 50), subnet("a", 50))
    assert [s.id for s in usable_subnets(view(primary()), rules(), subnets)] == ["subnet-a", "subnet-0"]


@pytest.mark.parametrize(
    "lacks",
    [
        {"zone": "az-b"},
        {"vpc_id": "vpc-2"},
        {"allowed": False},
        {"routed": False},
        {"tags": (("pods", "no"),)},
    ],
    ids=str,
)
def test_a_subnet_is_left_out_that_the_node_cannot_reach_or_may_not_use(lacks: dict[str, object]) -> None:
    tagged: tuple[tuple[str, str], ...] = (("pods", "yes"),)
    good, bad = subnet("a", 50, tags=tagged), subnet("b", 70, **{"tags": tagged, **lacks})
    policy = replace(rules(minimum=70, max_pods=200), subnets=("pods", "yes"))
    assert [s.id for s in usable_subnets(view(primary(4)), policy, (good, bad))] == ["subnet-a"]
    got = plan(view(primary(4)), policy, LIMITS, (bad,))
    assert (got.calls, got.unmet) == ((), 6)
    assert got.reason


def test_an_interface_is_made_in_another_subnet_when_the_first_has_no_more_room() -> None:
    subnets = (subnet("a", 4), subnet("b", 3))
    got = calls(view(primary(0, 4)), rules("addresses", minimum=9, warm=0, max_pods=200), subnets)
    assert got == [
        CreateInterface("subnet-a", (GROUP,), addresses=3),
        CreateInterface("subnet-b", (GROUP,), addresses=2),
    ]


def test_prefixes_from_a_subnet_that_has_them_are_fewer_calls_than_single_addresses_from_one_that_has_not() -> None:
    v = view(primary(), setbacks=Setbacks(fragmented=frozenset({"subnet-a"})))
    few, many = rules(warm=4), rules(warm=5)
    subnets = (*SUBNETS, subnet("b", 100))
    assert calls(v, few, subnets) == [AssignAddresses("eni-0", 4)]
    assert calls(v, many, subnets) == [CreateInterface("subnet-b", (GROUP,), prefixes=1)]


# ------------------------------------------------------------------------------------------------ security groups


def test_groups_follow_the_primary_interface() -> None:
    with_pods = replace(primary(1), groups=(PODS, GROUP))
    v = view(with_pods, eni(1, 1, index=1), eni(2, index=2, ours=False), allowed_groups=frozenset({GROUP, PODS}))
    assert calls(v) == [SetGroups("eni-1", (GROUP, PODS))]


def test_groups_of_the_policy_are_set_once_on_each_interface_of_ours_and_never_on_others() -> None:
    v = view(
        primary(1),
        eni(1, 1, index=1),
        eni(2, 1, index=2, groups=(PODS,)),
        eni(3, index=3, ours=False),
        allowed_groups=frozenset({PODS}),
    )
    policy = replace(rules(), groups=(PODS,))
    assert calls(v, policy) == [SetGroups("eni-1", (PODS,))]
    world, _ = carry_out(v, policy, LIMITS, SUBNETS)
    assert world.made == [SetGroups("eni-1", (PODS,))]


def test_groups_that_are_not_allowed_are_not_set() -> None:
    v = view(replace(primary(1), groups=(PODS,)), eni(1, 1, index=1))
    assert calls(v) == []


def test_the_order_of_groups_says_nothing() -> None:
    v = view(
        replace(primary(1), groups=(PODS, GROUP)),
        eni(1, 1, index=1, groups=(GROUP, PODS)),
        allowed_groups=frozenset({GROUP, PODS}),
    )
    assert calls(v) == []


def test_pods_that_wait_come_before_groups_that_changed() -> None:
    v = view(replace(primary(), groups=(PODS,)), eni(1, 1, index=1), allowed_groups=frozenset({PODS}))
    assert calls(v, rules(warm=17)) == [AssignPrefixes("eni-0", 1), SetGroups("eni-1", (PODS,))]


# ------------------------------------------------------------------------------------------------------------ IPv6


def dual(families: str = "dual", **changes: int) -> NodePolicy:
    policy = rules(**changes).policy  # type: ignore[arg-type]
    return NodePolicy(replace(policy, ip_families=families))  # type: ignore[arg-type]


def test_a_dual_stack_node_gets_one_ipv6_prefix_on_each_interface_that_serves_pods() -> None:
    v = view(primary(1), eni(1, 1, index=1), eni(2, 0, index=2), eni(3, 1, index=3, ours=False))
    got = plan(v, dual(), IPV6, DUAL_SUBNETS).calls
    assert got == (AssignIpv6Prefixes("eni-0"), AssignIpv6Prefixes("eni-1"))
    world, last = carry_out(v, dual(), IPV6, DUAL_SUBNETS)
    assert len(world.made) == 2
    assert last.calls == ()


def test_a_new_interface_gets_its_ipv6_prefix_in_the_call_that_makes_it() -> None:
    v = view(replace(primary(4), ipv6_prefixes=("2001:db8::/80",)))
    got = plan(v, dual(minimum=70, max_pods=200), IPV6, DUAL_SUBNETS).calls
    assert got == (CreateInterface("subnet-a", (GROUP,), prefixes=1, ipv6_prefixes=1),)


def test_ipv4_addresses_come_before_ipv6() -> None:
    got = plan(view(primary()), dual(), IPV6, DUAL_SUBNETS).calls
    assert got == (AssignPrefixes("eni-0", 1), AssignIpv6Prefixes("eni-0"))


def test_an_ipv6_node_keeps_the_one_ipv4_address_without_which_it_is_never_ready() -> None:
    policy = dual("ipv6", warm=40, minimum=40)
    assert plan(view(primary()), policy, IPV6, DUAL_SUBNETS).calls == (
        AssignPrefixes("eni-0", 1),
        AssignIpv6Prefixes("eni-0"),
    )


@pytest.mark.parametrize(
    ("families", "limits", "subnets", "back"),
    [
        ("ipv4", IPV6, DUAL_SUBNETS, Setbacks()),
        ("dual", LIMITS, DUAL_SUBNETS, Setbacks()),
        ("dual", IPV6, SUBNETS, Setbacks()),
        ("dual", IPV6, DUAL_SUBNETS, Setbacks(no_ipv6=frozenset({"subnet-a"}))),
    ],
)
def test_there_is_no_ipv6_where_it_is_not_wanted_or_cannot_be_had(
    families: str, limits: object, subnets: tuple[SubnetView, ...], back: Setbacks
) -> None:
    v = view(primary(1), setbacks=back)
    assert plan(v, dual(families), limits, subnets).calls == ()  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- ownership


def moved(cluster: str, served: frozenset[str]) -> NodeView:
    """A node whose instance was tagged for ``cluster`` while its interface says ``demo``."""
    return view(primary(1), eni(1, 1, index=1), cluster=cluster, served=served)


def test_interfaces_of_an_instance_retagged_within_the_stack_stay_the_nodes() -> None:
    v = moved("other", frozenset({"demo", "other"}))
    assert [i.id for i in v.ours] == ["eni-1"]
    assert calls(v) == []


def test_interfaces_tagged_for_a_cluster_of_somebody_else_are_foreign() -> None:
    v = moved("other", frozenset({"other"}))
    assert v.ours == ()
    unprotected = replace(v.interfaces[1], attachment=Attachment("attach-1", NODE, 1))
    full = replace(v, interfaces=(primary(4), unprotected))
    made = plan(full, rules(minimum=200, max_pods=300), LIMITS, SUBNETS)
    assert all(isinstance(c, CreateInterface) for c in made.calls)
    assert len(made.calls) == LIMITS.interfaces - 2, "it takes a place"


def test_blocks_on_an_interface_that_cannot_be_attached_are_no_supply() -> None:
    """Three are attached, so one of the two that wait is one too many: only the fuller one's blocks count."""
    attached = [eni(n, index=n, ours=False) for n in (1, 2)]
    v = view(primary(), *attached, eni(3, 1), eni(4, 2))
    made = plan(v, rules(minimum=64, warm=0, max_pods=200), LIMITS, SUBNETS).calls
    assert AssignPrefixes("eni-0", 2) in made


def test_blocks_on_an_interface_that_somebody_detaches_are_no_supply() -> None:
    going = eni(1, 4, index=1)
    assert going.attachment is not None
    going = replace(going, attachment=replace(going.attachment, status="detaching"))
    made = plan(view(primary(), going), rules(warm=8), LIMITS, SUBNETS)
    assert made.calls == (AssignPrefixes("eni-0", 1),)
    assert made.waiting


@given(nodes(), st.sampled_from(["ipv4", "dual", "ipv6"]))
def test_groups_and_ipv6_of_foreign_interfaces_and_the_groups_of_the_primary_are_never_touched(
    scene: tuple[NodeView, NodePolicy], families: str
) -> None:
    v, policy = scene
    v = replace(v, allowed_groups=frozenset({GROUP, PODS}))
    policy = replace(policy, policy=replace(policy.policy, ip_families=families), groups=(PODS,))  # type: ignore[arg-type]
    made = plan(v, policy, IPV6, DUAL_SUBNETS).calls
    mine = {i.id for i in v.ours}
    assert {c.interface_id for c in made if isinstance(c, SetGroups)} <= mine
    assert {c.interface_id for c in made if isinstance(c, AssignIpv6Prefixes)} <= {*mine, "eni-0"}


def test_an_interface_of_another_instance_is_foreign_whatever_its_tag() -> None:
    stolen = InterfaceView(
        "eni-9", "06:00:00:00:00:09", "subnet-a", "vpc-1", "az-a", "10.0.9.1", cluster="demo", node=NODE,
        attachment=Attachment("attach-9", "i-0123456789abcdef9", 1),
    )  # fmt: skip
    other = Instance("i-0123456789abcdef9", "arn", "running", "m5.large", "subnet-a", "vpc-1", "az-a", 0.0)
    assert view(primary(1), stolen, instance=INSTANCE).ours == ()
    assert view(primary(1), stolen, instance=other).ours == ()
    assert Policy().ip_families == "ipv4"
