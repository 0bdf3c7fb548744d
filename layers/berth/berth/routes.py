"""Which destinations see a pod's own address: what route tables say of a VPC's private neighbours. Pure.

A pod keeps its address where whoever is there can answer to it: in the VPC, and wherever a route leads through a
peering connection, a transit gateway, a Cloud WAN core network or a virtual private gateway. Everywhere else the node
rewrites it. What decides for an address is the route that the VPC's router would take (VPC User Guide, "How route
priority works"): the longest prefix; then static routes, those of prefix lists, propagated ones. A more specific route
to a NAT gateway, or one that leads nowhere, is therefore a hole in the larger network around it.

Why default routes are not taken, and what else is left to the operator: docs/decisions/0023.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = ["SHORTEST_PREFIX", "Route", "RouteTable", "Routing", "private", "span"]

Ranges = tuple[tuple[int, int], ...]
"""A set of IPv4 addresses: sorted, disjoint and not adjacent ranges of numbers, with both ends in them."""

SHORTEST_PREFIX: Final = 8
"""Wider destinations are default routes, whole or in parts (0.0.0.0/1): nobody's own network is larger than a /8."""
_PRIVATE: Final = ("pcx-", "tgw-", "vgw-")
_CORE_NETWORK: Final = ":core-network/"
"""Targets behind which a pod's own address can be answered. A core network (Cloud WAN) is named by its ARN."""


@dataclass(frozen=True, slots=True)
class Route:
    """``cidrs`` are its IPv4 destinations, several for a prefix list; ``target`` an id or ``local``.

    ``rank`` orders routes to the same network, the lowest wins: 0 static, 1 by a prefix list, 2 propagated. ``unread``
    is the prefix list of a route whose destinations nobody knows, since it cannot be read; it has no ``cidrs`` then.
    """

    cidrs: tuple[str, ...]
    target: str
    rank: int = 0
    black_hole: bool = False
    unread: str = ""

    @property
    def private(self) -> bool:
        leads = self.target.startswith(_PRIVATE) or _CORE_NETWORK in self.target
        return leads and not self.black_hole


@dataclass(frozen=True, slots=True)
class RouteTable:
    """``subnets`` are those associated by name; the main table serves all others of its VPC."""

    id: str
    main: bool = False
    subnets: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class Routing:
    """How one VPC routes. ``cidrs`` are its own."""

    cidrs: tuple[str, ...] = ()
    tables: tuple[RouteTable, ...] = ()

    def tables_of(self, subnets: Iterable[str]) -> tuple[RouteTable, ...]:
        """The tables that decide for these subnets, each once."""
        wanted = set(subnets)
        named = {s: t for t in self.tables for s in t.subnets}
        main = next((t for t in self.tables if t.main), None)
        found = {t.id: t for t in (named.get(s, main) for s in sorted(wanted)) if t is not None}
        return tuple(found[i] for i in sorted(found))

    def unread(self, subnets: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """(route table, prefix list) of each list that these subnets' routes name and that cannot be read."""
        return tuple(sorted({(t.id, r.unread) for t in self.tables_of(subnets) for r in t.routes if r.unread}))

    def no_snat(
        self,
        subnets: Iterable[str],
        add: Sequence[str] = (),
        never: Sequence[str] = (),
        before: Sequence[str] = (),
    ) -> tuple[str, ...]:
        """Destinations that see the own address of pods in ``subnets``, in the fewest CIDRs.

        Where pods of one node lie behind several route tables, only what all of them lead to privately: a node has one
        list, and a pod whose table does not lead there would be cut off where rewriting serves it. ``add`` and the
        VPC's own CIDRs are always in it; what is in ``never`` is not, whoever else names it.

        ``before`` is what the node's record lists. It matters where a prefix list cannot be read: nothing is taken out
        while that is of a private route, and nothing is put in while it is of another one.
        """
        tables = self.tables_of(subnets)
        known = tuple(before) if any(r.unread for t in tables for r in t.routes) else ()
        return _no_snat(self.cidrs, tables, tuple(add), tuple(never), known)


@lru_cache(maxsize=256)
def _no_snat(
    own: tuple[str, ...],
    tables: tuple[RouteTable, ...],
    add: tuple[str, ...],
    never: tuple[str, ...],
    before: tuple[str, ...],
) -> tuple[str, ...]:
    shared: Ranges = ()
    for number, table in enumerate(tables):
        led = private(table)
        shared = both(shared, led) if number else led
    if before:
        known, unread = _joined(map(span, before)), {r.private for t in tables for r in t.routes if r.unread}
        shared = _joined([*shared, *known]) if True in unread else shared
        shared = both(shared, known) if False in unread else shared
    kept = _joined([*shared, *map(span, (*own, *add))])
    return as_cidrs(minus(kept, _joined(map(span, never))))


def private(table: RouteTable) -> Ranges:
    """The addresses that a table leads to privately. Networks nest, so one pass with a stack finds each one's route."""
    found: list[tuple[int, int]] = []
    around: list[tuple[int, bool]] = []
    at = 0

    def pass_until(end: int) -> None:
        nonlocal at
        if around and around[-1][1] and at <= end:
            found.append((at, end))
        at = max(at, end + 1)

    for (first, last), kept in sorted(_verdicts(table).items(), key=lambda v: (v[0][0], -v[0][1])):
        while around and around[-1][0] < first:
            pass_until(around[-1][0])
            around.pop()
        pass_until(first - 1)
        around.append((last, kept))
    while around:
        pass_until(around[-1][0])
        around.pop()
    return _joined(found)


def _verdicts(table: RouteTable) -> Mapping[tuple[int, int], bool]:
    """Each network that a route names, and whether the best of its routes is private.

    Of prefix lists that overlap AWS picks a route at random (VPC User Guide, "Route priority for prefix lists"): then
    an address is kept only if every pick is private.
    """
    best: dict[tuple[int, int], tuple[int, bool]] = {}
    for route in table.routes:
        for cidr in route.cidrs:
            network = span(cidr)
            kept = route.private and network[1] - network[0] < 1 << (32 - SHORTEST_PREFIX)
            rank, other = best.get(network, (route.rank, True))
            if route.rank <= rank:
                best[network] = (route.rank, kept and (other or route.rank < rank))
    return {network: kept for network, (_, kept) in best.items()}


# ------------------------------------------------------------------------------------------------- sets of addresses


@lru_cache(maxsize=65536)
def span(cidr: str) -> tuple[int, int]:
    """The first and last address of a CIDR, or of one address. Raises ValueError."""
    network = ipaddress.IPv4Network(cidr, strict=False)
    return int(network.network_address), int(network.broadcast_address)


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def minus(one: Ranges, other: Ranges) -> Ranges:
    """What is in the first set and not in the second."""
    left: list[tuple[int, int]] = []
    holes = iter([*other, (1 << 32, 1 << 32)])
    hole = next(holes)
    for first, last in one:
        at = first
        while hole[1] < at:
            hole = next(holes)
        while hole[0] <= last:
            if at < hole[0]:
                left.append((at, hole[0] - 1))
            at = hole[1] + 1
            if hole[1] > last:
                break
            hole = next(holes)
        if at <= last:
            left.append((at, last))
    return tuple(left)


def both(one: Ranges, other: Ranges) -> Ranges:
    """What is in both sets."""
    return minus(one, minus(one, other))


def as_cidrs(ranges: Ranges) -> tuple[str, ...]:
    """The fewest CIDRs that make up the set, in order."""
    address = ipaddress.IPv4Address
    parts = (n for first, last in ranges for n in ipaddress.summarize_address_range(address(first), address(last)))
    return tuple(map(str, parts))
