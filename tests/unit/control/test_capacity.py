"""Whether a group of nodes fits: the numbers are those that the planner comes to, node by node."""

from __future__ import annotations

import ipaddress

import pytest
from berth.buckets import Bucket, Buckets
from berth.capacity import Calls, Demand, Room, calls, fit, most_pods, need
from berth.contract import Mode
from berth.events import Signal
from berth.free_blocks import BlockMap, usable_size
from berth.model import Limits
from berth.reconcile import reconcile
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.fakes import ARN, NODE, Scene

M6I_LARGE = Limits(3, 10)
SMALL, XEN = Limits(2, 2), Limits(3, 12, prefixes=False)


def room(cidr: str, zone: str = "a") -> Room:
    return Room(cidr, zone, usable_size(cidr), BlockMap(cidr).room().free_prefixes)


def test_the_type_bounds_the_pods_by_mode() -> None:
    assert (most_pods(M6I_LARGE, "addresses"), most_pods(M6I_LARGE, "prefixes")) == (27, 432)
    assert most_pods(XEN, "prefixes") == 0
    verdict = fit(Demand(M6I_LARGE, "addresses", 110, 1), [room("10.0.0.0/20")])
    assert verdict.problems[0] == "a node has room for 27 pods (3 interfaces × (10 − 1)), not for 110"
    assert "mode prefixes has room for all these pods on this type" in verdict.remarks


def test_a_full_node_with_prefixes() -> None:
    node = need(Demand(M6I_LARGE, "prefixes", 110, 200))
    assert (node.pods, node.blocks, node.interfaces) == (110, 7, 1)
    assert node.subnet_addresses == 7 * 16 + 1
    assert node.usage == 7 + 1
    node = need(Demand(M6I_LARGE, "prefixes", 250, 1))
    assert (node.blocks, node.interfaces, node.usage) == (16, 2, 16 + 2 + 1)


@pytest.mark.parametrize(
    ("kind", "mode"), [("m5.large", "addresses"), ("m5.large", "prefixes"), ("t2.large", "addresses")]
)
@pytest.mark.parametrize("pods", [1, 9, 10, 16, 17, 27, 60])
def test_the_planner_makes_the_same_node(kind: str, mode: Mode, pods: int) -> None:
    scene = Scene()
    tags = {"berth__mode": mode, "berth__minimum_addresses": str(pods), "berth__max_pods": str(pods)}
    scene.ec2.launch(type=kind, **tags, berth__warm_addresses="0")
    for _ in range(4):
        reconcile(scene.edges, [Signal(NODE, "running")], 50)
        scene.machine.now += 61
    record = scene.store.record(ARN)
    assert record is not None
    limits = scene.ec2.limits([kind])[kind]
    node = need(Demand(limits, mode, pods, 1))
    assert sum(len(i.assignments) for i in record.interfaces) == node.blocks
    assert len(record.interfaces) == node.interfaces


def test_subnets_that_are_too_small_say_by_how_much() -> None:
    rooms = [room("10.0.0.0/18"), room("10.0.64.0/20", "b")]
    verdict = fit(Demand(M6I_LARGE, "prefixes", 110, 200), rooms)
    assert verdict.nodes_packed < 200
    (problem,) = verdict.problems
    assert "22,600 addresses are wanted (200 × 113)" in problem
    assert "1,400 of 1,276 whole /28" in problem
    assert any("overlay" in r for r in verdict.remarks)
    assert fit(Demand(M6I_LARGE, "prefixes", 110, verdict.nodes_packed), rooms).problems == ()


def test_a_subnet_that_is_fragmented_holds_fewer_nodes_than_its_free_addresses_say() -> None:
    whole, broken = Room("s", "a", 4000, 250), Room("s", "a", 4000, 20)
    demand = Demand(M6I_LARGE, "prefixes", 110, 30)
    assert fit(demand, [whole]).nodes_packed == 35
    verdict = fit(demand, [broken])
    assert (verdict.nodes_packed, verdict.nodes_scattered) == (2, 2)
    assert verdict.problems


