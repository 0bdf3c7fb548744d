"""EC2's requests, answers and errors as our values: the pure half of the EC2 edge."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from berth.calls import (
    AssignAddresses,
    AssignIpv6Prefixes,
    AssignPrefixes,
    AssociatePublic,
    Attach,
    Call,
    ClaimPublic,
    ClaimStandby,
    CreateInterface,
    DeleteInterface,
    Detach,
    DisassociatePublic,
    SetDeleteOnTermination,
    SetGroups,
    TagForNode,
    Unassign,
    UnclaimPublic,
)
from berth.ec2_errors import Ec2Error, Trouble, classify, ec2_name
from berth.model import (
    CLUSTER_TAG,
    CREATED_TAG,
    INSTANCE_TAG,
    NAMESPACES_TAG,
    POD_ASKS_TAG,
    POD_TAG,
    POOL_TAG,
    STANDBY_TAG,
    Attachment,
    Instance,
    Intent,
    InterfaceView,
    Limits,
    Outcome,
    PublicAddress,
    SubnetView,
)
from berth.routes import RouteTable, Routing

__all__ = [
    "ALLOWED_TAG",
    "Ec2Error",
    "Network",
    "Trouble",
    "classify",
    "ec2_name",
    "read_attached",
    "read_instance",
    "read_interface",
    "read_limits",
    "read_outcome",
    "read_public_address",
    "read_subnet",
    "read_vpc_cidrs",
    "request",
    "routed_subnet",
]

ALLOWED_TAG: Final = "berth:allowed"


@dataclass(frozen=True, slots=True)
class Network:
    """What is around the nodes: all subnets of their VPCs, each VPC's CIDRs and route tables, the groups tagged
    ``berth:allowed``."""

    subnets: tuple[SubnetView, ...] = ()
    vpc_cidrs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    allowed_groups: frozenset[str] = frozenset()
    route_tables: tuple[tuple[str, tuple[RouteTable, ...]], ...] = ()

    def routing(self, vpc_id: str) -> Routing:
        """How a VPC routes; nothing is known of one that EC2 did not show."""
        return Routing(dict(self.vpc_cidrs).get(vpc_id, ()), dict(self.route_tables).get(vpc_id, ()))


# ------------------------------------------------------------------------------------------------ reading answers


def _tags(tags: Iterable[Mapping[str, str]] | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((t["Key"], t["Value"]) for t in tags or ()))


def read_instance(item: Mapping[str, Any], arn_prefix: str) -> Instance:
    """An instance; its ARN is ``arn_prefix`` and its id."""
    return Instance(
        id=item["InstanceId"],
        arn=arn_prefix + item["InstanceId"],
        state=item["State"]["Name"],
        type=item["InstanceType"],
        subnet_id=item.get("SubnetId", ""),
        vpc_id=item.get("VpcId", ""),
        zone=item.get("Placement", {}).get("AvailabilityZone", ""),
        launched_at=item["LaunchTime"].timestamp(),
        tags=_tags(item.get("Tags")),
    )


def read_interface(item: Mapping[str, Any]) -> InterfaceView:
    tags = dict(_tags(item.get("TagSet")))
    primary = item.get("PrivateIpAddress", "")
    addresses = (a["PrivateIpAddress"] for a in item.get("PrivateIpAddresses", ()) if not a.get("Primary"))
    return InterfaceView(
        id=item["NetworkInterfaceId"],
        mac=item.get("MacAddress", "").lower(),
        subnet_id=item.get("SubnetId", ""),
        vpc_id=item.get("VpcId", ""),
        zone=item.get("AvailabilityZone", ""),
        primary_address=primary,
        addresses=tuple(sorted(a for a in addresses if a != primary)),
        prefixes=tuple(sorted(p["Ipv4Prefix"] for p in item.get("Ipv4Prefixes", ()))),
        groups=tuple(sorted(g["GroupId"] for g in item.get("Groups", ()))),
        attachment=_attachment(item.get("Attachment")),
        cluster=tags.get(CLUSTER_TAG),
        node=tags.get(INSTANCE_TAG),
        created_at=_moment(tags.get(CREATED_TAG)),
        ipv6_prefixes=tuple(sorted(p["Ipv6Prefix"] for p in item.get("Ipv6Prefixes", ()))),
        standby=tags.get(STANDBY_TAG),
        pod=tags.get(POD_TAG, ""),
        pod_asks=tags.get(POD_ASKS_TAG, ""),
        public=tuple(sorted(a["PrivateIpAddress"] for a in item.get("PrivateIpAddresses", ()) if a.get("Association"))),
    )


def read_public_address(item: Mapping[str, Any]) -> PublicAddress:
    """An Elastic IP address as EC2 shows it. Namespaces are separated by spaces or commas: EC2 takes both in a tag."""
    tags = dict(_tags(item.get("Tags")))
    return PublicAddress(
        id=item["AllocationId"],
        address=item["PublicIp"],
        pool=tags.get(POOL_TAG, ""),
        namespaces=tuple(sorted(set(tags.get(NAMESPACES_TAG, "").replace(",", " ").split()))),
        association_id=item.get("AssociationId") or "",
        interface_id=item.get("NetworkInterfaceId") or "",
        instance_id=item.get("InstanceId") or "",
        private_address=item.get("PrivateIpAddress") or "",
    )


def read_attached(item: Mapping[str, Any]) -> tuple[InterfaceView, ...]:
    """The interfaces that an instance shows as attached to it: all but their tags, which it does not show."""
    zone = {"AvailabilityZone": item.get("Placement", {}).get("AvailabilityZone", "")}
    found = []
    for shown in item.get("NetworkInterfaces", ()):
        at = {**shown.get("Attachment", {}), "InstanceId": item["InstanceId"]}
        found.append(read_interface({**shown, **zone, "Attachment": at}))
    return tuple(i for i in found if i.attachment is not None)


def _attachment(item: Mapping[str, Any] | None) -> Attachment | None:
    # NAT gateways and the like attach without an instance id: theirs are never asked for, but stay on the safe side
    if not item or not item.get("AttachmentId") or item.get("Status") == "detached":
        return None
    return Attachment(
        id=item["AttachmentId"],
        instance_id=item.get("InstanceId", ""),
        device_index=item.get("DeviceIndex", 0),
        network_card=item.get("NetworkCardIndex", 0),
        status=item.get("Status", "attached"),
        delete_on_termination=bool(item.get("DeleteOnTermination", False)),
    )


def _moment(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def read_limits(item: Mapping[str, Any]) -> Limits:
    info = item["NetworkInfo"]
    cards = ((c["NetworkCardIndex"], c["MaximumNetworkInterfaces"]) for c in info.get("NetworkCards", ()))
    # bare metal types name no hypervisor and are on Nitro; Xen types cannot have prefixes
    nitro = item.get("Hypervisor") != "xen"
    return Limits(
        interfaces=info["MaximumNetworkInterfaces"],
        addresses_per_interface=info["Ipv4AddressesPerInterface"],
        network_card=info.get("DefaultNetworkCardIndex", 0),
        prefixes=nitro,
        cards=tuple(sorted(cards)),
        ipv6=nitro and bool(info.get("Ipv6Supported")) and info.get("Ipv6AddressesPerInterface", 0) > 0,
    )


def read_subnet(item: Mapping[str, Any]) -> SubnetView:
    tags = _tags(item.get("Tags"))
    ipv6 = (a.get("Ipv6CidrBlockState", {}).get("State") for a in item.get("Ipv6CidrBlockAssociationSet", ()))
    # a subnet for IPv6 alone has no IPv4 CIDR (VPC User Guide, "Subnet types")
    cidr = "" if item.get("Ipv6Native") else item.get("CidrBlock", "")
    return SubnetView(
        id=item["SubnetId"],
        cidr=cidr,
        vpc_id=item["VpcId"],
        zone=item["AvailabilityZone"],
        free=item["AvailableIpAddressCount"],
        allowed=ALLOWED_TAG in dict(tags),
        tags=tags,
        routed=bool(cidr) and item.get("State", "available") == "available",
        ipv6="associated" in ipv6,
    )


def routed_subnet(subnet: SubnetView, vpc_cidrs: Iterable[str]) -> SubnetView:
    """The subnet, with what the CIDRs associated with its VPC tell about the routes to it.

    Every route table of a VPC has a local route for each of its CIDRs (VPC User Guide, "Route tables"), so a subnet
    within one is reached from each other subnet of the VPC. One whose CIDR is being taken off the VPC is not.
    """
    if not subnet.routed:
        return subnet
    own = ipaddress.IPv4Network(subnet.cidr)
    return replace(subnet, routed=any(own.subnet_of(ipaddress.IPv4Network(cidr)) for cidr in vpc_cidrs))


def read_vpc_cidrs(item: Mapping[str, Any]) -> tuple[str, ...]:
    more = (
        a["CidrBlock"]
        for a in item.get("CidrBlockAssociationSet", ())
        if a.get("CidrBlockState", {}).get("State", "associated") == "associated"
    )
    return tuple(sorted({item["CidrBlock"], *more}))


# ------------------------------------------------------------------------------------------------ making requests


def request(intent: Intent, instance_id: str, cluster: str) -> tuple[str, dict[str, Any]]:
    """The boto3 method and its parameters. The same intent always gives the same request, as ClientToken demands."""
    match intent.call:
        case CreateInterface():
            return "create_network_interface", _creation(intent, intent.call, instance_id, cluster)
        case Attach(interface_id=i, device_index=index, network_card=card):
            where = {"InstanceId": instance_id, "NetworkInterfaceId": i, "DeviceIndex": index}
            return "attach_network_interface", where | ({"NetworkCardIndex": card} if card else {})
        case SetDeleteOnTermination(interface_id=i, attachment_id=a):
            change = {"AttachmentId": a, "DeleteOnTermination": True}
            return "modify_network_interface_attribute", {"NetworkInterfaceId": i, "Attachment": change}
        case AssociatePublic(interface_id=i, allocation_id=a, address=address):
            # EC2 would take the address from where it is, if this were left out (AssociateAddress, AllowReassociation)
            where = {"NetworkInterfaceId": i, "PrivateIpAddress": address}
            return "associate_address", {"AllocationId": a, **where, "AllowReassociation": False}
        case DisassociatePublic(association_id=a):
            return "disassociate_address", {"AssociationId": a}
        case ClaimStandby() | ClaimPublic() | UnclaimPublic():
            raise ValueError("a claim is a write to the table, not a call of EC2")
        case TagForNode(interface_id=i):
            return "create_tags", {"Resources": [i], "Tags": [{"Key": INSTANCE_TAG, "Value": instance_id}]}
        case AssignPrefixes(interface_id=i, count=n):
            return "assign_private_ip_addresses", {"NetworkInterfaceId": i, "Ipv4PrefixCount": n}
        case AssignAddresses(interface_id=i, count=n):
            return "assign_private_ip_addresses", {"NetworkInterfaceId": i, "SecondaryPrivateIpAddressCount": n}
        case AssignIpv6Prefixes(interface_id=i, count=n):
            return "assign_ipv6_addresses", {"NetworkInterfaceId": i, "Ipv6PrefixCount": n}
        case SetGroups(interface_id=i, groups=groups):
            return "modify_network_interface_attribute", {"NetworkInterfaceId": i, "Groups": list(groups)}
        case Unassign(interface_id=i, blocks=blocks):
            prefixes = [b for b in blocks if not b.endswith("/32")]
            addresses = [b.removesuffix("/32") for b in blocks if b.endswith("/32")]
            what = {"Ipv4Prefixes": prefixes} if prefixes else {"PrivateIpAddresses": addresses}
            return "unassign_private_ip_addresses", {"NetworkInterfaceId": i, **what}
        case Detach(attachment_id=a):
            return "detach_network_interface", {"AttachmentId": a}
        case DeleteInterface(interface_id=i):
            return "delete_network_interface", {"NetworkInterfaceId": i}


def _creation(intent: Intent, call: CreateInterface, instance_id: str, cluster: str) -> dict[str, Any]:
    created = datetime.fromtimestamp(int(intent.at), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    tags = {CLUSTER_TAG: cluster, INSTANCE_TAG: instance_id, CREATED_TAG: created}
    blocks = {"Ipv4PrefixCount": call.prefixes} if call.prefixes else {"SecondaryPrivateIpAddressCount": call.addresses}
    if call.pod:
        tags |= {POD_TAG: call.pod, POD_ASKS_TAG: call.pod_asks}
        blocks = {}
    if call.ipv6_prefixes:
        blocks["Ipv6PrefixCount"] = call.ipv6_prefixes
    return {
        "SubnetId": call.subnet_id,
        "Groups": list(call.groups),
        "Description": f"Berth: {'one pod' if call.pod else 'pods'} of {instance_id}",
        "ClientToken": intent.token,
        "TagSpecifications": [
            {"ResourceType": "network-interface", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
        ],
        **blocks,
    }


def read_outcome(call: Call, answer: Mapping[str, Any]) -> Outcome:
    match call:
        case CreateInterface():
            return Outcome(interface=read_interface(answer["NetworkInterface"]))
        case Attach():
            return Outcome(attachment_id=answer["AttachmentId"])
        case AssociatePublic():
            return Outcome(attachment_id=answer["AssociationId"])
        case AssignPrefixes():
            return Outcome(blocks=tuple(sorted(p["Ipv4Prefix"] for p in answer.get("AssignedIpv4Prefixes", ()))))
        case AssignIpv6Prefixes():
            return Outcome(blocks=tuple(sorted(answer.get("AssignedIpv6Prefixes", ()))))
        case AssignAddresses():
            given = (a["PrivateIpAddress"] for a in answer.get("AssignedPrivateIpAddresses", ()))
            return Outcome(blocks=tuple(sorted(f"{a}/32" for a in given)))
    return Outcome()
