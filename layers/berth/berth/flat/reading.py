"""From EC2's Describe answers to a snapshot. IPv6 rules, routes and CIDRs are passed over.

``answers`` maps the key of each answer's list to that list: ``Vpcs``, ``Subnets``, ``RouteTables``, ``NetworkAcls``,
``SecurityGroups``, ``PrefixLists`` (each with its ``Entries``), ``NetworkInterfaces``, ``NatGateways``,
``InternetGateways``, ``VpcPeeringConnections``, ``VpnGateways``, ``TransitGatewayVpcAttachments`` and ``Instances``
(those of the cluster). A missing one counts as empty. The field names are those of the EC2 API reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from berth.flat.snapshot import (
    ANY,
    Acl,
    AclEntry,
    Group,
    GroupRule,
    Interface,
    InternetGateway,
    NatGateway,
    Peering,
    PrefixList,
    Route,
    RouteTable,
    Snapshot,
    Subnet,
    TransitAttachment,
    Vpc,
    VpnGateway,
)
from berth.route_wire import PROPAGATED, live_associations, target_of

__all__ = ["Answers", "read_snapshot"]

Answers = Mapping[str, Sequence[Mapping[str, Any]]]

_ALLOWED_TAG: Final = "berth:allowed"
_PROTOCOLS: Final = {"-1": ANY, "6": "tcp", "17": "udp", "1": "icmp"}
_GONE: Final = frozenset({"shutting-down", "terminated"})


def read_snapshot(
    answers: Answers, *, no_snat: Sequence[str] = (), snat: Sequence[str] = (), taken_at: str = ""
) -> Snapshot:
    """The snapshot. Raises KeyError if an answer lacks a field that EC2 always sends."""

    def listed(key: str) -> Sequence[Mapping[str, Any]]:
        return answers.get(key, ())

    return Snapshot(
        vpcs=tuple(map(_vpc, listed("Vpcs"))),
        subnets=tuple(map(_subnet, (s for s in listed("Subnets") if s.get("CidrBlock")))),
        tables=tuple(map(_table, listed("RouteTables"))),
        acls=tuple(map(_acl, listed("NetworkAcls"))),
        groups=tuple(map(_group, listed("SecurityGroups"))),
        prefix_lists=tuple(map(_prefix_list, listed("PrefixLists"))),
        interfaces=tuple(map(_interface, (i for i in listed("NetworkInterfaces") if i.get("PrivateIpAddress")))),
        nat_gateways=tuple(n for item in listed("NatGateways") for n in _nat_gateway(item)),
        internet_gateways=tuple(map(_internet_gateway, listed("InternetGateways"))),
        peerings=tuple(map(_peering, listed("VpcPeeringConnections"))),
        vpn_gateways=tuple(map(_vpn_gateway, listed("VpnGateways"))),
        transit_attachments=tuple(map(_transit_attachment, listed("TransitGatewayVpcAttachments"))),
        nodes=tuple(i["InstanceId"] for i in listed("Instances") if i.get("State", {}).get("Name") not in _GONE),
        no_snat=tuple(no_snat),
        snat=tuple(snat),
        taken_at=taken_at,
    )


def _tags(item: Mapping[str, Any], key: str = "Tags") -> dict[str, str]:
    return {t["Key"]: t["Value"] for t in item.get(key) or ()}


def _vpc(item: Mapping[str, Any]) -> Vpc:
    found = [
        a["CidrBlock"]
        for a in item.get("CidrBlockAssociationSet", ())
        if a.get("CidrBlockState", {}).get("State", "associated") == "associated"
    ]
    return Vpc(item["VpcId"], tuple(found or [item["CidrBlock"]]))


def _subnet(item: Mapping[str, Any]) -> Subnet:
    tags = _tags(item)
    return Subnet(
        id=item["SubnetId"],
        vpc=item["VpcId"],
        cidr=item["CidrBlock"],
        zone=item.get("AvailabilityZone", ""),
        name=tags.get("Name", ""),
        for_pods=_allowed(tags),
    )


def _allowed(tags: Mapping[str, str]) -> bool:
    return _ALLOWED_TAG in tags  # whatever its value, as for the planner (berth.ec2_wire)


def _table(item: Mapping[str, Any]) -> RouteTable:
    live = live_associations(item)
    return RouteTable(
        id=item["RouteTableId"],
        vpc=item["VpcId"],
        main=any(a.get("Main") for a in live),
        subnets=tuple(a["SubnetId"] for a in live if a.get("SubnetId")),
        routes=tuple(r for route in item.get("Routes", ()) for r in _route(route)),
    )


def _route(item: Mapping[str, Any]) -> Iterator[Route]:
    destination = item.get("DestinationCidrBlock") or item.get("DestinationPrefixListId")
    if not destination or item.get("EgressOnlyInternetGatewayId"):
        return
    yield Route(
        destination=destination,
        target=target_of(item),
        black_hole=item.get("State") == "blackhole",
        propagated=item.get("Origin") == PROPAGATED,
    )


def _acl(item: Mapping[str, Any]) -> Acl:
    return Acl(
        id=item["NetworkAclId"],
        vpc=item["VpcId"],
        subnets=tuple(a["SubnetId"] for a in item.get("Associations", ())),
        entries=tuple(_entry(e) for e in item.get("Entries", ()) if e.get("CidrBlock")),
    )


def _entry(item: Mapping[str, Any]) -> AclEntry:
    protocol = _PROTOCOLS.get(str(item["Protocol"]), str(item["Protocol"]))
    ports, icmp = item.get("PortRange"), item.get("IcmpTypeCode")
    return AclEntry(
        number=item["RuleNumber"],
        egress=item["Egress"],
        allow=item["RuleAction"] == "allow",
        protocol=protocol,
        cidr=item["CidrBlock"],
        ports=(ports["From"], ports["To"]) if ports and protocol in ("tcp", "udp") else None,
        icmp=(icmp["Type"], icmp["Code"]) if icmp and protocol == "icmp" else None,
    )


def _group(item: Mapping[str, Any]) -> Group:
    return Group(
        id=item["GroupId"],
        vpc=item.get("VpcId", ""),
        name=item.get("GroupName", ""),
        allowed=_allowed(_tags(item)),
        ingress=tuple(map(_permission, item.get("IpPermissions", ()))),
        egress=tuple(map(_permission, item.get("IpPermissionsEgress", ()))),
    )


def _permission(item: Mapping[str, Any]) -> GroupRule:
    protocol = _PROTOCOLS.get(str(item["IpProtocol"]), str(item["IpProtocol"]))
    first, last = item.get("FromPort", -1), item.get("ToPort", -1)
    # ports are -1 for all; of ICMP they are type and code
    whole = first == -1 or protocol not in ("tcp", "udp")
    return GroupRule(
        protocol=protocol,
        ports=None if whole else (first, last),
        icmp=(first, last) if protocol == "icmp" else None,
        cidrs=tuple(r["CidrIp"] for r in item.get("IpRanges", ())),
        prefix_lists=tuple(p["PrefixListId"] for p in item.get("PrefixListIds", ())),
        groups=tuple(g["GroupId"] for g in item.get("UserIdGroupPairs", ()) if g.get("GroupId")),
    )


def _prefix_list(item: Mapping[str, Any]) -> PrefixList:
    cidrs = (e["Cidr"] for e in item.get("Entries", ()) if ":" not in e["Cidr"])
    return PrefixList(item["PrefixListId"], item.get("PrefixListName", ""), tuple(cidrs))


def _interface(item: Mapping[str, Any]) -> Interface:
    attachment = item.get("Attachment", {})
    here = attachment.get("Status") in ("attached", "attaching", "detaching")
    listed = item.get("PrivateIpAddresses", ())
    others = sorted(listed, key=lambda a: not a.get("Primary", False))
    public = [(a["PrivateIpAddress"], a["Association"]["PublicIp"]) for a in listed if a.get("Association")]
    return Interface(
        id=item["NetworkInterfaceId"],
        subnet=item["SubnetId"],
        addresses=tuple(a["PrivateIpAddress"] for a in others) or (item["PrivateIpAddress"],),
        prefixes=tuple(p["Ipv4Prefix"] for p in item.get("Ipv4Prefixes", ())),
        groups=tuple(g["GroupId"] for g in item.get("Groups", ())),
        source_check=item.get("SourceDestCheck", True),
        instance=attachment.get("InstanceId") if here else None,
        device=attachment.get("DeviceIndex", 0) if here else 0,
        card=attachment.get("NetworkCardIndex", 0) if here else 0,
        kind=item.get("InterfaceType", "interface"),
        public=tuple(p for p in public if p[1]),
    )


def _nat_gateway(item: Mapping[str, Any]) -> Iterator[NatGateway]:
    if item["State"] == "deleted" or not item.get("SubnetId"):  # regional ones are in no subnet
        return
    addresses = item.get("NatGatewayAddresses", ())
    first: Mapping[str, Any] = next((a for a in addresses if a.get("IsPrimary", True)), {})
    if not first.get("PrivateIp"):
        return
    yield NatGateway(
        id=item["NatGatewayId"],
        subnet=item["SubnetId"],
        address=first["PrivateIp"],
        available=item["State"] == "available",
        public=item.get("ConnectivityType", "public") == "public" and bool(first.get("PublicIp")),
    )


def _internet_gateway(item: Mapping[str, Any]) -> InternetGateway:
    live = (a for a in item.get("Attachments", ()) if a.get("State") in ("available", "attached"))
    return InternetGateway(item["InternetGatewayId"], tuple(a["VpcId"] for a in live))


def _peering(item: Mapping[str, Any]) -> Peering:
    ends = (item["RequesterVpcInfo"], item["AccepterVpcInfo"])
    cidrs = [
        tuple(b["CidrBlock"] for b in e.get("CidrBlockSet", ())) or ((e["CidrBlock"],) if e.get("CidrBlock") else ())
        for e in ends
    ]
    return Peering(
        id=item["VpcPeeringConnectionId"],
        vpcs=(ends[0]["VpcId"], ends[1]["VpcId"]),
        cidrs=(cidrs[0], cidrs[1]),
        active=item.get("Status", {}).get("Code") == "active",
    )


def _vpn_gateway(item: Mapping[str, Any]) -> VpnGateway:
    live = (a for a in item.get("VpcAttachments", ()) if a.get("State") == "attached")
    return VpnGateway(item["VpnGatewayId"], tuple(a["VpcId"] for a in live))


def _transit_attachment(item: Mapping[str, Any]) -> TransitAttachment:
    return TransitAttachment(
        gateway=item["TransitGatewayId"],
        vpc=item["VpcId"],
        subnets=tuple(item.get("SubnetIds", ())),
        available=item.get("State") == "available",
    )
