"""IPv6 in the fabric: who reaches whom and as whom, what the router says of itself, and what it drops."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.netns.fabric.vpc import (
    ENI_A0,
    ENI_A1,
    NODE_A,
    NODE_B,
    eni,
    instance,
    mac,
    send_as,
    server,
    wire,
    with_eni,
)
from tests.netns.fabric.vpc6 import (
    A0,
    B0,
    POD_A0,
    POD_A1,
    POD_B0,
    PREFIX_A1,
    PUBLIC,
    dual_stack,
    hold,
    route_secondary6,
    with_public_instance,
)
from tests.sandbox import netns
from tests.sandbox.echo import Failure, tcp_echo
from tests.sandbox.fabric import INTERNET_ADDRESS6, Fabric, port_name
from tests.sandbox.fabric.ipv6 import ROUTER, link_local
from tests.sandbox.waiting import eventually
from tests.sandbox.world import World

ETH_IPV6 = 0x86DD


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    with Fabric() as made:
        made.apply(dual_stack())
        assert eventually(lambda: netns.settled(*netns.names()))
        assert eventually(lambda: _default(NODE_A) and _default(NODE_B))
        hold(NODE_A, POD_A0)
        hold(NODE_B, POD_B0)
        yield made


def _routes(where: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(netns.run(where, ["ip", "-6", "-j", "route"]).stdout)
    return found


def _default(where: str, device: str = "eth0") -> dict[str, Any] | None:
    return next((r for r in _routes(where) if (r["dst"], r["dev"]) == ("default", device)), None)


def _addresses(where: str, device: str) -> dict[str, int]:
    shown = json.loads(netns.run(where, ["ip", "-6", "-j", "addr", "show", device]).stdout)
    return {a["local"]: a["prefixlen"] for a in shown[0]["addr_info"]}


def _router_mac(device_of: str) -> str:
    return str(json.loads(netns.run("vpc", ["ip", "-j", "link", "show", port_name(device_of)]).stdout)[0]["address"])


def _neighbour(where: str, address: str) -> str | None:
    """The MAC that a host has learned for an address, once it has."""
    shown = json.loads(netns.run(where, ["ip", "-6", "-j", "neigh", "show", address]).stdout)
    return next((entry["lladdr"] for entry in shown if "lladdr" in entry), None)


def _with_third(world: World) -> World:
    """An instance in node A's subnet, with an address and a prefix."""
    more = eni("eni-c0", "subnet-a", "10.0.1.50", instance="i-c")
    more = replace(more, ipv6_addresses=("2001:db8:1:1::c0",), ipv6_prefixes=("2001:db8:1:1:c::/80",))
    return replace(with_eni(world, more), instances=(*world.instances, instance("i-c")))


def test_an_instance_learns_its_router_by_advertisement_and_its_address_by_dhcp(fabric: Fabric) -> None:
    default = _default(NODE_A)
    assert default is not None
    assert (default["protocol"], default["gateway"]) == ("ra", link_local(_router_mac(ENI_A0)))
    assert "2001:db8:1:1::/64" in {r["dst"] for r in _routes(NODE_A)}  # on-link, and nothing was autoconfigured in it:
    assert _addresses(NODE_A, "eth0") == {A0: 128, link_local(mac(ENI_A0)): 64}


def test_a_secondary_interface_hears_of_the_router_when_it_comes_up(fabric: Fabric) -> None:
    assert _default(NODE_A, "eth1") is None
    netns.ip_batch(NODE_A, ["link set eth1 up"])
    assert eventually(lambda: _default(NODE_A, "eth1"), 4)


def test_pods_of_two_nodes_reach_each_other_with_their_own_addresses(fabric: Fabric) -> None:
    with server(NODE_B, POD_B0):
        assert tcp_echo(NODE_A, POD_B0, source=POD_A0).told == POD_A0
        assert tcp_echo(NODE_A, POD_B0, source=A0).told == A0
    with server(NODE_A, A0):
        assert tcp_echo(NODE_B, A0, source=POD_B0).told == POD_B0
    assert fabric.counters()["source_check_drops"] == 0


