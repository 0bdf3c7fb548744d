"""What the simulated EC2 knows, as a frozen :class:`~tests.sandbox.world.World` for the fabric, nodes and IMDS."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any, Final

from moto.ec2.models import EC2Backend, ec2_backends

from tests.sandbox.world import Eni, Instance, Route, Subnet, World

from .changes import subscribe
from .ec2_attachments import is_attached
from .ec2_events import instance_arn
from .ec2_routes import listed
from .lock import API_LOCK
from .patching import announce
from .snapshot_rules import RULE_CALLS, acl_of, acls, flow_logs, groups, peerings, spaces

__all__ = ["ACCOUNT", "REGION", "backend_of", "install", "snapshot", "subscribe"]

ACCOUNT: Final = "123456789012"
REGION: Final = "eu-west-1"


def backend_of(account: str = ACCOUNT, region: str = REGION) -> Any:
    """moto's EC2 backend. Hold the API lock while using it."""
    return ec2_backends[account][region]


def snapshot(account: str = ACCOUNT, region: str = REGION) -> World:
    """Everything at one moment, in stable order (by id). Takes the API lock.

    Left out: terminated instances, deleted gateways, and the default VPC while nothing is in it.
    """
    with API_LOCK:
        backend = backend_of(account, region)
        vpcs = [vpc for vpc in backend.vpcs.values() if not vpc.is_default or _in_use(backend, vpc.id)]
        shown = {vpc.id for vpc in vpcs}
        subnets = [s for zone in backend.subnets.values() for s in zone.values() if s.vpc_id in shown]
        gateways = [g for g in backend.nat_gateways.values() if g.state != "deleted"]
        return World(
            vpc_cidrs=tuple(dict.fromkeys(cidr for vpc in vpcs for cidr in _cidrs(vpc))),
            subnets=_sorted(_subnet(backend, s) for s in subnets),
            instances=_sorted(_instance(backend, i) for i in backend.all_instances() if i.state != "terminated"),
            enis=_sorted(_eni(e) for e in backend.enis.values() if e.vpc_id in shown),
            nat=tuple(sorted((g.id, g._eni.private_ip_address) for g in gateways)),
            onprem_cidrs=_onprem(backend, shown),
            vpc_ipv6_cidrs=tuple(dict.fromkeys(cidr for vpc in vpcs for cidr in _cidrs(vpc, ipv6=True))),
            acls=acls(backend, shown),
            groups=groups(backend, shown),
            vpcs=spaces(backend, vpcs, {vpc.id: tuple(_cidrs(vpc)) for vpc in vpcs}),
            peerings=peerings(backend, shown),
            flow_logs=flow_logs(backend),
        )


def _sorted(things: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(things, key=lambda thing: thing.id))


def _in_use(backend: Any, vpc_id: str) -> bool:
    return any(eni.vpc_id == vpc_id for eni in backend.enis.values())


def _cidrs(vpc: Any, *, ipv6: bool = False) -> list[str]:
    return [a["cidr_block"] for a in vpc.get_cidr_block_association_set(ipv6=ipv6)]


def _routes(backend: Any, subnet: Any) -> tuple[Route, ...]:
    """Of the table that the subnet is associated with, else of the VPC's main table."""
    tables = [t for t in backend.route_tables.values() if t.vpc_id == subnet.vpc_id]
    own = [t for t in tables if subnet.id in t._associations.values()]
    used = own or [t for t in tables if t.main_association_id]
    routes = [
        Route(destination, target)
        for table in used[:1]
        for route in table.routes
        for destination in listed(backend, route) or [route.destination_ipv6_cidr_block]
        if destination and (target := _target(backend, route))
    ]
    return tuple(sorted(routes, key=lambda r: (-ipaddress.ip_network(r.destination).prefixlen, r.destination)))


def _target(backend: Any, route: Any) -> str | None:
    """What the fabric can carry: ``local``, internet, egress-only internet, NAT, VPN and transit gateways, peerings,
    interfaces."""
    if route.local:
        return "local"
    if route.nat_gateway is not None:
        return str(route.nat_gateway.id) if route.nat_gateway.state != "deleted" else None
    if route.egress_only_igw is not None:
        there = route.egress_only_igw.id in backend.egress_only_internet_gateways
        return str(route.egress_only_igw.id) if there else None
    if route.state == "blackhole":
        return "blackhole"
    if route.gateway is not None and str(route.gateway.id).startswith(("igw-", "vgw-")):
        return str(route.gateway.id)
    other = route.transit_gateway or route.vpc_pcx or route.interface
    return str(other.id) if other is not None else None


