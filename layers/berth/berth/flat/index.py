"""A snapshot with its things found by name: made once, asked for every flow."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import Any

from berth import routes
from berth.flat.numbers import number, span, within
from berth.flat.snapshot import Acl, Group, Interface, NatGateway, Peering, RouteTable, Snapshot, Subnet
from berth.routes import Routing

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

    def keeps_address(self, interface: Interface, target: int) -> bool:
        """Whether the node of a pod on this interface leaves its address alone on the way to ``target``."""
        return any(within(target, cidr) for cidr in self.no_snat(interface))

    def no_snat(self, interface: Interface) -> tuple[str, ...]:
        """What the node's record lists if the interface serves pods (:mod:`berth.routes`)."""
        serving = self._serving.get(interface.instance or "", frozenset()) | {interface.subnet}
        vpc = self.subnets[interface.subnet].vpc
        key = ("no-snat", vpc, serving)
        if key not in self.memo:
            own = self.vpcs[vpc].cidrs if vpc in self.vpcs else ()
            routing = Routing(own, tuple(self._routed(t) for t in self.snapshot.tables if t.vpc == vpc))
            self.memo[key] = routing.no_snat(serving, self.snapshot.no_snat, self.snapshot.snat)
        found: tuple[str, ...] = self.memo[key]
        return found

    def _routed(self, table: RouteTable) -> routes.RouteTable:
        made = (
            routes.Route(
                cidrs=self.cidrs(r.destination),
                target=r.target,
                rank=2 if r.propagated else 1 if r.destination.startswith("pl-") else 0,
                black_hole=r.black_hole,
            )
            for r in table.routes
        )
        return routes.RouteTable(table.id, table.main, table.subnets, tuple(made))

    @cached_property
    def _serving(self) -> dict[str, frozenset[str]]:
        """Subnets of the interfaces that have addresses for pods, by instance."""
        found: dict[str, frozenset[str]] = {}
        for i in self.snapshot.interfaces:
            if i.instance and i.subnet in self.subnets and (i.prefixes or len(i.addresses) > 1):
                found[i.instance] = found.get(i.instance, frozenset()) | {i.subnet}
        return found
