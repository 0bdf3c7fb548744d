"""What the node may lend: the blocks on which its record and instance metadata agree.

Metadata alone also lists virtual and foreign addresses and lags behind EC2; the record alone may be ahead of what the
interface really has. Both together are the rule, and the link must be there.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from berth.contract import Assignment, Interface, Record

from berth_node.seams import InterfaceLayout, table_of

__all__ = ["Block", "MetadataInterface", "Own", "addresses_of", "blocks_of", "layouts_of", "owns_of", "unusable_of"]


@dataclass(frozen=True, slots=True)
class MetadataInterface:
    """One interface as instance metadata shows it. ``addresses`` has the primary one first; ``prefixes`` are /28.

    ``ipv6_prefixes`` (/80) are read, and so are there, only where pods get IPv6.
    """

    mac: str
    device_index: int
    addresses: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    ipv6_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A block that the record lists. ``order`` is the interface's place: (network card, device index).

    ``shown``: metadata shows it. ``usable``: shown, not marked releasing, its interface's link is present and serves
    pods. ``spared``: its interface serves none; it is given back when no pod uses it.
    """

    cidr: str
    assignment: str
    mac: str
    order: tuple[int, int]
    usable: bool
    shown: bool = True
    releasing: bool = False
    spared: bool = False


@functools.lru_cache(maxsize=4096)
def addresses_of(cidr: str) -> tuple[str, ...]:
    """Every address of a block, in numeric order: EC2 reserves none inside a /28 prefix."""
    return tuple(str(a) for a in ipaddress.IPv4Network(cidr))


def _shown(interface: Interface, assignment: Assignment, metadata: dict[str, MetadataInterface]) -> bool:
    seen = metadata.get(interface.mac)
    if seen is None:
        return False
    address, _, length = assignment.cidr.partition("/")
    # A prefix's first address may also be listed as a single one: only the right list counts.
    return address in seen.addresses if length == "32" else assignment.cidr in seen.prefixes


def blocks_of(record: Record, metadata: Collection[MetadataInterface], links: Collection[str]) -> tuple[Block, ...]:
    """Every block of the record in lending order (interface by interface), with what may be done with it.

    ``links`` are the MACs of the links present in the node's namespace, lower case.
    """
    by_mac = {m.mac: m for m in metadata}
    blocks = []
    for interface in record.interfaces:
        spared = record.policy.spare_primary and interface.primary
        for a in interface.assignments:
            shown = _shown(interface, a, by_mac)
            usable = shown and not a.releasing and interface.mac in links and not spared
            order = (interface.network_card, interface.device_index)
            blocks.append(Block(a.cidr, a.id, interface.mac, order, usable, shown, a.releasing, spared))
    return tuple(sorted(blocks, key=lambda b: (b.order, ipaddress.IPv4Network(b.cidr))))


@dataclass(frozen=True, slots=True)
class Own:
    """An interface that one pod has for itself: that pod's address, and where its routes are."""

    address: str
    table: int


def owns_of(
    record: Record, metadata: Collection[MetadataInterface], routed: Collection[InterfaceLayout]
) -> dict[str, Own]:
    """Interfaces of single pods by their requests' ids: those that metadata shows too, and that are routed."""
    shown = {m.mac: m.addresses[:1] for m in metadata}
    tables = {i.mac: table_of(i.network_card, i.device_index) for i in routed if i.pod}
    return {
        i.pod: Own(i.primary_address, tables[i.mac])
        for i in record.interfaces
        if i.pod and i.mac in tables and shown.get(i.mac) == (i.primary_address,)
    }


def unusable_of(blocks: Collection[Block]) -> tuple[str, ...]:
    """The blocks of the record that metadata does not show, for the report."""
    return tuple(b.cidr for b in blocks if not b.shown)


def layouts_of(record: Record, links: Collection[str], *, ipv6: bool = False) -> tuple[InterfaceLayout, ...]:
    """The interfaces to route: those of the record whose link is present, with all their blocks; IPv6
    prefixes only with ``ipv6``.

    Releasing blocks stay routed: a pod may still hold an address of one, until a Lambda has taken the mark off again.
    """
    present = (i for i in record.interfaces if i.mac in links)
    return tuple(
        InterfaceLayout(
            mac=i.mac,
            device_index=i.device_index,
            network_card=i.network_card,
            subnet_cidr=i.subnet_cidr,
            gateway=i.gateway,
            primary_address=i.primary_address,
            blocks=tuple(sorted(a.cidr for a in i.assignments)),
            ipv6_blocks=tuple(sorted(_plain(a.cidr) for a in i.ipv6_assignments if a.cidr.endswith("/80")))
            if ipv6
            else (),
            pod=bool(i.pod),
        )
        for i in sorted(present, key=lambda i: (i.network_card, i.device_index))
    )


def _plain(cidr: str) -> str:
    return str(ipaddress.IPv6Network(cidr))
