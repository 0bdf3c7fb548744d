"""The addresses of a subnet: which are free, where a prefix still fits. Integers, since this is asked constantly."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass
from functools import cache

__all__ = ["NoPrefixError", "Space", "SubnetFullError", "addresses", "mask_of"]

PREFIX = 16
_RESERVED_FIRST, _RESERVED_LAST = 4, 1
"""EC2 keeps the first four addresses and the last of each subnet (VPC User Guide, "Subnet CIDR blocks")."""


class NoPrefixError(Exception):
    """No aligned /28 is free."""


class SubnetFullError(Exception):
    """No address is free."""


@cache
def addresses(block: str) -> tuple[str, ...]:
    """Every address of a block."""
    return tuple(map(str, ipaddress.ip_network(block)))


@cache
def mask_of(block: str) -> int:
    """The block's addresses as bits of a number: two blocks share an address when their masks share a bit."""
    network = ipaddress.IPv4Network(block)
    # all subnets of a simulation lie within one /16
    return ((1 << network.num_addresses) - 1) << (int(network[0]) & 0xFFFF)


@cache
def _names(cidr: str) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, int]]:
    """Addresses, prefixes, and the offset of each of both."""
    network = ipaddress.IPv4Network(cidr)
    singles = tuple(map(str, network))
    prefixes = tuple(map(str, network.subnets(new_prefix=28)))
    offsets = {a: n for n, a in enumerate(singles)} | {p: PREFIX * n for n, p in enumerate(prefixes)}
    return singles, prefixes, offsets


@dataclass(slots=True)
class Space:
    """Free addresses are the bits of ``free``. Which one is given is chance, as in EC2."""

    cidr: str
    rng: random.Random
    free: int = 0

    def __post_init__(self) -> None:
        size = len(_names(self.cidr)[0])
        self.free = ((1 << (size - _RESERVED_LAST)) - 1) >> _RESERVED_FIRST << _RESERVED_FIRST

    @property
    def count(self) -> int:
        return self.free.bit_count()

    def whole(self) -> list[int]:
        """The offsets of the prefixes that are free."""
        free, found, offset = self.free, [], 0
        while free:
            if free & 0xFFFF == 0xFFFF:
                found.append(offset)
            free >>= PREFIX
            offset += PREFIX
        return found

    def take_prefixes(self, count: int) -> tuple[str, ...]:
        """All of them or none (AssignPrivateIpAddresses). Raises :class:`NoPrefixError`."""
        whole = self.whole()
        if len(whole) < count:
            raise NoPrefixError
        chosen = whole[:count] if self.rng.random() < 0.7 else sorted(self.rng.sample(whole, count))
        for offset in chosen:
            self.free &= ~(0xFFFF << offset)
        return tuple(_names(self.cidr)[1][offset // PREFIX] for offset in chosen)

    def take(self, count: int) -> tuple[str, ...]:
        """All of them or none. Raises :class:`SubnetFullError`."""
        if self.free.bit_count() < count:
            raise SubnetFullError
        return tuple(sorted(self._one() for _ in range(count)))

    def _one(self) -> str:
        free = self.free
        if self.rng.random() < 0.3:
            # the next one from somewhere: what fragments a subnet
            start = self.rng.randrange(len(_names(self.cidr)[0]))
            free = free >> start << start or free
        lowest = free & -free
        self.free &= ~lowest
        return _names(self.cidr)[0][lowest.bit_length() - 1]

    def name(self, offset: int) -> str:
        return _names(self.cidr)[0][offset]

    def give(self, block: str) -> None:
        """``block`` is an address, or a prefix with its length."""
        offset = _names(self.cidr)[2][block]
        self.free |= (0xFFFF if "/" in block else 1) << offset
