"""Sets of ports, and addresses as numbers. A set of ports is sorted, disjoint ranges with both ends in it."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from berth.routes import span

__all__ = [
    "ALL_PORTS",
    "EPHEMERAL",
    "NAT_PORTS",
    "NO_PORTS",
    "ONE",
    "Ports",
    "both",
    "minus",
    "number",
    "shown",
    "span",
    "text",
    "within",
]

Ports = tuple[tuple[int, int], ...]

NO_PORTS: Final[Ports] = ()
ALL_PORTS: Final[Ports] = ((1, 65535),)
ONE: Final[Ports] = ((0, 0),)
"""Stands for "the message", where a protocol has no ports."""
EPHEMERAL: Final[Ports] = ((32768, 60999),)
"""Ports that a Linux client calls from, unless told otherwise (ip(7), ip_local_port_range)."""
NAT_PORTS: Final[Ports] = ((1024, 65535),)
"""Ports that a NAT gateway calls from (VPC user guide, "NAT gateway basics")."""


@lru_cache(maxsize=65536)
def number(address: str) -> int:
    """An IPv4 address as a number. Raises ValueError."""
    return int(ipaddress.IPv4Address(address))


def within(address: int, cidr: str) -> bool:
    first, last = span(cidr)
    return first <= address <= last


def text(address: int) -> str:
    return str(ipaddress.IPv4Address(address))


def both(one: Ports, other: Ports) -> Ports:
    """What is in both sets."""
    found = [(max(a, c), min(b, d)) for a, b in one for c, d in other if max(a, c) <= min(b, d)]
    return tuple(sorted(found))


def minus(one: Ports, other: Ports) -> Ports:
    """What is in the first set and not in the second."""
    left = list(one)
    for c, d in other:
        left = [part for a, b in left for part in ((a, min(b, c - 1)), (max(a, d + 1), b)) if part[0] <= part[1]]
    return tuple(sorted(left))


def shown(ports: Ports) -> str:
    """``22, 80-443``; ``all ports``; "" for a protocol without ports."""
    if ports == ONE:
        return ""
    if ports in (ALL_PORTS, ((0, 65535),)):
        return "all ports"
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ports) or "no port"