def _subnet(backend: Any, subnet: Any) -> Subnet:
    return Subnet(
        id=subnet.id,
        cidr=subnet.cidr_block,
        zone=subnet.availability_zone,
        vpc_id=subnet.vpc_id,
        routes=_routes(backend, subnet),
        ipv6_cidrs=tuple(a["ipv6CidrBlock"] for a in subnet.ipv6_cidr_block_association_set),
        acl=acl_of(backend, subnet.id),
    )


def _instance(backend: Any, instance: Any) -> Instance:
    association = backend.iam_instance_profile_associations.get(instance.id)
    roles = association.iam_instance_profile.roles if association else []
    return Instance(
        id=instance.id,
        arn=instance_arn(backend, instance.id),
        state=instance.state,
        type=instance.instance_type,
        zone=instance.placement.zone,
        image=instance.image_id,
        launched_at=instance.launch_time.timestamp(),
        profile_role=roles[0].name if roles else None,
        hop_limit=instance.metadata_options.http_put_response_hop_limit,
    )


def _eni(eni: Any) -> Eni:
    here = is_attached(eni) and eni.instance is not None
    return Eni(
        id=eni.id,
        mac=eni.mac_address,
        subnet_id=eni.subnet.id,
        addresses=tuple(
            a["PrivateIpAddress"] for a in sorted(eni.private_ip_addresses, key=lambda a: not a["Primary"])
        ),
        prefixes=tuple(p["Ipv4Prefix"] for p in eni.ipv4_prefixes),
        instance_id=eni.instance.id if here else None,
        device_index=int(eni.device_index or 0) if here else 0,
        network_card=getattr(eni, "network_card_index", 0) if here else 0,
        source_check=bool(eni.source_dest_check),
        security_groups=tuple(g.id for g in eni.group_set),
        public_address=eni.public_ip,
        public=tuple(_public(eni)),
        ipv6_addresses=tuple(eni.ipv6_addresses),
        ipv6_prefixes=tuple(p["Ipv6Prefix"] for p in eni.ipv6_prefixes),
    )


def _public(eni: Any) -> Iterator[tuple[str, str]]:
    """(Private, public) of secondary addresses."""
    for address in eni.private_ip_addresses:
        if "Association" in address:
            yield address["PrivateIpAddress"], address["Association"]["PublicIp"]


def _onprem(backend: Any, vpcs: set[str]) -> tuple[str, ...]:
    """What the VPN reaches: the IPv4 destinations of routes to a virtual private gateway."""
    found = {
        cidr
        for table in backend.route_tables.values()
        if table.vpc_id in vpcs
        for route in table.routes
        if (_target(backend, route) or "").startswith(("vgw-", "tgw-"))
        for cidr in listed(backend, route)
    }
    return tuple(sorted(found))


_CHANGING: Final = (
    "create_vpc",
    "delete_vpc",
    "associate_vpc_cidr_block",
    "disassociate_vpc_cidr_block",
    "create_subnet",
    "delete_subnet",
    "associate_subnet_cidr_block",
    "disassociate_subnet_cidr_block",
    "assign_ipv6_addresses",
    "unassign_ipv6_addresses",
    "create_route_table",
    "delete_route_table",
    "associate_route_table",
    "disassociate_route_table",
    "replace_route_table_association",
    "create_route",
    "replace_route",
    "delete_route",
    "create_nat_gateway",
    "delete_egress_only_internet_gateway",
    "attach_internet_gateway",
    "detach_internet_gateway",
    "attach_vpn_gateway",
    "detach_vpn_gateway",
    "modify_managed_prefix_list",
    "associate_address",
    "disassociate_address",
    "release_address",
    "modify_instance_metadata_options",
    "disassociate_iam_instance_profile",
    *RULE_CALLS,
)


def install() -> None:
    """Make the calls that change routes, subnets and addresses tell the subscribers; the rest tells them itself."""
    announce(EC2Backend, *_CHANGING)
