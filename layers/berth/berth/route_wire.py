"""EC2's answers about route tables as our values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from berth.routes import Route, RouteTable

__all__ = ["listed_prefixes", "named_lists", "read_route_table"]

_TARGETS: Final = (
    "GatewayId",
    "NatGatewayId",
    "TransitGatewayId",
    "VpcPeeringConnectionId",
    "CoreNetworkArn",
    "NetworkInterfaceId",
    "InstanceId",
    "LocalGatewayId",
    "CarrierGatewayId",
    "OdbNetworkArn",
)
_PROPAGATED: Final = "EnableVgwRoutePropagation"


def read_route_table(item: Mapping[str, Any], lists: Mapping[str, tuple[str, ...]]) -> RouteTable:
    """A table; ``lists`` are the IPv4 networks of each prefix list that its routes name. IPv6 is never rewritten."""
    associated = [a for a in item.get("Associations", ()) if _state(a) == "associated"]
    return RouteTable(
        id=item["RouteTableId"],
        main=any(a.get("Main") for a in associated),
        subnets=tuple(sorted(a["SubnetId"] for a in associated if a.get("SubnetId"))),
        routes=tuple(r for route in item.get("Routes", ()) for r in _route(route, lists)),
    )


def _state(association: Mapping[str, Any]) -> str:
    return str(association.get("AssociationState", {}).get("State", "associated"))


def _route(item: Mapping[str, Any], lists: Mapping[str, tuple[str, ...]]) -> Iterator[Route]:
    cidr, listed = item.get("DestinationCidrBlock"), lists.get(item.get("DestinationPrefixListId", ""), ())
    if not cidr and not listed:
        return
    propagated = item.get("Origin") == _PROPAGATED
    yield Route(
        cidrs=(cidr,) if cidr else listed,
        target=_target(item),
        rank=2 if propagated else 0 if cidr else 1,
        black_hole=item.get("State") == "blackhole",
    )


def _target(item: Mapping[str, Any]) -> str:
    return next((str(item[key]) for key in _TARGETS if item.get(key)), "")


def named_lists(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    """Prefix lists to be read. Not those that lead to a gateway endpoint: they are AWS's own, of a service's public
    addresses, and what lies behind them is never private."""
    routes = (r for table in tables for r in table.get("Routes", ()) if r.get("DestinationPrefixListId"))
    return sorted({r["DestinationPrefixListId"] for r in routes if not _target(r).startswith("vpce-")})


def listed_prefixes(entries: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The IPv4 networks among a prefix list's entries."""
    return tuple(e["Cidr"] for e in entries if ":" not in e["Cidr"])
