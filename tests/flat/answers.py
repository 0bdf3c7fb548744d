"""A design as EC2 would describe it: answers of the Describe calls, in the shapes of the EC2 API reference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from tests.flat.design import Design, GroupLine, Host, Link, Way
from tests.sandbox.world import AclRule

__all__ = ["answers_of"]

_NUMBERS: Final = {"any": "-1", "tcp": "6", "udp": "17", "icmp": "1"}
_KEYS: Final = {
    "nat": "NatGatewayId",
    "igw": "GatewayId",
    "vgw": "GatewayId",
    "local": "GatewayId",
    "tgw": "TransitGatewayId",
    "pcx": "VpcPeeringConnectionId",
    "eni": "NetworkInterfaceId",
}


def answers_of(design: Design) -> dict[str, list[dict[str, Any]]]:
    return {
        "Vpcs": [_vpc(name, cidrs) for name, cidrs in design.cidrs.items()],
        "Subnets": [
            {"SubnetId": n.id, "VpcId": n.vpc, "CidrBlock": n.cidr, "AvailabilityZone": n.zone, "State": "available",
             "Tags": [{"Key": "berth:allowed", "Value": ""}] if n.vpc == "vpc-1" else []}
            for n in design.nets
        ],
        "RouteTables": _tables(design),
        "NetworkAcls": [_acl(design, name, rules) for name, rules in design.acls.items()],
        "SecurityGroups": [_group(design, name) for name in design.groups],
        "PrefixLists": [
            {"PrefixListId": name, "PrefixListName": name, "Entries": [{"Cidr": c} for c in cidrs]}
            for name, cidrs in design.prefix_lists.items()
        ],
        "NetworkInterfaces": [
            *(_interface(host, link) for host in design.hosts for link in host.links),
            *_nat_links(design),
        ],
        "NatGateways": [_nat(design, g.id) for g in design.gates],
        "InternetGateways": [
            {"InternetGatewayId": f"igw-{v[-1]}",
             "Attachments": [{"VpcId": v, "State": "available"}] if v in design.internet else []}
            for v in design.cidrs
        ],
        "VpcPeeringConnections": _peerings(design),
        "VpnGateways": [
            {"VpnGatewayId": "vgw-1", "State": "available",
             "VpcAttachments": [{"VpcId": v, "State": "attached"} for v in sorted(design.vpn)]}
        ],
        "TransitGatewayVpcAttachments": [
            {"TransitGatewayId": "tgw-1", "VpcId": vpc, "State": "available", "SubnetIds": list(nets)}
            for vpc, nets in design.transit.items()
        ],
        "Instances": [{"InstanceId": h.id, "State": {"Name": "running"}} for h in design.hosts if h.node],
    }  # fmt: skip


def _vpc(name: str, cidrs: Iterable[str]) -> dict[str, Any]:
    blocks = [{"CidrBlock": c, "CidrBlockState": {"State": "associated"}} for c in cidrs]
    return {"VpcId": name, "CidrBlock": blocks[0]["CidrBlock"], "CidrBlockAssociationSet": blocks, "State": "available"}


def _tables(design: Design) -> list[dict[str, Any]]:
    """Subnets of the main table are not associated with it by name: that is what main means."""
    made = []
    for table in design.tables:
        associations: list[dict[str, Any]] = [{"Main": True}] if table.main else []
        associations += [
            {"Main": False, "SubnetId": n.id, "AssociationState": {"State": "associated"}}
            for n in design.nets
            if n.table == table.id and not table.main
        ]
        routes = [_route(way) for way in table.ways]
        routes.append({"DestinationIpv6CidrBlock": "::/0", "GatewayId": "igw-1", "State": "active"})
        made.append({"RouteTableId": table.id, "VpcId": table.vpc, "Associations": associations, "Routes": routes})
    return made


def _route(way: Way) -> dict[str, Any]:
    to = "DestinationPrefixListId" if way.to.startswith("pl-") else "DestinationCidrBlock"
    origin = "EnableVgwRoutePropagation" if way.propagated else "CreateRoute"
    return {to: way.to, _KEYS[way.target.split("-")[0]]: way.target, "State": way.state, "Origin": origin}


def _acl(design: Design, name: str, rules: Iterable[AclRule]) -> dict[str, Any]:
    nets = [n for n in design.nets if n.acl == name]
    entries = [_entry(rule) for rule in rules]
    entries.append(
        {"RuleNumber": 32768, "Egress": True, "RuleAction": "deny", "Protocol": "-1", "Ipv6CidrBlock": "::/0"}
    )
    return {
        "NetworkAclId": name,
        "VpcId": nets[0].vpc,
        "Associations": [{"NetworkAclId": name, "SubnetId": n.id} for n in nets],
        "Entries": entries,
    }


def _entry(rule: AclRule) -> dict[str, Any]:
    made: dict[str, Any] = {
        "RuleNumber": rule.number,
        "Egress": rule.egress,
        "RuleAction": "allow" if rule.allow else "deny",
        "Protocol": _NUMBERS[rule.protocol],
        "CidrBlock": rule.cidr,
    }
    if rule.ports:
        made["PortRange"] = {"From": rule.ports[0], "To": rule.ports[1]}
    if rule.icmp:
        made["IcmpTypeCode"] = {"Type": rule.icmp[0], "Code": rule.icmp[1]}
    return made


def _group(design: Design, name: str) -> dict[str, Any]:
    lines = design.groups[name]
    return {
        "GroupId": name,
        "GroupName": name,
        "VpcId": design.group_vpc[name],
        "IpPermissions": [_permission(line) for line in lines if not line.egress],
        "IpPermissionsEgress": [_permission(line) for line in lines if line.egress],
    }


def _permission(line: GroupLine) -> dict[str, Any]:
    made: dict[str, Any] = {"IpProtocol": "-1" if line.protocol == "any" else line.protocol}
    ends = line.icmp or line.ports
    if ends:
        made |= {"FromPort": ends[0], "ToPort": ends[1]}
    kind = line.peer.split("-")[0]
    made["IpRanges"] = [{"CidrIp": line.peer}] if kind not in ("sg", "pl") else []
    made["UserIdGroupPairs"] = [{"GroupId": line.peer, "UserId": "1"}] if kind == "sg" else []
    made["PrefixListIds"] = [{"PrefixListId": line.peer}] if kind == "pl" else []
    return made


def _interface(host: Host, link: Link) -> dict[str, Any]:
    addresses: list[dict[str, Any]] = [{"PrivateIpAddress": link.primary, "Primary": True}]
    if link.public:
        addresses[0]["Association"] = {"PublicIp": link.public}
    addresses += [{"PrivateIpAddress": a, "Primary": False} for a in link.secondaries]
    return {
        "NetworkInterfaceId": link.id,
        "SubnetId": link.net,
        "PrivateIpAddress": link.primary,
        "PrivateIpAddresses": addresses,
        "Ipv4Prefixes": [{"Ipv4Prefix": link.prefix}] if link.prefix else [],
        "Groups": [{"GroupId": g} for g in link.groups],
        "SourceDestCheck": link.check,
        "InterfaceType": "interface",
        "Attachment": {"InstanceId": host.id, "DeviceIndex": link.index, "NetworkCardIndex": 0, "Status": "attached"},
    }


def _nat_links(design: Design) -> list[dict[str, Any]]:
    return [
        {"NetworkInterfaceId": f"eni-{g.id}", "SubnetId": g.net, "PrivateIpAddress": g.address, "Groups": [],
         "PrivateIpAddresses": [{"PrivateIpAddress": g.address, "Primary": True,
                                 **({"Association": {"PublicIp": g.public}} if g.public else {})}],
         "SourceDestCheck": False, "InterfaceType": "nat_gateway",
         "Attachment": {"DeviceIndex": 1, "Status": "attached"}}
        for g in design.gates if g.available
    ]  # fmt: skip


def _nat(design: Design, name: str) -> dict[str, Any]:
    gate = next(g for g in design.gates if g.id == name)
    address: dict[str, Any] = {"PrivateIp": gate.address, "IsPrimary": True}
    if gate.public:
        address["PublicIp"] = gate.public
    return {
        "NatGatewayId": name,
        "SubnetId": gate.net,
        "State": "available" if gate.available else "failed",
        "ConnectivityType": "public" if gate.public else "private",
        "NatGatewayAddresses": [address],
    }


def _peerings(design: Design) -> list[dict[str, Any]]:
    if not design.peering:
        return []
    ends = [
        {"VpcId": v, "CidrBlock": design.cidrs[v][0], "CidrBlockSet": [{"CidrBlock": c} for c in design.cidrs[v]]}
        for v in ("vpc-1", "vpc-2")
    ]
    return [
        {
            "VpcPeeringConnectionId": "pcx-1",
            "RequesterVpcInfo": ends[0],
            "AccepterVpcInfo": ends[1],
            "Status": {"Code": design.peering},
        }
    ]
