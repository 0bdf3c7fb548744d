"""Which address of a record is the pod's, and which leases of it count."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from berth.flows.ends import Subnet, Subnets, canonical, end_of, judge
from berth.flows.window import PodState, Window
from berth.history import Held
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.flows.flow_world import START, SUBNETS, held

WINDOW = Window.of(START, START + 30)
POD, PRIMARY, SERVER = "10.0.1.20", "10.0.1.4", "203.0.113.5"


def lease(**more: Any) -> Held:
    return held("web", START - 500.0, START + 500.0, START + 500.0, **more)


def judged(
    side: str, address: str | None, packet: str | None, direction: str | None, *leases: Held, **more: Any
) -> Any:
    has_packet = more.pop("has_packet", True)
    end = end_of(
        side,
        address,
        packet,
        direction,
        more.get("interface", "eni-1"),
        more.get("vpc", "vpc-1"),
        has_packet=has_packet,
    )
    known: dict[str, list[Held]] = {}
    for one in leases:
        known.setdefault(one.address, []).append(one)
    return judge(end, WINDOW, known, SUBNETS.of(end.address or ""), START + 600.0)


def test_the_packets_address_is_the_pods_where_the_interfaces_is_the_nodes() -> None:
    found = judged("src", PRIMARY, POD, "egress", lease())
    assert (found.state, found.lease.name) == (PodState.HELD, "web")


def test_a_peer_is_named_by_either_address() -> None:
    assert judged("src", POD, POD, "ingress", lease(), interface="eni-9").lease.name == "web"
    assert judged("src", POD, None, "ingress", lease(), interface="eni-9", has_packet=False).lease.name == "web"


def test_a_nat_gateways_records_name_the_pod_behind_it() -> None:
    """Coming in at the gateway, the packet's source is the pod; leaving it to the pod, its destination is."""
    assert judged("src", POD, POD, "ingress", lease(), interface="eni-nat").lease.name == "web"
    assert judged("dst", "10.0.2.7", SERVER, "ingress", interface="eni-nat").reason.startswith("outside")
    assert judged("dst", POD, POD, "egress", lease(), interface="eni-nat").lease.name == "web"


def test_what_a_node_translates_is_the_interfaces_own_address() -> None:
    found = judged("src", PRIMARY, PRIMARY, "egress")
    assert found.state is PodState.NONE
    assert "SNAT" in found.reason


def test_without_packet_addresses_an_interfaces_own_end_is_not_guessed() -> None:
    for direction in ("egress", None):
        found = judged("src", PRIMARY, None, direction, has_packet=False)
        assert (found.state, "pkt-srcaddr" in found.reason) == (PodState.UNKNOWN, True)
    assert judged("src", PRIMARY, None, "ingress", has_packet=False).state is PodState.NONE


def test_an_address_of_elsewhere_or_none_at_all_is_nobodys() -> None:
    assert judged("dst", SERVER, SERVER, "egress").reason.startswith("outside")
    assert judged("dst", None, None, "egress").reason == "the record names no address"
    assert judged("dst", "not-an-address", None, "egress").state is PodState.NONE


def test_the_same_address_in_two_vpcs_is_told_apart_by_the_records() -> None:
    here, there = lease(), held("other", START - 500.0, START + 500.0, START + 500.0, subnet_id="subnet-other")
    assert judged("dst", POD, POD, "egress", here, there, vpc="vpc-1").lease.name == "web"
    assert judged("dst", POD, POD, "egress", here, there, vpc="vpc-2").lease.name == "other"
    assert judged("dst", POD, POD, "egress", here, there, vpc=None).state is PodState.AMBIGUOUS


def test_an_address_of_a_peered_vpc_is_found() -> None:
    peered = lease(address="10.0.2.30", subnet_id="subnet-b")
    assert judged("dst", "10.0.2.30", "10.0.2.30", "egress", peered, vpc="vpc-2").lease.name == "web"


def test_at_an_interface_the_lease_at_that_interface_counts() -> None:
    moved = held("job", START - 5.0, START + 500.0, START + 500.0, interface_id="eni-2")
    before = held("web", START - 500.0, START - 20.0, START - 20.0)
    assert judged("src", PRIMARY, POD, "egress", before, moved, interface="eni-2").lease.name == "job"
    assert judged("src", PRIMARY, POD, "egress", before, moved, interface="eni-1").lease.name == "web"
    assert judged("src", POD, POD, "ingress", before, moved, interface="eni-2").state is PodState.AMBIGUOUS


def test_ipv6_is_compared_in_its_shortest_form() -> None:
    six = lease(address="2001:db8:1::5")
    written = "2001:0db8:0001:0000::0005"
    assert canonical(written) == "2001:db8:1::5"
    assert judged("src", written, written, "ingress", six).lease.name == "web"


@given(st.ip_addresses())
def test_an_address_is_in_a_subnet_exactly_if_its_cidr_has_it(address: Any) -> None:
    cidrs = ("10.0.0.0/8", "128.0.0.0/1", "2001:db8::/32", "::/2")
    subnets = Subnets([Subnet(f"subnet-{n}", "vpc-1", (cidr,)) for n, cidr in enumerate(cidrs)])
    expected = {f"subnet-{n}" for n, cidr in enumerate(cidrs) if address in ipaddress.ip_network(cidr)}
    assert {s.id for s in subnets.of(str(address))} == expected


@pytest.mark.parametrize("text", ["", "-", "10.0.1", "10.0.1.20/32", "::g"])
def test_what_is_no_address_is_in_no_subnet(text: str) -> None:
    assert SUBNETS.of(text) == ()
