"""Routes whose target is gone, which stock moto shows as active, and routes by prefix lists.

EC2 keeps such a route and shows it as ``blackhole`` (VPC User Guide, "Route tables": the target is detached or deleted,
a peering is not active).
"""

from __future__ import annotations

from typing import Any

from moto.ec2.models.route_tables import Route
from moto.ec2.models.vpn_gateway import VpnGateway

from .patching import replace

__all__ = ["install", "listed"]


def listed(backend: Any, route: Any) -> list[str]:
    """The IPv4 networks that a route is to: its CIDR, or what its prefix list holds."""
    if route.destination_cidr_block:
        return [str(route.destination_cidr_block)]
    known = route.destination_prefix_list and backend.managed_prefix_lists.get(route.destination_prefix_list.id)
    return [e["Cidr"] for e in known.entries.get(known.version, ()) if ":" not in e["Cidr"]] if known else []


def _gone(route: Any) -> bool:
    if route.vpc_pcx is not None:
        return bool(route.vpc_pcx.status["Code"] != "active")
    if route.nat_gateway is not None:
        return bool(route.nat_gateway.state == "deleted")
    if isinstance(route.gateway, VpnGateway):
        here = route.gateway.attachments.get(route.route_table.vpc_id)
        return here is None or here.state != "attached"
    return False


def install() -> None:
    replace(Route, "state", property(lambda route: "blackhole" if _gone(route) else "active"))
