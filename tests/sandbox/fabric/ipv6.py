"""The IPv6 half of :mod:`layout <tests.sandbox.fabric.layout>`: addresses, routes and set elements. Pure.

The VPC's router is reached at two link-local addresses, the EUI-64 one of its MAC and ``fe80:ec2::1``, and at the first
address of the subnet's block (VPC user guide, "Subnet CIDR blocks", on reserved IPv6 addresses; AWS what's-new of
November 2022, "IPv6 subnet default gateway router on multiple addresses").

EC2 delivers what is sent to a prefix to the interface that it is assigned to. So here: a route for each address and
/80, with the interface's own link-local address as next hop, whose neighbour entry is permanent. No instance is ever
asked where an address of its own is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.sandbox.world import Eni, Subnet

__all__ = [
    "IGW_PEER6",
    "ROUTER",
    "Link",
    "egress_only",
    "elements",
    "is_ipv6",
    "link_local",
    "owned",
    "owners",
    "target_of",
]

ROUTER: Final = "fe80:ec2::1"
"""The router's address on every link."""


@dataclass(frozen=True, slots=True)
class Link:
    """What the router says of itself on a port of a subnet with IPv6: its MAC there, and the subnet's blocks."""

    subnet: str
    mac: str
    cidrs: tuple[str, ...]


def is_ipv6(text: str) -> bool:
    """Whether an address or a network is one of IPv6."""
    return ":" in text


def link_local(mac: str) -> str:
    """The EUI-64 link-local address of a MAC (RFC 4291, appendix A). EC2 delivers to no other one of an interface."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


IGW_PEER6: Final = link_local("0a:00:00:01:00:02")
"""The internet's end of the internet gateway."""


def owned(eni: Eni) -> tuple[str, ...]:
    """Every IPv6 address and prefix that is assigned to the interface."""
    return (*eni.ipv6_addresses, *eni.ipv6_prefixes)


def target_of(destination: str, target: str) -> str | None:
    """The next hop of a subnet's IPv6 route, or None for the local one. What IPv6 cannot use here is a black hole."""
    if target == "local":
        return None
    return f"via {IGW_PEER6} dev igw onlink" if target.startswith(("igw-", "eigw-")) else "blackhole"


def elements(eni: Eni, port: str, table: int, *, checked: bool) -> Iterator[tuple[tuple[str, str], str]]:
    """What the router's sets say of an interface, as in ``Layout.elements``."""
    quoted = f'"{port}"'
    yield ("ip6 subnet_of", quoted), hex(table)
    if not checked:
        yield ("ip6 unchecked", quoted), ""
    yield ("ip6 assigned", f"{quoted} . {link_local(eni.mac)}"), ""
    for block in owned(eni):
        yield ("ip6 assigned", f"{quoted} . {block}"), ""
        yield ("netdev owners6", f"{eni.mac} . {block}"), ""


def owners(eni: Eni) -> Iterator[tuple[tuple[str, str], str]]:
    """(subnet, block) to MAC, with each address as a /128: what is answered to the neighbours."""
    for block in owned(eni):
        yield (eni.subnet_id, str(ipaddress.IPv6Network(block))), eni.mac


def egress_only(subnets: Iterable[Subnet]) -> Iterator[str]:
    """Blocks of subnets that reach the internet through an egress-only internet gateway."""
    for subnet in subnets:
        if any(route.target.startswith("eigw-") for route in subnet.routes):
            yield from subnet.ipv6_cidrs
