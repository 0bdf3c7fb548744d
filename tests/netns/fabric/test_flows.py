"""Flow records of the fabric: each packet at both interfaces, what stopped one, and nothing without a flow log."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.netns.fabric.test_filters import A, B, grouped, walled
from tests.netns.fabric.vpc import ENI_A0, ENI_B0, ENI_NAT, NODE_A, NODE_B, server, two_nodes
from tests.sandbox.echo import PORT, Failure, tcp_echo
from tests.sandbox.fabric import Fabric
from tests.sandbox.fabric.flows import Flow, Traffic
from tests.sandbox.ping import ping
from tests.sandbox.world import AclRule, FlowLog, GroupRule, World

LOG: Final = FlowLog("fl-1", "vpc-1", "ALL", "bucket", "", ("srcaddr", "dstaddr"))
SERVER: Final = "198.51.100.10"
Told = set[tuple[str, str, bool, str, str]]


def logged(world: World) -> World:
    return replace(world, flow_logs=(LOG,))


def told(fabric: Fabric, protocol: int = 6) -> Told:
    """(interface, way, accepted, source, destination) of what was seen since the last time."""
    return {_short(f) for f in fabric.flows.take() if f.protocol == protocol}


def _short(flow: Flow) -> tuple[str, str, bool, str, str]:
    return flow.interface, "out" if flow.egress else "in", flow.accepted, flow.source, flow.destination


def test_a_packet_is_seen_where_it_leaves_and_where_it_comes_in(fabric: Fabric) -> None:
    fabric.apply(logged(two_nodes()))
    with server(NODE_B, B):
        fabric.flows.take()
        assert tcp_echo(NODE_A, B).ok
    seen = fabric.flows.take()
    assert {_short(f) for f in seen} == {
        (ENI_A0, "out", True, A, B),
        (ENI_B0, "in", True, A, B),
        (ENI_B0, "out", True, B, A),
        (ENI_A0, "in", True, B, A),
    }
    asked: dict[str, Traffic] = {f.interface: t for f, t in seen.items() if f.destination == B}
    assert {f.destination_port for f in seen if f.destination == B} == {PORT}
    assert asked[ENI_A0].packets == asked[ENI_B0].packets >= 4
    assert asked[ENI_A0].octets == asked[ENI_B0].octets > 160
    assert asked[ENI_A0].tcp_flags == 3, "SYN and FIN"
    assert fabric.flows.take() == {}


def test_what_a_group_stops_is_a_reject_where_it_was_stopped(fabric: Fabric) -> None:
    everything = (GroupRule(True, "any", "0.0.0.0/0"), GroupRule(False, "any", "0.0.0.0/0"))
    fabric.apply(logged(grouped(everything[0])))
    fabric.flows.take()
    assert tcp_echo(NODE_A, B, timeout=0.3).failure is Failure.TIMEOUT
    assert told(fabric) == {(ENI_A0, "out", True, A, B), (ENI_B0, "in", False, A, B)}
    fabric.apply(logged(grouped(*everything, rules_of_a=(everything[1],))))
    assert tcp_echo(NODE_A, B, timeout=0.3).failure is Failure.TIMEOUT
    assert told(fabric) == {(ENI_A0, "out", False, A, B)}


def test_what_an_acl_stops_is_a_reject_on_the_side_of_its_subnet(fabric: Fabric) -> None:
    fabric.apply(logged(walled(AclRule(10, False, False, "tcp", "0.0.0.0/0"))))
    fabric.flows.take()
    assert tcp_echo(NODE_A, B, timeout=0.3).failure is Failure.TIMEOUT
    assert told(fabric) == {(ENI_A0, "out", True, A, B), (ENI_B0, "in", False, A, B)}
    fabric.apply(logged(walled(AclRule(10, True, False, "icmp", "0.0.0.0/0"))))
    fabric.flows.take()
    assert not ping(NODE_A, B, timeout=0.3).ok
    assert told(fabric, 1) == {
        (ENI_A0, "out", True, A, B),
        (ENI_B0, "in", True, A, B),
        (ENI_B0, "out", False, B, A),
    }, "the answer does not come out of the subnet"


def test_a_nat_gateway_has_records_of_its_own(fabric: Fabric) -> None:
    fabric.apply(logged(two_nodes()))
    with server("internet", SERVER):
        fabric.flows.take()
        assert tcp_echo(NODE_A, SERVER).ok
    seen = told(fabric)
    assert {(ENI_A0, "out", True, A, SERVER), (ENI_NAT, "in", True, A, SERVER)} <= seen
    assert (ENI_NAT, "out", True, "10.0.0.5", SERVER) in seen, "its private address, not the public one"
    assert {(ENI_NAT, "out", True, SERVER, A), (ENI_A0, "in", True, SERVER, A)} <= seen


def test_without_a_flow_log_nothing_is_recorded(fabric: Fabric) -> None:
    fabric.apply(logged(two_nodes()))
    fabric.apply(two_nodes())
    fabric.flows.take()
    with server(NODE_B, B):
        assert tcp_echo(NODE_A, B).ok
    assert fabric.flows.take() == {}
