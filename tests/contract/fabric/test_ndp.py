"""What the VPC's router says of itself and of neighbours, byte by byte, and which links it says it on. Pure."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.netns.fabric.vpc import ENI_A0, ENI_A1, ENI_B0, mac, two_nodes
from tests.netns.fabric.vpc6 import A0, PREFIX_A1, dual_stack
from tests.sandbox.fabric import ndp, port_name
from tests.sandbox.fabric.ipv6 import link_local
from tests.sandbox.fabric.layout import lay_out
from tests.sandbox.ping import checksum

ROUTER_MAC = "0a:56:bd:f0:20:4f"
SOURCE = slice(22, 38)
DESTINATION = slice(38, 54)


def address(frame: bytes, where: slice) -> str:
    return str(ipaddress.IPv6Address(frame[where]))


def sound(frame: bytes) -> bool:
    """Whether the lengths and the ICMPv6 checksum hold (RFC 4443, section 2.3)."""
    length = struct.unpack_from("!H", frame, 18)[0]
    pseudo = frame[22:54] + struct.pack("!II", length, 58)
    return len(frame) == 54 + length and checksum(pseudo + frame[54:]) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # as hosts on EC2 show them, see the module's sources
        ("02:60:cb:cf:19:3e", "fe80::60:cbff:fecf:193e"),
        ("06:cd:89:d2:f7:1f", "fe80::4cd:89ff:fed2:f71f"),
    ],
)
def test_a_link_local_address_follows_from_the_mac(text: str, expected: str) -> None:
    assert link_local(text) == expected


def test_a_router_advertisement_names_the_router_and_the_block_and_leaves_addresses_to_dhcp() -> None:
    frame = ndp.router_advertisement(ROUTER_MAC, ("2001:db8:1:1::/64",))
    assert sound(frame)
    assert (address(frame, SOURCE), address(frame, DESTINATION)) == (link_local(ROUTER_MAC), "ff02::1")
    assert (frame[:6].hex(":"), frame[6:12].hex(":"), frame[21]) == ("33:33:00:00:00:01", ROUTER_MAC, 255)
    kind, code, _, hops, flags, lifetime = struct.unpack_from("!BBHBBH", frame, 54)
    assert (kind, code, hops, flags, lifetime) == (134, 0, 255, 0x80, 1800)
    link_layer, block = frame[70:78], frame[78:]
    assert link_layer == b"\x01\x01" + bytes.fromhex(ROUTER_MAC.replace(":", ""))
    assert struct.unpack_from("!BBBBII", block) == (3, 4, 64, 0x80, 0xFFFFFFFF, 0xFFFFFFFF)
    assert address(block, slice(16, 32)) == "2001:db8:1:1::"


def test_a_neighbour_advertisement_answers_whoever_asked() -> None:
    asked = ndp.Solicitation(ndp.NEIGHBOUR, mac(ENI_A0), A0, "2001:db8:1:1::c0")
    frame = ndp.neighbour_advertisement(asked, "02:00:00:00:00:c0")
    assert sound(frame)
    assert (address(frame, SOURCE), address(frame, DESTINATION)) == ("2001:db8:1:1::c0", A0)
    assert frame[:6].hex(":") == mac(ENI_A0)
    assert (frame[54], frame[58] & 0xE0) == (136, 0x60)  # solicited, override, no router
    assert frame[78:] == b"\x02\x01" + bytes.fromhex("0200000000c0")


@given(st.binary(max_size=120))
def test_any_frame_is_read_or_passed_over(frame: bytes) -> None:
    asked = ndp.parse(frame)
    assert asked is None or asked.kind in (ndp.ROUTER, ndp.NEIGHBOUR)


@pytest.mark.parametrize(("kind", "target"), [(ndp.ROUTER, ""), (ndp.NEIGHBOUR, "2001:db8:1:1::c0")])
def test_a_solicitation_is_read_whole_and_only_with_the_hop_limit_that_no_router_lets_through(
    kind: int, target: str
) -> None:
    body = bytes(4) + (ipaddress.IPv6Address(target).packed if target else b"")
    ends = ipaddress.IPv6Address(A0).packed + ipaddress.IPv6Address("ff02::2").packed
    head = bytes.fromhex("333300000002" + mac(ENI_A0).replace(":", "") + "86dd")
    for hops, expected in ((255, ndp.Solicitation(kind, mac(ENI_A0), A0, target)), (64, None)):
        frame = head + struct.pack("!IHBB", 6 << 28, 4 + len(body), 58, hops) + ends + bytes([kind, 0, 0, 0]) + body
        assert ndp.parse(frame) == expected
        assert ndp.parse(frame[:-1]) is None


def test_links_of_subnets_without_a_block_are_not_spoken_on() -> None:
    assert lay_out(two_nodes()).links == {}
    links = lay_out(dual_stack()).links
    assert links[port_name(ENI_A0)].cidrs == links[port_name(ENI_A1)].cidrs == ("2001:db8:1:1::/64",)
    assert links[port_name(ENI_B0)].cidrs == ("2001:db8:1:2::/64",)


def test_addresses_prefixes_and_the_router_are_answered_for_on_their_own_subnet_alone() -> None:
    layout = lay_out(dual_stack())
    owners = layout.owners
    assert owners["subnet-a", f"{A0}/128"] == mac(ENI_A0)
    assert owners["subnet-a", PREFIX_A1] == mac(ENI_A1)
    assert owners["subnet-a", "2001:db8:1:1::1/128"] == layout.ports[port_name(ENI_A0)].gateway_mac
    assert ("subnet-b", PREFIX_A1) not in owners
