"""What happens on the wire between an instance and the router: ARP, MAC addresses, misdirected frames."""

from __future__ import annotations

import struct
from dataclasses import replace

from tests.netns.fabric.vpc import (
    ENI_A0,
    ENI_A1,
    ETH_ARP,
    ETH_IP,
    NODE_A,
    NODE_B,
    arp_answer,
    arp_request,
    datagrams,
    eni,
    instance,
    mac,
    send_as,
    two_nodes,
    udp_frame,
    wire,
    with_eni,
)
from tests.sandbox import netns
from tests.sandbox.fabric import Fabric
from tests.sandbox.world import World


def _with_neighbour(world: World) -> World:
    """A third instance, in node A's subnet."""
    grown = with_eni(world, eni("eni-c0", "subnet-a", "10.0.1.50", "10.0.1.51", instance="i-c"))
    return replace(grown, instances=(*world.instances, instance("i-c")))


def test_arp_for_an_assigned_address_is_answered_with_its_owners_mac(fabric: Fabric) -> None:
    fabric.apply(_with_neighbour(two_nodes()))
    with wire(NODE_A, "eth0", ETH_ARP) as sock:
        for wanted in ("10.0.1.50", "10.0.1.51"):
            sock.send(arp_request(mac(ENI_A0), "10.0.1.10", wanted))
            assert arp_answer(sock) == (wanted, mac("eni-c0"))


def test_arp_for_an_unassigned_or_foreign_address_gets_no_reply(fabric: Fabric) -> None:
    with wire(NODE_A, "eth0", ETH_ARP) as sock:
        for wanted in ("10.0.1.99", "198.51.100.10", "192.168.50.10", "10.0.1.1"):
            sock.send(arp_request(mac(ENI_A0), "10.0.1.10", wanted))
        address, gateway = arp_answer(sock)
        assert address == "10.0.1.1"  # the answers come in order: the first three were not answered
        assert gateway not in {mac(ENI_A0), mac(ENI_A1)}


def test_arp_for_the_metadata_address_is_answered(fabric: Fabric) -> None:
    with wire(NODE_A, "eth0", ETH_ARP) as sock:
        sock.send(arp_request(mac(ENI_A0), "10.0.1.10", "169.254.169.254"))
        assert arp_answer(sock)[0] == "169.254.169.254"


def test_a_frame_is_delivered_with_the_mac_of_the_interface_that_owns_the_address(fabric: Fabric) -> None:
    netns.ip_batch(NODE_A, ["link set eth1 up"])
    with wire(NODE_A, "eth1", ETH_IP) as sock:
        send_as(NODE_B, "10.0.2.10", "10.0.1.40")  # an address of the prefix, which nobody holds yet
        frame = sock.recv(2048)
    assert frame[:6].hex(":") == mac(ENI_A1)
    assert struct.unpack_from("!4B", frame, 30) == (10, 0, 1, 40)


def test_the_router_never_asks_by_arp(fabric: Fabric) -> None:
    netns.ip_batch(NODE_A, ["link set eth1 up"])
    with wire(NODE_A, "eth1", 0x0003) as sock:  # every protocol
        send_as(NODE_B, "10.0.2.10", "10.0.1.47", b"last")
        seen: list[bytes] = []
        while not seen or seen[-1][-4:] != b"last":
            seen.append(sock.recv(2048))
    assert not [frame for frame in seen if frame[12:14] == b"\x08\x06"]


def test_a_frame_to_a_mac_that_does_not_own_the_address_is_dropped_and_counted(fabric: Fabric) -> None:
    fabric.apply(_with_neighbour(two_nodes()))
    netns.ip_batch("i-c", ["addr add 10.0.1.51/32 dev lo"])
    with wire(NODE_A, "eth0", ETH_IP) as sock, datagrams("i-c", "10.0.1.51") as receiver:
        for to, payload in ((mac(ENI_A1), b"another's mac"), (mac("eni-c0"), b"the owner's mac")):
            sock.send(udp_frame(mac(ENI_A0), to, "10.0.1.10", "10.0.1.51", payload))
        assert receiver.recv(100) == b"the owner's mac"
    assert fabric.counters()["misaddressed_frames"] == 1


def test_a_neighbour_entry_from_before_an_address_moved_leads_nowhere(fabric: Fabric) -> None:
    world = _with_neighbour(two_nodes())
    fabric.apply(world)
    moved = with_eni(world, eni("eni-c0", "subnet-a", "10.0.1.50", instance="i-c"))
    fabric.apply(with_eni(moved, eni(ENI_A1, "subnet-a", "10.0.1.20", "10.0.1.51", instance=NODE_A, index=1)))
    netns.ip_batch(NODE_A, ["link set eth1 up", "addr add 10.0.1.51/32 dev eth1"])
    netns.sysctl(NODE_A, {"ipv4/conf/eth1/accept_local": 1})  # the sender is on the same host
    before = fabric.counters()["misaddressed_frames"]
    with wire(NODE_A, "eth0", ETH_IP) as sock, datagrams(NODE_A, "10.0.1.51") as receiver:
        for to, payload in ((mac("eni-c0"), b"stale"), (mac(ENI_A1), b"fresh")):
            sock.send(udp_frame(mac(ENI_A0), to, "10.0.1.10", "10.0.1.51", payload))
        assert receiver.recv(100) == b"fresh"
    assert fabric.counters()["misaddressed_frames"] == before + 1
