"""Where a subnet's route table sends a packet.

Order of routes (VPC user guide, "How route priority works"): longest prefix; then static routes, those of prefix lists,
propagated ones. A propagated route never beats the VPC's local one, however specific it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from berth.flat.index import Index
from berth.flat.numbers import span, text, within
from berth.flat.packets import Finding
from berth.flat.snapshot import Interface, NatGateway, Peering, Route, RouteTable, Subnet

__all__ = ["Hop", "next_hop"]


@dataclass(frozen=True, slots=True)
class Hop:
    """The next place: ``local`` (an address of the VPC), ``nat``, ``internet``, ``outside`` (VPN or transit gateway),
    ``peering``, ``appliance`` (an interface that forwards), ``unknown``, or ``nowhere`` with the reason."""

    kind: Literal["local", "nat", "internet", "outside", "peering", "appliance", "unknown", "nowhere"]
    target: str = ""
    nat: NatGateway | None = None
    peering: Peering | None = None
    interface: Interface | None = None
    finding: Finding | None = None


def best_route(index: Index, table: RouteTable, target: int) -> tuple[Route, str] | None:
    """The route that decides, with the CIDR by which it matched."""
    found = [(route, cidr) for route in table.routes for cidr in index.cidrs(route.destination) if within(target, cidr)]
    if any(route.target == "local" for route, _ in found):
        found = [(route, cidr) for route, cidr in found if not route.propagated]
    return max(found, key=lambda f: _rank(*f), default=None)


def _rank(route: Route, cidr: str) -> tuple[int, bool, bool]:
    """The larger, the better: longest prefix; static before propagated; itself before by a prefix list."""
    return _length(cidr), not route.propagated, route.destination == cidr


def _length(cidr: str) -> int:
    first, last = span(cidr)
    return 32 - (last - first).bit_length()


def next_hop(index: Index, subnet: Subnet, target: int) -> Hop:
    """Where the subnet's table sends a packet to ``target``."""
    key = (subnet.id, target)
    if key not in index.memo:
        index.memo[key] = _find_hop(index, subnet, target)
    found: Hop = index.memo[key]
    return found


def _find_hop(index: Index, subnet: Subnet, target: int) -> Hop:
    table = index.table(subnet)
    found = best_route(index, table, target) if table else None
    if table is None or found is None:
        name = table.id if table else f"the main route table of {subnet.vpc}"
        return _nowhere(
            "no-route",
            name,
            f"{name} of {subnet.id} has no route to {text(target)}",
            f"add to {name} a route for {text(target)}/32 or the network around it, to the gateway that leads there",
        )
    route, _ = found
    if route.black_hole:
        return _nowhere(
            "black-hole",
            table.id,
            f"the route {route.destination} → {route.target or 'nothing'} of {table.id} ({subnet.id}) is a black hole: "
            "its target is gone or detached",
            f"in {table.id} replace the route {route.destination} by one to a target that exists, or delete it",
        )
    if route.target == "local":
        return Hop("local", route.target)
    return _by_kind(index, subnet, table, route)


def _by_kind(index: Index, subnet: Subnet, table: RouteTable, route: Route) -> Hop:
    kind = route.target.split("-", 1)[0]
    if kind == "nat":
        return _to_nat(index, table, route)
    if kind == "pcx":
        return _to_peering(index, subnet, table, route)
    if kind == "eni" or kind == "i":
        return _to_interface(index, table, route)
    if kind == "igw":
        attached = any(g.id == route.target and subnet.vpc in g.vpcs for g in index.snapshot.internet_gateways)
        return Hop("internet", route.target) if attached else _detached(table, route, "internet gateway", subnet.vpc)
    if kind == "vgw":
        attached = any(g.id == route.target and subnet.vpc in g.vpcs for g in index.snapshot.vpn_gateways)
        return Hop("outside", route.target) if attached else _detached(table, route, "VPN gateway", subnet.vpc)
    if kind == "tgw":
        return _to_transit(index, subnet, table, route)
    return Hop("unknown", route.target)


def _nowhere(code: str, resource: str, what: str, remedy: str) -> Hop:
    return Hop("nowhere", finding=Finding(code, resource, what, remedy))


def _detached(table: RouteTable, route: Route, what: str, vpc: str) -> Hop:
    return _nowhere(
        "wrong-gateway",
        table.id,
        f"the route {route.destination} of {table.id} leads to the {what} {route.target}, "
        f"which is not attached to {vpc}",
        f"attach {route.target} to {vpc}, or route {route.destination} in {table.id} to a gateway of this VPC",
    )


def _to_nat(index: Index, table: RouteTable, route: Route) -> Hop:
    gateway = index.nat_gateways.get(route.target)
    if gateway is None or not gateway.available:
        return _nowhere(
            "nat-gone",
            route.target,
            f"the route {route.destination} of {table.id} leads to the NAT gateway {route.target}, "
            "which is not available",
            f"make a NAT gateway and route {route.destination} in {table.id} to it",
        )
    return Hop("nat", route.target, nat=gateway)


def _to_peering(index: Index, subnet: Subnet, table: RouteTable, route: Route) -> Hop:
    peering = index.peerings.get(route.target)
    if peering is None or not peering.active or subnet.vpc not in peering.vpcs:
        why = "is not active" if peering and subnet.vpc in peering.vpcs else f"is none of {subnet.vpc}"
        return _nowhere(
            "peering-inactive",
            route.target,
            f"the route {route.destination} of {table.id} leads to the peering {route.target}, which {why}",
            f"accept or renew the peering {route.target}, or delete the route {route.destination} of {table.id}",
        )
    return Hop("peering", route.target, peering=peering)


def _to_interface(index: Index, table: RouteTable, route: Route) -> Hop:
    interface = index.interfaces.get(route.target) or index.primaries.get(route.target)
    if interface is None or interface.instance is None:
        return _nowhere(
            "black-hole",
            table.id,
            f"the route {route.destination} of {table.id} leads to {route.target}, which is gone or not attached",
            f"in {table.id} replace the route {route.destination} by one to a target that exists, or delete it",
        )
    return Hop("appliance", route.target, interface=interface)


def _to_transit(index: Index, subnet: Subnet, table: RouteTable, route: Route) -> Hop:
    """A subnet reaches a transit gateway only if the attachment has a subnet in its zone (Transit gateways guide,
    "Transit gateway attachments to a VPC")."""
    found = [a for a in index.snapshot.transit_attachments if (a.gateway, a.vpc) == (route.target, subnet.vpc)]
    if not any(a.available for a in found):
        return _detached(table, route, "transit gateway", subnet.vpc)
    zones = {index.subnets[s].zone for a in found for s in a.subnets if s in index.subnets}
    if subnet.zone not in zones:
        return _nowhere(
            "transit-zone",
            route.target,
            f"the attachment of {route.target} to {subnet.vpc} has no subnet in {subnet.zone}, the zone of {subnet.id}",
            f"add a subnet of {subnet.zone} to the attachment of {route.target}",
        )
    return Hop("outside", route.target)
