"""Which blocks of a subnet nobody uses: how many prefixes it could still give. Pure.

EC2 assigns a /28 only where all 16 addresses are free ("Prefix delegation", EC2 User Guide), so a subnet with many free
addresses may have no free prefix. AvailableIpAddressCount does not tell; the addresses in use do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from berth.model import PREFIX_SIZE

__all__ = ["BlockMap", "Room", "usable_size"]

_KEPT_FIRST: Final = 4
"""EC2 keeps the first four addresses of a subnet and the last one (VPC User Guide, "Subnet CIDR blocks")."""
_KEPT: Final = _KEPT_FIRST + 1


def usable_size(cidr: str) -> int:
    """Addresses of a subnet that interfaces may have."""
    return max(ipaddress.ip_network(cidr).num_addresses - _KEPT, 1)


@dataclass(frozen=True, slots=True)
class Room:
    """``free_prefixes`` of ``prefixes`` /28 blocks have no address in use; ``largest`` is the largest free block.

    Both are upper bounds: EC2 does not show a VPC's owner or participants all that the others use in a shared subnet,
    and keeps a released address back for a while. ``largest`` is "" when nothing is free.
    """

    free_prefixes: int
    prefixes: int
    largest: str


class BlockMap:
    """One bit of knowledge for each address of a subnet: a byte each, so 64 KB for the largest one (/16)."""

    def __init__(self, cidr: str) -> None:
        self._network = ipaddress.IPv4Network(cidr)
        size = self._network.num_addresses
        self._free = bytearray(b"\x01" * size)
        kept = min(_KEPT_FIRST, size)
        self._free[:kept] = bytes(kept)
        self._free[-1] = 0

    def use(self, blocks: Iterable[str]) -> None:
        """Addresses and CIDRs that somebody has; what lies outside of the subnet is left out of account."""
        for block in blocks:
            taken = ipaddress.IPv4Network(block)
            start = max(int(taken[0]) - int(self._network[0]), 0)
            end = min(int(taken[-1]) - int(self._network[0]) + 1, len(self._free))
            if start < end:
                self._free[start:end] = bytes(end - start)

    def room(self) -> Room:
        """Halve the map again and again: a block is free when both of its halves are."""
        level, length, largest, free_prefixes = bytes(self._free), 32, "", 0
        while True:
            first = level.find(1)
            if first >= 0:
                start = int(self._network[0]) + first * 2 ** (32 - length)
                largest = str(ipaddress.IPv4Network((start, length)))
            if 2 ** (32 - length) == PREFIX_SIZE:
                free_prefixes = level.count(1)
            if len(level) == 1:
                break
            level = bytes(map(int.__and__, level[::2], level[1::2]))
            length -= 1
        # the first and the last block of a subnet hold addresses that EC2 keeps
        return Room(free_prefixes, max(len(self._free) // PREFIX_SIZE - 2, 0), largest)