def test_a_secondary_interface_carries_the_addresses_of_its_prefix(fabric: Fabric) -> None:
    last = "2001:db8:1:1:b:ffff:ffff:ffff"
    route_secondary6(NODE_A, "eth1", POD_A1, last)
    with server(NODE_B, POD_B0):
        for source in (POD_A1, last):
            assert tcp_echo(NODE_A, POD_B0, source=source).told == source
    with server(NODE_A, last):
        assert tcp_echo(NODE_B, last, source=B0).told == B0
    assert fabric.counters()["source_check_drops"] == 0


def test_a_packet_from_an_unassigned_source_is_dropped_and_counted_for_its_interface(fabric: Fabric) -> None:
    with netns.open_socket(NODE_B, socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(3)
        receiver.bind((POD_B0, 9))
        send_as(NODE_A, "2001:db8:1:1::bad", POD_B0, b"forged")
        send_as(NODE_A, POD_A1, POD_B0, b"of the other interface's prefix")
        send_as(NODE_A, POD_A0, POD_B0, b"assigned")
        assert receiver.recv(100) == b"assigned"
    assert fabric.source_check_drops_by_interface() == {ENI_A0: 2}
    assert fabric.counters()["source_check_drops"] == 2


def test_an_interface_without_source_check_may_send_anything(fabric: Fabric) -> None:
    unchecked = next(e for e in dual_stack().enis if e.id == ENI_A0)
    fabric.apply(with_eni(dual_stack(), replace(unchecked, source_check=False)))
    with netns.open_socket(NODE_B, socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(3)
        receiver.bind((POD_B0, 9))
        send_as(NODE_A, "2001:db8:99::1", POD_B0, b"routed for another")
        assert receiver.recv(100) == b"routed for another"


def test_an_unassigned_address_is_silence_and_no_matter_of_the_internet(fabric: Fabric) -> None:
    unassigned = "2001:db8:1:2:dead::1"
    with wire("internet", "igw0", ETH_IPV6) as sock:
        send_as(NODE_A, POD_A0, unassigned)
        send_as(NODE_A, POD_A0, INTERNET_ADDRESS6)
        while (frame := sock.recv(2048))[20] != socket.IPPROTO_UDP:
            pass
    assert socket.inet_ntop(socket.AF_INET6, frame[38:54]) == INTERNET_ADDRESS6
    assert tcp_echo(NODE_A, unassigned, source=POD_A0, timeout=0.3).failure == Failure.TIMEOUT


def test_a_packet_to_a_prefix_is_delivered_with_its_interfaces_mac_and_nobody_is_asked(fabric: Fabric) -> None:
    netns.ip_batch(NODE_A, ["link set eth1 up"])
    assert eventually(lambda: netns.settled("vpc"))
    with wire(NODE_A, "eth1", ETH_IPV6) as sock:
        send_as(NODE_B, POD_B0, "2001:db8:1:1:b:1:2:3", b"last")  # an address that nobody holds
        seen: list[bytes] = []
        while not seen or seen[-1][-4:] != b"last":
            seen.append(sock.recv(2048))
    assert seen[-1][:6].hex(":") == mac(ENI_A1)
    assert not [f for f in seen if f[20] == socket.IPPROTO_ICMPV6 and f[54] == 135 and f[6:12] == seen[-1][6:12]]


def test_a_frame_to_a_mac_that_does_not_own_the_address_is_dropped_and_counted(fabric: Fabric) -> None:
    fabric.apply(_with_third(dual_stack()))
    pod = "2001:db8:1:1:c::7"
    hold("i-c", pod)
    assert eventually(lambda: netns.settled("i-c", "vpc"))
    with netns.open_socket("i-c", socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(3)
        receiver.bind((pod, 9))
        for to, payload in ((mac(ENI_A1), b"another's mac"), (mac("eni-c0"), b"the owner's mac")):
            netns.ip_batch(NODE_A, [f"neigh replace {pod} lladdr {to} dev eth0 nud permanent"])
            send_as(NODE_A, POD_A0, pod, payload)
        assert receiver.recv(100) == b"the owner's mac"
    assert fabric.counters()["misaddressed_frames"] == 1


@pytest.mark.parametrize("neighbour", ["2001:db8:1:1::c0", "2001:db8:1:1:c::7"])
def test_a_solicitation_for_an_assigned_address_is_answered_with_its_owners_mac(fabric: Fabric, neighbour: str) -> None:
    fabric.apply(_with_third(dual_stack()))
    send_as(NODE_A, POD_A0, neighbour)
    assert eventually(lambda: _neighbour(NODE_A, neighbour) == mac("eni-c0"))


@pytest.mark.parametrize("router", [ROUTER, "2001:db8:1:1::1"])
def test_the_router_answers_solicitations_for_its_own_addresses(fabric: Fabric, router: str) -> None:
    netns.ip_batch(NODE_A, [f"route add 2001:db8:77::/64 via {router} dev eth0 onlink"])
    send_as(NODE_A, POD_A0, "2001:db8:77::1")
    assert eventually(lambda: _neighbour(NODE_A, router) == _router_mac(ENI_A0))


def test_a_solicitation_for_an_unassigned_or_foreign_address_gets_no_answer(fabric: Fabric) -> None:
    fabric.apply(_with_third(dual_stack()))
    netns.ip_batch(NODE_A, ["route add 2001:db8:1:2::/64 dev eth0"])
    for wanted in ("2001:db8:1:1::bad", "2001:db8:1:2:a::7", "2001:db8:1:1::c0"):
        send_as(NODE_A, POD_A0, wanted)
    assert eventually(lambda: _neighbour(NODE_A, "2001:db8:1:1::c0"))  # asked last, and answered
    assert _neighbour(NODE_A, "2001:db8:1:1::bad") is None
    assert _neighbour(NODE_A, "2001:db8:1:2:a::7") is None  # assigned, but on another subnet's link


def test_the_internet_sees_a_pods_own_address_and_answers_through_an_egress_only_gateway(fabric: Fabric) -> None:
    with server("internet", INTERNET_ADDRESS6):
        assert tcp_echo(NODE_A, INTERNET_ADDRESS6, source=POD_A0).told == POD_A0


def test_the_internet_opens_no_connection_through_an_egress_only_gateway(fabric: Fabric) -> None:
    with server(NODE_A, POD_A0):
        assert tcp_echo("internet", POD_A0, timeout=0.3).failure == Failure.TIMEOUT
        assert tcp_echo(NODE_B, POD_A0, source=POD_B0).ok
    assert fabric.counters()["egress_only_drops"] > 0


def test_an_internet_gateway_passes_both_ways(fabric: Fabric) -> None:
    fabric.apply(with_public_instance(dual_stack()))
    assert eventually(lambda: _default("i-c"))
    with server("i-c", PUBLIC), server("internet", INTERNET_ADDRESS6):
        assert tcp_echo("i-c", INTERNET_ADDRESS6, source=PUBLIC).told == PUBLIC
        assert tcp_echo("internet", PUBLIC).told == INTERNET_ADDRESS6


def test_a_subnet_without_a_route_to_the_internet_does_not_reach_it(fabric: Fabric) -> None:
    world = dual_stack()
    inside = tuple(replace(s, routes=tuple(r for r in s.routes if r.destination != "::/0")) for s in world.subnets)
    fabric.apply(replace(world, subnets=inside))
    with server("internet", INTERNET_ADDRESS6):
        assert tcp_echo(NODE_A, INTERNET_ADDRESS6, source=POD_A0, timeout=0.3).failure == Failure.TIMEOUT


def test_a_packet_too_large_for_the_internet_is_told_of_by_a_global_address(fabric: Fabric) -> None:
    """Path MTU discovery; a node forwards no error to a pod whose source is link-local."""
    with wire(NODE_A, "eth0", ETH_IPV6) as heard:
        send_as(NODE_A, POD_A0, INTERNET_ADDRESS6, bytes(4000))
        while (frame := heard.recv(65536))[20] != socket.IPPROTO_ICMPV6 or frame[54] != 2:
            pass
    assert struct.unpack_from("!I", frame, 58)[0] == 1500
    assert socket.inet_ntop(socket.AF_INET6, frame[22:38]).startswith("2001:db8:1:")


def test_a_prefix_is_unassigned_and_moves_to_another_interface(fabric: Fabric) -> None:
    world = _with_third(dual_stack())
    first, other = (next(e for e in world.enis if e.id == wanted) for wanted in (ENI_A1, "eni-c0"))
    fabric.apply(with_eni(world, replace(first, ipv6_prefixes=())))
    hold("i-c", POD_A1)
    with server("i-c", POD_A1):
        assert tcp_echo(NODE_B, POD_A1, source=POD_B0, timeout=0.3).failure == Failure.TIMEOUT
        moved = replace(other, ipv6_prefixes=(*other.ipv6_prefixes, PREFIX_A1))
        fabric.apply(with_eni(with_eni(world, replace(first, ipv6_prefixes=())), moved))
        assert tcp_echo(NODE_B, POD_A1, source=POD_B0).told == POD_B0


def test_an_address_or_a_block_that_comes_later_keeps_the_link(fabric: Fabric) -> None:
    def index() -> object:
        return json.loads(netns.run(NODE_A, ["ip", "-j", "link", "show", "eth0"]).stdout)[0]["ifindex"]

    before, world = index(), dual_stack()
    first = next(e for e in world.enis if e.id == ENI_A0)
    grown = replace(first, ipv6_addresses=(A0, "2001:db8:1:1::a1"), ipv6_prefixes=())
    fabric.apply(with_eni(world, grown))
    assert index() == before
    hold(NODE_A, "2001:db8:1:1::a1")
    with server(NODE_B, B0):
        assert tcp_echo(NODE_A, B0, source="2001:db8:1:1::a1").told == "2001:db8:1:1::a1"


def test_a_subnet_that_gets_a_block_is_advertised_at_once() -> None:
    world = dual_stack()
    without = tuple(replace(s, ipv6_cidrs=()) for s in world.subnets)
    bare = tuple(replace(e, ipv6_addresses=(), ipv6_prefixes=()) for e in world.enis)
    with Fabric() as fabric:
        fabric.apply(replace(world, subnets=without, enis=bare))
        assert eventually(lambda: netns.settled(*netns.names()))
        assert _default(NODE_A) is None
        fabric.apply(world)
        assert eventually(lambda: _default(NODE_A), 4)


def test_the_router_answers_no_ping(fabric: Fabric) -> None:
    with netns.open_socket(NODE_A, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.bind((POD_A0, 0))
        sock.sendto(struct.pack("!BBHHH", 128, 0, 0, 1, 1), ("2001:db8:1:1::1", 0))
    assert eventually(lambda: fabric.counters()["router_drops"] == 1)


def test_of_link_local_addresses_only_the_one_of_the_mac_is_heard(fabric: Fabric) -> None:
    netns.ip_batch(NODE_A, ["addr add fe80::bad/64 dev eth0 nodad"])
    assert eventually(lambda: netns.delivers(NODE_A, "fe80::bad"))
    index = json.loads(netns.run(NODE_A, ["ip", "-j", "link", "show", "eth0"]).stdout)[0]["ifindex"]
    router = link_local(_router_mac(ENI_A0))
    for source in ("fe80::bad", "fe80::bad", link_local(mac(ENI_A0))):
        with netns.open_socket(NODE_A, socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0, 0, index))
            sock.sendto(b"x", (router, 9, 0, index))
    assert eventually(lambda: fabric.counters()["router_drops"] == 1)
    assert fabric.counters()["source_check_drops"] == 0  # what kernels say by themselves is nobody's mistake
