"""IPv6 addresses of pods, out of the /80 prefixes that EC2 assigns to interfaces. Pure.

A pod that also has IPv4 gets the address that follows from it: a prefix, and the IPv4 address in the low 32 of the
other 48 bits (``2001:db8:1:2:3:0:a00:111`` for 10.0.1.17). So it is as unique as the IPv4 address, cools down with it,
and is as durable; nothing more is kept.

A pod of IPv6 alone gets 47 random bits, under a top bit of 1, which no address of the first kind has. Nothing needs to
cool down: the chance that a new pod gets the address that one of a node's last n pods had is n / 2^47. A node that
starts a pod a second, and counts all of the last hour as too soon, meets one in 4 × 10^10 seconds: once in 1200 years.
Those that are lent, and the last few, are looked at all the same.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

from berth.contract import IpFamilies, Policy, Record

from berth_node.usable import MetadataInterface

__all__ = ["Prefix", "Prefixes", "beside", "in_force", "prefix_of", "prefixes_of"]

LENGTH: Final = 80
"""The only length that EC2 assigns (EC2 User Guide, "Prefix delegation")."""
_PREFIX_BYTES: Final = LENGTH // 8
_ALONE: Final = 1 << 47
_TRIES: Final = 64


def prefix_of(address: str) -> bytes:
    """The /80 that an address belongs to, 10 bytes. Raises OSError for what is no IPv6 address."""
    return socket.inet_pton(socket.AF_INET6, address)[:_PREFIX_BYTES]


def beside(prefix: bytes, address: str) -> str:
    """The IPv6 address of the pod that has this IPv4 address. Raises OSError, ValueError for what is none."""
    if len(prefix) != _PREFIX_BYTES:
        raise ValueError(f"expected the 10 bytes of a /80, got {len(prefix)}")
    return socket.inet_ntop(socket.AF_INET6, prefix + b"\0\0" + socket.inet_pton(socket.AF_INET, address))


@dataclass(frozen=True, slots=True)
class Prefix:
    """A /80 that the record lists. ``usable``: metadata shows it, it is not marked releasing and its link is there."""

    cidr: str
    mac: str
    order: tuple[int, int]
    usable: bool

    @property
    def bytes(self) -> bytes:
        """The 80 bits."""
        return prefix_of(self.cidr.partition("/")[0])


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What a node has of IPv6. ``families``: what its pods get, given what the node can. ``why``: what of that is not
    as the record's policy asks, in words.
    """

    families: IpFamilies = "ipv4"
    listed: tuple[Prefix, ...] = ()
    why: str = ""

    @property
    def usable(self) -> bool:
        """A pod could get an address of one now."""
        return any(p.usable for p in self.listed)

    def beside(self, address: str, mac: str) -> str | None:
        """The address that goes with an IPv4 one on the interface with this MAC; None while no prefix is usable.

        Out of the prefix of the same interface; else of the first one (the primary's, where it has one).
        """
        usable = [p for p in self.listed if p.usable]
        chosen = next((p for p in usable if p.mac == mac), usable[0] if usable else None)
        return beside(chosen.bytes, address) if chosen else None

    def alone(self, random: Callable[[int], int], taken: Collection[str]) -> str | None:
        """A random address that is not ``taken``, out of the first prefix; None while none is usable.

        ``random(n)`` gives a number below n.
        """
        chosen = next((p for p in self.listed if p.usable), None)
        if chosen is None:
            return None
        for _ in range(_TRIES):
            host = _ALONE | random(_ALONE)
            address = socket.inet_ntop(socket.AF_INET6, chosen.bytes + host.to_bytes(6, "big"))
            if address not in taken:
                return address
        return None

    def counterparts(self, address: str) -> tuple[str, ...]:
        """Every IPv6 address that the pod of an IPv4 one may have had."""
        return tuple(beside(p.bytes, address) for p in self.listed)

    def only(self, routed: Collection[tuple[str, str]]) -> Prefixes:
        """With all prefixes unusable but these, which are (MAC, CIDR)."""
        if all(not p.usable or (p.mac, p.cidr) in routed for p in self.listed):
            return self
        listed = tuple(replace(p, usable=p.usable and (p.mac, p.cidr) in routed) for p in self.listed)
        return replace(self, listed=listed, why="" if any(p.usable for p in listed) else _missing(listed))


def prefixes_of(
    record: Record, metadata: Collection[MetadataInterface], links: Collection[str], refusal: str, patient: bool
) -> Prefixes:
    """What the record asks for, and what of it there is.

    ``refusal`` is why the kernel has no IPv6, "" if it has. ``patient``: prefixes that the record does not list yet
    are still expected; else a node without any gives its pods IPv4 alone.
    """
    wanted = record.policy.ip_families
    if wanted == "ipv4":
        return Prefixes()
    if refusal:
        return Prefixes(why=f"pods get IPv4 alone: {refusal}")
    shown = {m.mac: m.ipv6_prefixes for m in metadata}
    listed = tuple(
        Prefix(
            cidr,
            i.mac,
            (i.network_card, i.device_index),
            cidr in shown.get(i.mac, ())
            and not releasing
            and i.mac in links
            and not (record.policy.spare_primary and i.primary),
        )
        for i in sorted(record.interfaces, key=lambda i: (i.network_card, i.device_index))
        for cidr, releasing in sorted((str(ipaddress.IPv6Network(a.cidr)), a.releasing) for a in i.ipv6_assignments)
        if cidr.endswith(f"/{LENGTH}")
    )
    if wanted == "dual" and not listed and not patient:
        why = "pods get IPv4 alone: the record lists no IPv6 prefix; does the subnet have an IPv6 CIDR with room?"
        return Prefixes(why=why)
    why = "" if any(p.usable for p in listed) else _missing(listed)
    return Prefixes(wanted, listed, why)


def _missing(listed: Collection[Prefix]) -> str:
    if not listed:
        return "the node's record lists no IPv6 prefix yet; the reconcile function assigns one"
    return "no IPv6 prefix of the record is usable: metadata or links do not show them"


def in_force(policy: Policy, families: IpFamilies) -> Policy:
    """The policy of the IPv4 pool. Pods of IPv6 alone need none of it: the one address that stays is the control
    plane's minimum (docs/decisions/0003, 0005), and not a shortage of the rest."""
    if families != "ipv6":
        return replace(policy, ip_families=families) if policy.ip_families != families else policy
    return replace(policy, ip_families=families, warm_addresses=0, minimum_addresses=1)
