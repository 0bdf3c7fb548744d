"""EC2's answers about route tables as our values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from berth.routes import Route, RouteTable

__all__ = ["PROPAGATED", "listed_prefixes", "live_associations", "named_lists", "read_route_table", "target_of"]

_TARGETS: Final = (
    "GatewayId",
    "NatGatewayId",
    "TransitGatewayId",
    "VpcPeeringConnectionId",
    "CoreNetworkArn",
    # a route to an instance names its interface too: the interface is what is judged
    "NetworkInterfaceId",
    "InstanceId",
    "LocalGatewayId",
    "CarrierGatewayId",
    "OdbNetworkArn",
)
PROPAGATED: Final = "EnableVgwRoutePropagation"


def read_route_table(item: Mapping[str, Any], lists: Mapping[str, tuple[str, ...] | None]) -> RouteTable:
    """A table; ``lists`` are the IPv4 networks of each prefix list that its routes name, None where it cannot be read.

    IPv6 is never rewritten.
    """
    associated = live_associations(item)
    return RouteTable(
        id=item["RouteTableId"],
        main=any(a.get("Main") for a in associated),
        subnets=tuple(sorted(a["SubnetId"] for a in associated if a.get("SubnetId"))),
        routes=tuple(r for route in item.get("Routes", ()) for r in _route(route, lists)),
    )


def live_associations(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of a route table that are in force: with subnets, and as the main one."""
    found = item.get("Associations", ())
    return [a for a in found if a.get("AssociationState", {}).get("State", "associated") == "associated"]


def _route(item: Mapping[str, Any], lists: Mapping[str, tuple[str, ...] | None]) -> Iterator[Route]:
    cidr, name = item.get("DestinationCidrBlock"), item.get("DestinationPrefixListId", "")
    listed = lists.get(name, ())
    if not cidr and listed == ():
        return
    propagated = item.get("Origin") == PROPAGATED
    yield Route(
        cidrs=(cidr,) if cidr else listed or (),
        target=target_of(item),
        rank=2 if propagated else 0 if cidr else 1,
        black_hole=item.get("State") == "blackhole",
        unread=name if listed is None else "",
    )


def target_of(item: Mapping[str, Any]) -> str:
    """What a route leads to: an id, an ARN or ``local``."""
    return next((str(item[key]) for key in _TARGETS if item.get(key)), "")


def named_lists(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    """Prefix lists to be read. Not those that lead to a gateway endpoint: they are AWS's own, of a service's public
    addresses, and what lies behind them is never private."""
    routes = (r for table in tables for r in table.get("Routes", ()) if r.get("DestinationPrefixListId"))
    return sorted({r["DestinationPrefixListId"] for r in routes if not target_of(r).startswith("vpce-")})


def listed_prefixes(entries: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The IPv4 networks among a prefix list's entries."""
    return tuple(e["Cidr"] for e in entries if ":" not in e["Cidr"])
