"""Who reaches whom, and as whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.netns.fabric.vpc import (
    EIP,
    ENI_A0,
    ENI_A1,
    ENI_B0,
    NODE_A,
    NODE_B,
    datagrams,
    eni,
    instance,
    route_secondary,
    send_as,
    server,
    two_nodes,
    with_eni,
)
from tests.sandbox import netns
from tests.sandbox.echo import Failure, tcp_echo
from tests.sandbox.fabric import ENDPOINT_ADDRESS, INTERNET_ADDRESS, Fabric
from tests.sandbox.ping import ping
from tests.sandbox.world import Route


def test_instances_reach_each_other_across_subnets_with_their_own_addresses(fabric: Fabric) -> None:
    with server(NODE_B, "10.0.2.10"):
        assert tcp_echo(NODE_A, "10.0.2.10").told == "10.0.1.10"
    assert fabric.counters()["source_check_drops"] == 0


def test_a_packet_from_an_unassigned_source_is_dropped_and_counted_for_its_interface(fabric: Fabric) -> None:
    with datagrams(NODE_B, "10.0.2.10") as receiver:
        send_as(NODE_A, "10.0.1.99", "10.0.2.10", b"forged")
        send_as(NODE_A, "10.0.1.20", "10.0.2.10", b"owned by the other interface of the node")
        send_as(NODE_A, "10.0.1.11", "10.0.2.10", b"assigned")
        assert receiver.recv(100) == b"assigned"
    assert fabric.counters()["source_check_drops"] == 2
    assert fabric.source_check_drops_by_interface() == {ENI_A0: 2}


def test_an_interface_without_source_check_may_send_anything(fabric: Fabric) -> None:
    fabric.apply(with_eni(two_nodes(), eni(ENI_A0, "subnet-a", "10.0.1.10", instance=NODE_A, source_check=False)))
    with datagrams(NODE_B, "10.0.2.10") as receiver:
        send_as(NODE_A, "10.9.9.9", "10.0.2.10", b"routed for another")
        assert receiver.recv(100) == b"routed for another"


def test_a_secondary_interface_carries_its_own_address_and_each_address_of_its_prefix(fabric: Fabric) -> None:
    route_secondary(NODE_A, "eth1", "10.0.1.1", "10.0.1.20", "10.0.1.32", "10.0.1.47")
    with server(NODE_B, "10.0.2.10"):
        for source in ("10.0.1.20", "10.0.1.32", "10.0.1.47"):
            assert tcp_echo(NODE_A, "10.0.2.10", source=source).told == source
    with server(NODE_A, "10.0.1.47"):
        assert tcp_echo(NODE_B, "10.0.1.47").told == "10.0.2.10"
    assert fabric.counters()["source_check_drops"] == 0


def test_an_unassigned_address_is_silence(fabric: Fabric) -> None:
    assert tcp_echo(NODE_A, "10.0.2.77", timeout=0.3).failure == Failure.TIMEOUT


def test_a_closed_port_of_an_assigned_address_is_refused(fabric: Fabric) -> None:
    assert tcp_echo(NODE_A, "10.0.2.10").failure == Failure.REFUSED


def test_an_address_moves_to_another_instance(fabric: Fabric) -> None:
    netns.ip_batch(NODE_A, ["addr add 10.0.1.11/32 dev lo"])
    with server(NODE_A, "10.0.1.11"):
        assert tcp_echo(NODE_B, "10.0.1.11").told == "10.0.2.10"
    moved = with_eni(two_nodes(), eni(ENI_A0, "subnet-a", "10.0.1.10", instance=NODE_A))
    moved = replace(moved, instances=(*moved.instances, instance("i-c")))
    fabric.apply(with_eni(moved, eni("eni-c0", "subnet-a", "10.0.1.12", "10.0.1.11", instance="i-c")))
    netns.ip_batch("i-c", ["addr add 10.0.1.11/32 dev lo"])
    with server("i-c", "10.0.1.11"):
        assert tcp_echo(NODE_B, "10.0.1.11").told == "10.0.2.10"
    send_as(NODE_A, "10.0.1.11", "10.0.2.10")
    assert fabric.source_check_drops_by_interface() == {ENI_A0: 1}


def test_a_private_instance_reaches_the_internet_as_the_nat_gateways_public_address(fabric: Fabric) -> None:
    for address in (INTERNET_ADDRESS, ENDPOINT_ADDRESS):
        with server("internet", address):
            assert tcp_echo(NODE_A, address).told == EIP


def test_an_instance_with_a_public_address_is_reached_at_it_and_appears_as_it(fabric: Fabric) -> None:
    bastion = eni("eni-c0", "subnet-public", "10.0.0.20", instance="i-c", public_address="203.0.113.20")
    world = with_eni(two_nodes(), bastion)
    fabric.apply(replace(world, instances=(*world.instances, instance("i-c"))))
    with server("internet", INTERNET_ADDRESS):
        assert tcp_echo("i-c", INTERNET_ADDRESS).told == "203.0.113.20"
    with server("i-c", "10.0.0.20"):
        assert tcp_echo("internet", "203.0.113.20").told == INTERNET_ADDRESS


def test_the_internet_gateway_drops_what_has_no_public_address(fabric: Fabric) -> None:
    direct = tuple(replace(s, routes=(Route("0.0.0.0/0", "igw-1"),)) for s in two_nodes().subnets)
    fabric.apply(replace(two_nodes(), subnets=direct))
    with server("internet", INTERNET_ADDRESS):
        assert tcp_echo(NODE_A, INTERNET_ADDRESS, timeout=0.3).failure == Failure.TIMEOUT
    assert fabric.counters()["no_public_address_drops"] > 0


def test_the_internet_cannot_open_connections_through_a_nat_gateway(fabric: Fabric) -> None:
    with server(NODE_A, "10.0.1.10"):
        assert tcp_echo("internet", EIP, timeout=0.3).failure == Failure.TIMEOUT


def test_on_premises_sees_the_address_of_the_pod(fabric: Fabric) -> None:
    route_secondary(NODE_A, "eth1", "10.0.1.1", "10.0.1.33")
    with server("onprem", "192.168.50.10"):
        assert tcp_echo(NODE_A, "192.168.50.10", source="10.0.1.33").told == "10.0.1.33"


@pytest.mark.parametrize("client", ["192.168.50.10", "172.30.9.10"])
def test_clients_behind_the_vpn_reach_an_address_in_the_vpc(fabric: Fabric, client: str) -> None:
    route_secondary(NODE_A, "eth1", "10.0.1.1", "10.0.1.33")
    with server(NODE_A, "10.0.1.33"):
        assert tcp_echo("onprem", "10.0.1.33", source=client).told == client


def test_a_subnet_without_a_route_to_the_vpn_does_not_reach_it(fabric: Fabric) -> None:
    bastion = eni("eni-c0", "subnet-public", "10.0.0.20", instance="i-c", public_address="203.0.113.20")
    world = with_eni(two_nodes(), bastion)
    fabric.apply(replace(world, instances=(*world.instances, instance("i-c"))))
    with server("onprem", "192.168.50.10"):
        assert tcp_echo("i-c", "192.168.50.10", timeout=0.3).failure == Failure.TIMEOUT


def test_a_route_to_a_nat_gateway_that_is_gone_is_a_black_hole(fabric: Fabric) -> None:
    fabric.apply(replace(two_nodes(), nat=()))
    with server("internet", INTERNET_ADDRESS):
        assert tcp_echo(NODE_A, INTERNET_ADDRESS, timeout=0.3).failure == Failure.TIMEOUT
    assert not netns.exists("nat")


def test_a_large_packet_shrinks_to_what_the_vpn_carries(fabric: Fabric) -> None:
    """Path MTU discovery: the router says "fragmentation needed" and TCP goes on with 1446 bytes."""
    with netns.open_socket("onprem") as listener:
        listener.bind(("192.168.50.10", 8080))
        listener.listen(1)
        with netns.open_socket(NODE_A) as sender:
            sender.settimeout(10)
            sender.connect(("192.168.50.10", 8080))
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                sender.sendall(bytes(60_000))
                received = 0
                while received < 60_000:
                    received += len(connection.recv(65536))


def test_the_router_answers_no_ping(fabric: Fabric) -> None:
    assert ping(NODE_A, "10.0.1.1", timeout=0.3).failure == Failure.TIMEOUT
    assert fabric.counters()["router_drops"] > 0


def test_secondary_interface_of_the_other_node_is_reached(fabric: Fabric) -> None:
    world = with_eni(two_nodes(), eni("eni-b1", "subnet-b", "10.0.2.20", instance=NODE_B, index=1))
    fabric.apply(world)
    route_secondary(NODE_B, "eth1", "10.0.2.1", "10.0.2.20")
    route_secondary(NODE_A, "eth1", "10.0.1.1", "10.0.1.20")
    with server(NODE_B, "10.0.2.20"):
        assert tcp_echo(NODE_A, "10.0.2.20", source="10.0.1.20").told == "10.0.1.20"
    assert {ENI_A1, ENI_B0}.isdisjoint(fabric.source_check_drops_by_interface())
