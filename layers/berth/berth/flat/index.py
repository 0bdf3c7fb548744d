"""A snapshot with its things found by name: made once, asked for every flow."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import Any

from berth.flat.numbers import number, span, within
from berth.flat.snapshot import Acl, Group, Interface, NatGateway, Peering, RouteTable, Snapshot, Subnet

__all__ = ["Index"]


class Index:
    """Look-ups in one snapshot. What the snapshot lacks is None or empty, never an error."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.subnets = {s.id: s for s in snapshot.subnets}
        self.vpcs = {v.id: v for v in snapshot.vpcs}
        self.groups: dict[str, Group] = {g.id: g for g in snapshot.groups}
        self.prefix_lists = {p.id: p for p in snapshot.prefix_lists}
        self.nat_gateways: dict[str, NatGateway] = {n.id: n for n in snapshot.nat_gateways}
        self.peerings: dict[str, Peering] = {p.id: p for p in snapshot.peerings}
        self.interfaces = {i.id: i for i in snapshot.interfaces}
        self.nodes = frozenset(snapshot.nodes)
        self._acls: dict[str, Acl] = {subnet: acl for acl in snapshot.acls for subnet in acl.subnets}
        self._tables: dict[str, RouteTable] = {s: t for t in snapshot.tables for s in t.subnets}
        self._main = {t.vpc: t for t in snapshot.tables if t.main}
        self.memo: dict[tuple[object, ...], Any] = {}
        """Rules and routes that were found for an address once: a matrix asks for each of them very often."""

    def acl(self, subnet: Subnet) -> Acl | None:
        return self._acls.get(subnet.id)

    def table(self, subnet: Subnet) -> RouteTable | None:
        """The table that the subnet is associated with, else its VPC's main one."""
        return self._tables.get(subnet.id) or self._main.get(subnet.vpc)

    def cidrs(self, destination: str) -> tuple[str, ...]:
        """Of a route's destination: itself, or what a prefix list holds."""
        if not destination.startswith("pl-"):
            return (destination,)
        found = self.prefix_lists.get(destination)
        return found.cidrs if found else ()

    def holder(self, vpc: str, address: int) -> Interface | None:
        """The interface of a VPC to which an address is assigned."""
        if found := self._holders.get((vpc, address)):
            return found
        starts, blocks = self._blocks.get(vpc, ((), ()))
        at = bisect_right(starts, address) - 1  # prefixes of a VPC do not overlap
        return blocks[at][1] if at >= 0 and address <= blocks[at][0] else None

    @cached_property
    def _holders(self) -> dict[tuple[str, int], Interface]:
        found: dict[tuple[str, int], Interface] = {}
        for interface in self.snapshot.interfaces:
            if subnet := self.subnets.get(interface.subnet):
                found |= {(subnet.vpc, number(a)): interface for a in interface.addresses}
        return found

    @cached_property
    def _blocks(self) -> dict[str, tuple[tuple[int, ...], tuple[tuple[int, Interface], ...]]]:
        """By VPC: where each prefix begins, in order, and its last address with who holds it."""
        found: dict[str, list[tuple[int, int, Interface]]] = {}
        for interface in self.snapshot.interfaces:
            if subnet := self.subnets.get(interface.subnet):
                found.setdefault(subnet.vpc, []).extend((*span(p), interface) for p in interface.prefixes)
        made = {vpc: sorted(blocks, key=lambda b: b[0]) for vpc, blocks in found.items()}
        return {v: (tuple(b[0] for b in blocks), tuple(b[1:] for b in blocks)) for v, blocks in made.items()}

    @cached_property
    def primaries(self) -> dict[str, Interface]:
        """The primary interface of each instance."""
        return {str(i.instance): i for i in self.snapshot.interfaces if i.primary}

    def in_vpc(self, vpc: str, address: int) -> bool:
        return vpc in self.vpcs and any(within(address, c) for c in self.vpcs[vpc].cidrs)

    def keeps_address(self, vpc: str, target: int) -> bool:
        """Whether a node of this VPC leaves a pod's address alone on the way to ``target``."""
        return self.in_vpc(vpc, target) or any(within(target, c) for c in self.snapshot.no_snat)
