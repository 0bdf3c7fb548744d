"""A small VPC for the tests, and the means to send through it: echo servers, forged packets, raw frames."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.sandbox import netns
from tests.sandbox.echo import EchoServers
from tests.sandbox.ping import checksum
from tests.sandbox.waiting import eventually
from tests.sandbox.world import Eni, Instance, Route, Subnet, World

NODE_A, NODE_B = "i-0000000000000000a", "i-0000000000000000b"
ENI_A0, ENI_A1, ENI_B0, ENI_B1, ENI_NAT = (f"eni-000000000000000{n}" for n in ("a0", "a1", "b0", "b1", "0f"))
EIP = "203.0.113.5"
ETH_IP, ETH_ARP = 0x0800, 0x0806
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75


def mac(eni_id: str) -> str:
    return f"02:00:00:00:00:{eni_id[-2:]}"


def subnets() -> tuple[Subnet, ...]:
    public = (Route("10.0.0.0/16", "local"), Route("0.0.0.0/0", "igw-1"))
    private = (
        Route("10.0.0.0/16", "local"),
        Route("0.0.0.0/0", "nat-1"),
        Route("192.168.50.0/24", "vgw-1"),
        Route("172.30.9.0/24", "vgw-1"),
    )
    return (
        Subnet("subnet-public", "10.0.0.0/24", "eu-west-1a", "vpc-1", public),
        Subnet("subnet-a", "10.0.1.0/24", "eu-west-1a", "vpc-1", private),
        Subnet("subnet-b", "10.0.2.0/24", "eu-west-1b", "vpc-1", private),
    )


def eni(eni_id: str, subnet: str, *addresses: str, instance: str | None = None, index: int = 0, **more: object) -> Eni:
    return replace(
        Eni(eni_id, mac(eni_id), subnet, addresses, instance_id=instance, device_index=index),
        **more,  # type: ignore[arg-type]
    )


def instance(instance_id: str, state: str = "running", **more: object) -> Instance:
    made = Instance(
        id=instance_id,
        arn=f"arn:aws:ec2:eu-west-1:123456789012:instance/{instance_id}",
        state=state,
        type="m5.large",
        zone="eu-west-1a",
        image="ami-1",
        launched_at=1_700_000_000.0,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def two_nodes() -> World:
    """Node A in subnet a with a secondary interface, node B in subnet b; NAT gateway in the public subnet."""
    return World(
        vpc_cidrs=("10.0.0.0/16",),
        subnets=subnets(),
        instances=(instance(NODE_A), instance(NODE_B)),
        enis=(
            eni(ENI_A0, "subnet-a", "10.0.1.10", "10.0.1.11", instance=NODE_A),
            eni(ENI_A1, "subnet-a", "10.0.1.20", instance=NODE_A, index=1, prefixes=("10.0.1.32/28",)),
            eni(ENI_B0, "subnet-b", "10.0.2.10", "10.0.2.11", instance=NODE_B),
            eni(ENI_NAT, "subnet-public", "10.0.0.5", source_check=False, public_address=EIP),
        ),
        nat=(("nat-1", "10.0.0.5"),),
    )


def with_eni(world: World, changed: Eni) -> World:
    """The world with one interface added or replaced."""
    return replace(world, enis=(*(e for e in world.enis if e.id != changed.id), changed))


def without_eni(world: World, eni_id: str) -> World:
    return replace(world, enis=tuple(e for e in world.enis if e.id != eni_id))


def with_state(world: World, instance_id: str, state: str) -> World:
    changed = tuple(replace(i, state=state) if i.id == instance_id else i for i in world.instances)
    return replace(world, instances=changed)


def route_secondary(node: str, device: str, gateway: str, *addresses: str) -> None:
    """What an agent does, at its shortest: configure a secondary interface and choose it by source address."""
    lines = [f"link set {device} up", f"route add default via {gateway} dev {device} onlink table 77"]
    for address in addresses:
        lines += [f"addr add {address}/32 dev {device}", f"rule add from {address} lookup 77"]
    netns.ip_batch(node, lines)


@contextmanager
def server(where: str, address: str) -> Iterator[None]:
    """An echo server of no name in a namespace, and all links ready."""
    with EchoServers() as servers:
        servers.add(where, address=address)
        assert eventually(lambda: netns.settled(*netns.names()))
        yield


def send_as(where: str, source: str, address: str, payload: bytes = b"x") -> None:
    """One UDP packet to port 9 with any source address, assigned to this host or not."""
    with netns.open_socket(where, netns.family_of(address), socket.SOCK_DGRAM) as sock:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        sock.bind((source, 0))
        sock.sendto(payload, (address, 9))


@contextmanager
def datagrams(where: str, address: str) -> Iterator[socket.socket]:
    """A UDP socket on port 9."""
    with netns.open_socket(where, kind=socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        sock.bind((address, 9))
        yield sock


@contextmanager
def wire(where: str, device: str, protocol: int) -> Iterator[socket.socket]:
    """A packet socket that sends and sees whole frames."""
    with netns.inside(where):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    with sock:
        sock.settimeout(3)
        sock.bind((device, protocol))
        yield sock


def packed(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", "")) if ":" in address else socket.inet_aton(address)


def arp_request(own_mac: str, own: str, wanted: str) -> bytes:
    ethernet = b"\xff" * 6 + packed(own_mac) + struct.pack("!H", ETH_ARP)
    return (
        ethernet + struct.pack("!HHBBH", 1, ETH_IP, 6, 4, 1) + packed(own_mac) + packed(own) + bytes(6) + packed(wanted)
    )


def arp_answer(sock: socket.socket) -> tuple[str, str]:
    """The next ARP reply: (address, MAC)."""
    while True:
        frame = sock.recv(2048)
        if struct.unpack_from("!H", frame, 20)[0] == 2:
            return socket.inet_ntoa(frame[28:32]), frame[22:28].hex(":")


def udp_frame(own_mac: str, to_mac: str, own: str, to: str, payload: bytes) -> bytes:
    """A whole frame with a UDP packet to port 9 (UDP checksum left out, which IPv4 allows)."""
    udp = struct.pack("!HHHH", 4000, 9, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + packed(own) + packed(to)
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return packed(to_mac) + packed(own_mac) + struct.pack("!H", ETH_IP) + header + udp
