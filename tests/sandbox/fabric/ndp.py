"""Neighbour discovery messages as whole Ethernet frames (RFC 4861). Pure.

What the router advertises is what instances on EC2 show to have heard: its EUI-64 link-local address as the source, a
lifetime of 1800 s, and the subnet's block as on-link and not for autoconfiguration (``ip -6 route`` in
amazonlinux/amazon-ec2-net-utils#94 and canonical/cloud-init#3302: ``default via fe80::…:…ff:fe…:… proto ra … expires
1794sec``, ``<subnet>/64 … proto ra``, addresses as /128). Hop limit 255 and the managed flag (addresses come by DHCPv6)
are from others' notes of captures there.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.sandbox.fabric.ipv6 import link_local
from tests.sandbox.ping import checksum

__all__ = ["NEIGHBOUR", "ROUTER", "Solicitation", "neighbour_advertisement", "parse", "router_advertisement"]

ROUTER: Final = 133
NEIGHBOUR: Final = 135
_ROUTER_ADVERTISEMENT, _NEIGHBOUR_ADVERTISEMENT = 134, 136
_HOP_LIMIT: Final = 255
_ICMPV6: Final = 58
_ETHERNET, _IPV6 = 14, 40
_LIFETIME: Final = 1800
_MANAGED, _ON_LINK = 0x80, 0x80
_SOLICITED_OVERRIDE: Final = 0x60000000
_FOREVER: Final = 0xFFFFFFFF
_ALL_NODES: Final = ("33:33:00:00:00:01", "ff02::1")


@dataclass(frozen=True, slots=True)
class Solicitation:
    """``kind`` is ROUTER or NEIGHBOUR; ``source`` may be ``::``. ``target`` is empty for the former."""

    kind: int
    mac: str
    source: str
    target: str = ""


def parse(frame: bytes) -> Solicitation | None:
    """A solicitation without extension headers, as every host sends it; None for anything else."""
    icmp = frame[_ETHERNET + _IPV6 :]
    if len(icmp) < 8 or frame[_ETHERNET + 6] != _ICMPV6 or frame[_ETHERNET + 7] != _HOP_LIMIT:
        return None
    mac, source = frame[6:12].hex(":"), str(ipaddress.IPv6Address(frame[_ETHERNET + 8 : _ETHERNET + 24]))
    if icmp[0] == ROUTER:
        return Solicitation(ROUTER, mac, source)
    if icmp[0] == NEIGHBOUR and len(icmp) >= 24:
        return Solicitation(NEIGHBOUR, mac, source, str(ipaddress.IPv6Address(icmp[8:24])))
    return None


def router_advertisement(mac: str, cidrs: Iterable[str]) -> bytes:
    """What the router with this MAC tells all on the link of itself and of the subnet's blocks."""
    body = struct.pack("!BBHII", _HOP_LIMIT, _MANAGED, _LIFETIME, 0, 0) + _link_layer(1, mac)
    for network in map(ipaddress.IPv6Network, cidrs):
        body += struct.pack("!BBBBIII", 3, 4, network.prefixlen, _ON_LINK, _FOREVER, _FOREVER, 0)
        body += network.network_address.packed
    return _frame(_ALL_NODES[0], mac, link_local(mac), _ALL_NODES[1], _ROUTER_ADVERTISEMENT, body)


def neighbour_advertisement(asked: Solicitation, mac: str) -> bytes:
    """The answer that ``asked.target`` is at ``mac``."""
    target = ipaddress.IPv6Address(asked.target).packed
    body = struct.pack("!I", _SOLICITED_OVERRIDE) + target + _link_layer(2, mac)
    return _frame(asked.mac, mac, asked.target, asked.source, _NEIGHBOUR_ADVERTISEMENT, body)


def _link_layer(kind: int, mac: str) -> bytes:
    return struct.pack("!BB", kind, 1) + _mac(mac)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _frame(to_mac: str, from_mac: str, source: str, to: str, kind: int, body: bytes) -> bytes:
    ends = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(to).packed
    length = 4 + len(body)
    pseudo = ends + struct.pack("!II", length, _ICMPV6)
    icmp = struct.pack("!BBH", kind, 0, checksum(pseudo + struct.pack("!BBH", kind, 0, 0) + body)) + body
    header = struct.pack("!IHBB", 6 << 28, length, _ICMPV6, _HOP_LIMIT) + ends
    return _mac(to_mac) + _mac(from_mac) + struct.pack("!H", 0x86DD) + header + icmp
