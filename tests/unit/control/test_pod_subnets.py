"""A primary interface that serves no pods: it is never counted, never given anything, and gives back what it has."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from berth.calls import (
    AssignAddresses,
    AssignIpv6Prefixes,
    AssignPrefixes,
    Attach,
    ClaimStandby,
    CreateInterface,
    Unassign,
)
from berth.capacity import Demand, Room, fit, need
from berth.capacity import calls as ec2_calls
from berth.cli.template_data import size
from berth.contract import Mode, Order, PodRequest, Policy, Record, Report, Surrender, decode_record, encode_record
from berth.events import Signal
from berth.growth import deficit, singles_missing
from berth.ingest import needs_look
from berth.model import Limits, NodePolicy, PublicAddress, SubnetView
from berth.plan import plan
from berth.policy import parse_policy
from berth.reconcile import reconcile
from berth.records import pod_subnets, usable_addresses
from berth.routes import Route, RouteTable
from berth.store import NodeState
from berth.surroundings import fit_network, lacks_pod_subnet
from hypothesis import given

from tests.unit.control.fakes import ARN, NODE, SUBNET, Scene
from tests.unit.control.plan_world import carry_out
from tests.unit.control.test_plan import (
    GROUP,
    LIMITS,
    SUBNETS,
    eni,
    primary,
    report,
    rules,
    view,
)
from tests.unit.control.test_plan_oracle import Case, cases
from tests.unit.control.test_plan_standby import spare

PODS = SubnetView("subnet-pods", "100.64.1.0/24", "vpc-1", "az-a", 200, True, (("pods", "yes"),))
ELSEWHERE = replace(PODS, id="subnet-b", zone="az-b")
LARGE = Limits(3, 10)


def spared(policy: NodePolicy | None = None) -> NodePolicy:
    policy = policy or rules()
    return replace(policy, policy=replace(policy.policy, spare_primary=True))


# ------------------------------------------------------------------------------------------------------ the planner


def test_a_single_address_of_a_spared_primary_is_none_for_a_pod_that_needs_one() -> None:
    asks = PodRequest("c1/eth0", namespace="default", public="auto")
    free = PublicAddress("eipalloc-1", "203.0.113.1", pool="web")
    v = view(primary(1, singles=1), report=replace(report(), requests=(asks,)), publics=(free,))
    assert singles_missing(v, rules(), LIMITS) == 0
    assert singles_missing(v, spared(), LIMITS) == 1


def test_a_new_node_gets_an_interface_in_a_pod_subnet_and_nothing_on_its_primary() -> None:
    policy = replace(spared(), subnets=("pods", "yes"))
    got = plan(view(primary()), policy, LIMITS, [*SUBNETS, PODS]).calls
    assert got == (CreateInterface("subnet-pods", (GROUP,), prefixes=1),)


def test_more_addresses_come_on_the_interfaces_that_serve_pods() -> None:
    busy = view(primary(), eni(1, 1, index=1), report=report(in_use=16, waiting=2))
    assert plan(busy, spared(), LIMITS, SUBNETS).calls == (AssignPrefixes("eni-1", 1),)


def test_what_the_primary_still_has_is_no_supply() -> None:
    """Its pods go on, so that as much is there for them when they move."""
    assert deficit(view(primary(2), report=report(in_use=5)), spared()) == 13
    assert deficit(view(primary(2), eni(1, 1, index=1), report=report(in_use=5)), spared()) == 0
    assert deficit(view(primary(2)), spared(rules(warm=0))) == 1


def test_with_ipv6_the_primary_gets_no_prefix_of_that_either() -> None:
    dual = spared(NodePolicy(Policy(ip_families="dual")))
    subnets, limits = [replace(PODS, ipv6=True)], replace(LIMITS, ipv6=True)
    assert plan(view(primary()), dual, limits, subnets).calls == (
        CreateInterface("subnet-pods", (GROUP,), prefixes=1, ipv6_prefixes=1),
    )
    bare = view(primary(), eni(1, 1, index=1, subnet_id="subnet-pods"))
    assert plan(bare, dual, limits, subnets).calls == (AssignIpv6Prefixes("eni-1"),)


def test_ipv6_is_asked_of_the_pod_subnets_not_of_the_nodes_own() -> None:
    dual, limits = spared(NodePolicy(Policy(ip_families="dual"))), replace(LIMITS, ipv6=True)
    own = replace(SUBNETS[0], allowed=False)
    fitted = fit_network(dual, view(primary()), limits, [own, replace(PODS, ipv6=True)])
    assert (fitted.policy.ip_families, fitted.problems) == ("dual", ())
    fitted = fit_network(dual, view(primary()), limits, [replace(own, ipv6=True), PODS])
    assert fitted.policy.ip_families == "ipv4"
    assert "subnet-pods has no IPv6 CIDR" in fitted.problems[0].message


def test_a_standby_interface_is_taken_in_a_pod_subnet() -> None:
    policy = replace(spared(), subnets=("pods", "yes"))
    ready = view(primary(), standby=(spare(5, 1), spare(6, 1, subnet_id="subnet-pods")))
    assert plan(ready, policy, LIMITS, [*SUBNETS, PODS]).calls == (ClaimStandby("eni-6"),)


def test_what_the_agent_gives_back_of_the_primary_is_unassigned() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    record = scene.store.record()
    assert record is not None
    given = Surrender(record.interfaces[0].mac, record.interfaces[0].assignments[0].cidr, "")
    scene.ec2.all_instances[NODE] = replace(
        scene.ec2.all_instances[NODE],
        tags=(*scene.ec2.all_instances[NODE].tags, ("berth:primary-serves-pods", "false")),
    )
    look(scene)
    scene.machine.now += 61
    record = scene.store.record()
    assert record is not None
    assert record.policy.spare_primary
    assert [bool(i.assignments) for i in record.interfaces] == [True, True], "nothing is taken, only offered back"
    given = replace(given, assignment=record.interfaces[0].assignments[0].id)
    for sequence in (1, 2, 3):
        scene.store.accept_report(ARN, Report(Order(1, sequence), 99, 0, surrendered=(given,)))
        look(scene)
        scene.machine.now += 61
    assert [c for c in scene.ec2.calls if isinstance(c, Unassign)] == [Unassign(record.interfaces[0].id, (given.cidr,))]
    record = scene.store.record()
    assert record is not None
    assert [bool(i.assignments) for i in record.interfaces] == [False, True]


def look(scene: Scene) -> Counter[str]:
    return reconcile(scene.edges, [Signal(NODE, "test")], 100.0).counts


@given(cases())
def test_no_call_ever_gives_the_primary_anything_and_plans_come_to_an_end(case: Case) -> None:
    world, _ = carry_out(case.view, spared(case.policy), case.limits, case.subnets, check=False)
    first = world.view.primary
    growing = (AssignPrefixes, AssignAddresses, AssignIpv6Prefixes)
    assert first is not None
    assert not [c for c in world.made if isinstance(c, growing) and c.interface_id == first.id]


# ------------------------------------------------------------------------------------------- what is told, and where


def test_a_zone_without_a_pod_subnet_is_reported_and_the_primary_is_not_used_all_the_same() -> None:
    subnets = [replace(SUBNETS[0], allowed=False), ELSEWHERE]
    bare = view(primary())
    assert lacks_pod_subnet(spared(), bare, subnets)
    fitted = fit_network(spared(), bare, LIMITS, subnets)
    (problem,) = fitted.problems
    assert (problem.key, problem.message.partition(";")[0]) == (
        "berth:primary-serves-pods",
        "no subnet in az-a is tagged berth:allowed",
    )
    got = plan(bare, fitted, LIMITS, subnets)
    assert (got.calls, got.unmet) == ((), 8)
    assert got.reason == "no subnet in az-a is tagged berth:allowed"


def test_a_pod_subnet_that_is_full_is_another_reason() -> None:
    got = plan(view(primary()), spared(), LIMITS, [replace(PODS, free=0)])
    assert got.reason == "no subnet tagged berth:allowed in this zone has free addresses"


def test_a_selector_that_finds_nothing_counts_too_and_others_do_not() -> None:
    named = replace(rules(), subnets=("pods", "yes"))
    assert lacks_pod_subnet(named, view(primary()), SUBNETS)
    assert not lacks_pod_subnet(named, view(primary()), [PODS])
    assert not lacks_pod_subnet(rules(), view(primary()), [ELSEWHERE])
    assert not lacks_pod_subnet(spared(), view(primary()), []), "subnets that nobody has described yet are no reason"


def test_nodes_without_a_pod_subnet_are_counted() -> None:
    scene = Scene(Policy(spare_primary=True))
    scene.ec2.launch()
    assert look(scene)["NodesWithoutPodSubnet"] == 0
    scene.ec2.subnets[SUBNET] = replace(scene.ec2.subnets[SUBNET], allowed=False)
    assert look(scene)["NodesWithoutPodSubnet"] == 1


# ----------------------------------------------------------------------------------------------- record and reports


def with_spared() -> tuple[Scene, Record]:
    scene = Scene(Policy(spare_primary=True))
    scene.ec2.launch()
    scene.ec2.add_subnet("subnet-pods", "100.64.1.0/24", pods="yes")
    for _ in range(2):
        look(scene)
        scene.machine.now += 61
    record = scene.store.record()
    assert record is not None
    return scene, record


def test_the_record_says_that_the_primary_serves_no_pods() -> None:
    _, record = with_spared()
    assert decode_record(encode_record(record)) == record
    assert record.policy.spare_primary
    assert [(i.primary, bool(i.assignments)) for i in record.interfaces] == [(True, False), (False, True)]


def test_an_agent_of_another_version_reads_a_record_without_it() -> None:
    _, record = with_spared()
    text = encode_record(record).replace(',"spare_primary":true', "")
    assert "spare_primary" not in text
    assert not decode_record(text).policy.spare_primary


def test_routes_of_the_pod_subnet_alone_decide_who_sees_pods() -> None:
    scene, record = with_spared()
    pods = record.interfaces[1].subnet_id
    assert pod_subnets(record.interfaces) == (pods,)
    office = RouteTable("rtb-1", False, (pods,), (Route(("172.16.0.0/12",), "vgw-1"),))
    scene.ec2.route_tables = (RouteTable("rtb-0", True), office)
    look(scene)
    changed = scene.store.record()
    assert changed is not None
    assert "172.16.0.0/12" in changed.no_snat_cidrs


def test_addresses_that_are_left_on_the_primary_make_no_node_ready() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    record = scene.store.record()
    assert record is not None
    assert usable_addresses(record) == 16
    assert usable_addresses(replace(record, policy=Policy(spare_primary=True))) == 0


def test_a_report_is_looked_into_while_only_the_primary_has_addresses() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    record = scene.store.record()
    assert record is not None
    quiet = Report(Order(0, 1), record.revision, 0)
    assert not needs_look(quiet, NodeState(record))
    assert needs_look(quiet, NodeState(replace(record, policy=Policy(spare_primary=True))))


@pytest.mark.parametrize("tag", ["true", "false"])
def test_a_tag_overrides_the_stacks_default_both_ways(tag: str) -> None:
    defaults = Policy(spare_primary=tag == "true")
    assert parse_policy({"berth:primary-serves-pods": tag}, defaults).policy.spare_primary is (tag == "false")
    assert parse_policy({}, defaults).policy == defaults


def test_the_stacks_default_selects_subnets_where_no_tag_does_or_a_bad_one() -> None:
    assert parse_policy({}, Policy(), "pods=yes").subnets == ("pods", "yes")
    assert parse_policy({"berth:subnets": "mine"}, Policy(), "pods=yes").subnets == ("mine", None)
    bad = parse_policy({"berth:subnets": "=x"}, Policy(), "pods=yes")
    assert bad.subnets == ("pods", "yes")
    assert bad.problems[0].message.endswith("using pods=yes")


def test_a_node_without_tags_gets_its_interfaces_in_the_subnets_that_the_stack_names() -> None:
    scene = Scene(Policy(spare_primary=True))
    scene.edges = replace(scene.edges, settings=replace(scene.edges.settings, default_subnets="pods=yes"))
    scene.ec2.launch()
    scene.ec2.add_subnet("subnet-pods", "100.64.1.0/26", pods="yes")
    look(scene)
    assert [c.subnet_id for c in scene.ec2.calls if isinstance(c, CreateInterface)] == ["subnet-pods"]


# ------------------------------------------------------------------------------------------------------- capacity


@pytest.mark.parametrize("mode", ["prefixes", "addresses"])
@pytest.mark.parametrize("pods", [1, 9, 17, 60])
def test_the_planner_makes_the_node_that_was_reckoned_with(mode: Mode, pods: int) -> None:
    scene = Scene(Policy(mode, 0, pods, pods, spare_primary=True))
    scene.ec2.launch()
    for _ in range(6):
        look(scene)
        scene.machine.now += 61
    record = scene.store.record()
    assert record is not None
    limits = scene.ec2.limits(["m5.large"])["m5.large"]
    node = need(Demand(limits, mode, pods, 1, spare_primary=True))
    assert sum(len(i.assignments) for i in record.interfaces) == node.blocks
    assert len(record.interfaces) == node.interfaces
    made = Counter(type(c) for c in scene.ec2.calls)
    wanted = {c.action: c.count for c in ec2_calls(Demand(limits, mode, pods, 1, spare_primary=True))}
    assert (made[CreateInterface], made[Attach]) == (node.interfaces - 1, wanted["AttachNetworkInterface"])
    assert wanted["AssignPrivateIpAddresses"] == 0


def test_a_spared_primary_costs_pods_and_its_address_lies_in_another_subnet() -> None:
    plain, sparing = (Demand(LARGE, "addresses", 110, 10, spare_primary=s) for s in (False, True))
    assert (plain.most_pods("addresses"), sparing.most_pods("addresses")) == (27, 18)
    assert (need(plain).subnet_addresses, need(sparing).subnet_addresses) == (27 + 3, 18 + 2)
    verdict = fit(sparing, [Room("s", "a", 200, 12)])
    assert verdict.nodes_packed == 10
    assert verdict.problems[0] == "a node has room for 18 pods (3 − 1 spared interfaces × (10 − 1)), not for 110"


def test_a_launch_template_gives_a_spared_primary_nothing() -> None:
    sizing = size(Policy(spare_primary=True, minimum_addresses=30), {"m5.large": LARGE})
    assert (sizing.prefixes, sizing.addresses, sizing.ipv6_prefixes) == (0, 0, 0)
    assert (sizing.wanted, sizing.missing) == (30, 30)