def test_what_only_fits_if_single_addresses_lie_together_is_remarked_upon() -> None:
    tight = Room("s", "a", 16 * 70 + 11, 70)
    verdict = fit(Demand(M6I_LARGE, "prefixes", 110, 10), [tight])
    assert (verdict.problems, verdict.nodes_scattered) == ((), 8)
    assert "CIDR reservation of type prefix" in verdict.remarks[0]


def test_quotas_are_of_zones_and_of_the_vpc() -> None:
    rooms = [room(f"10.{n}.0.0/16", zone) for n, zone in enumerate("abc")]
    demand = Demand(SMALL, "prefixes", 32, 3000)
    assert fit(demand, rooms).problems == ()
    (problem,) = fit(demand, rooms, interface_quota=1999).problems
    assert problem.startswith("2,000 interfaces in a zone (3,000 nodes × 2 in 3 zones)")
    (problem,) = fit(demand, rooms, usage_quota=14_999).problems
    assert problem.startswith("15,000 units of network address usage (3,000 nodes × 5)")


def test_calls_take_as_long_as_their_buckets_do() -> None:
    made = {c.action: c for c in calls(Demand(SMALL, "prefixes", 32, 200))}
    assert made["AttachNetworkInterface"] == Calls("AttachNetworkInterface", 200, 50.0, 5.0)
    assert made["AttachNetworkInterface"].seconds == 30.0
    assert made["AssignPrivateIpAddresses"].seconds == made["CreateNetworkInterface"].seconds == 20.0
    assert (made["DescribeInstances"].count, made["DescribeInstances"].seconds) == (20, 0.0)
    raised = Buckets((("AttachNetworkInterface", Bucket(200, 20)),))
    assert {c.action: c.seconds for c in calls(Demand(SMALL, "prefixes", 32, 200), raised)}[
        "AttachNetworkInterface"
    ] == 0


@given(
    st.integers(1, 15),
    st.integers(2, 50),
    st.sampled_from(["addresses", "prefixes"]),
    st.integers(1, 250),
    st.integers(1, 400),
    st.integers(17, 26),
)
def test_no_more_nodes_fit_than_there_is_room_for(
    interfaces: int, addresses: int, mode: Mode, pods: int, nodes: int, length: int
) -> None:
    demand = Demand(Limits(interfaces, addresses), mode, pods, nodes)
    node, space = need(demand), room(str(ipaddress.IPv4Network((0x0A000000, length))))
    verdict = fit(demand, [space])
    assert 0 <= verdict.nodes_scattered <= verdict.nodes_packed
    assert verdict.nodes_packed * node.subnet_addresses <= space.free
    if mode == "prefixes":
        assert verdict.nodes_packed * node.blocks <= space.prefixes
    assert node.interfaces <= interfaces
    assert node.pods <= node.blocks * (16 if mode == "prefixes" else 1)


def test_pods_with_an_interface_of_their_own_take_places_that_the_others_cannot_have() -> None:
    with_own, without = Demand(M6I_LARGE, "prefixes", 110, 10, pods_own=2), Demand(M6I_LARGE, "prefixes", 110, 10)
    node, usual = need(with_own), need(without)
    assert (node.pods, node.interfaces) == (110, usual.interfaces + 2)
    made = {c.action: c.count for c in calls(with_own)}
    before = {c.action: c.count for c in calls(without)}
    assert made["CreateNetworkInterface"] == before["CreateNetworkInterface"] + 20
    full = need(Demand(M6I_LARGE, "addresses", 110, 1, pods_own=2))
    assert (full.pods, full.interfaces) == (9 + 2, 3), "one interface with nine addresses for pods is left"


def test_more_of_them_than_the_type_has_interfaces_do_not_fit() -> None:
    problems = fit(Demand(M6I_LARGE, "prefixes", 110, 1, pods_own=3), [room("10.0.0.0/20")]).problems
    assert "3 pods with an interface of their own: beside the primary one the type has 2" in problems[0]
