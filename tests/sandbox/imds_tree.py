"""What instance metadata says, as a tree. Pure; values are the exact text, without a newline at the end.

Categories and their spelling: EC2 user guide, "Instance metadata categories" and "Instance identity documents".
``ipv4-prefix`` is not in that table but served: AWS's own CNI reads it, and takes 404 for "none". The
entries of IPv6 (``ipv6s``, ``ipv6-prefix``, ``subnet-ipv6-cidr-blocks``, ``vpc-ipv6-cidr-blocks``) are in it; one that
would be empty is left out (404).
Left out for want of data in the World: security group names, public host names, tags, user data, block devices.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias

from tests.sandbox.world import Eni, Instance, World

__all__ = ["VERSIONS", "Tree", "metadata_tree", "resolve"]

Tree: TypeAlias = dict[str, "str | Callable[[], str] | Tree"]

VERSIONS: Final = ("2021-01-03", "2021-03-23", "2021-07-15", "2022-07-09", "2022-09-24", "2024-04-11", "latest")


def resolve(tree: Tree, path: str) -> str | None:
    """The text at ``path`` (which starts with ``/``), or None for 404.

    A directory lists its entries one to a line, directories with a final slash; it may be asked for with or without
    one. A value exists only without.
    """
    node: str | Callable[[], str] | Tree = tree
    parts = path.removeprefix("/").split("/")
    wants_directory = parts[-1] == ""
    for part in parts[:-1] if wants_directory else parts:
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    if isinstance(node, dict):
        return "\n".join(f"{name}/" if isinstance(below, dict) else name for name, below in sorted(node.items()))
    if wants_directory:
        return None
    return node if isinstance(node, str) else node()


def metadata_tree(
    instance: Instance, world: World, credentials: Callable[[], Mapping[str, str]], now: datetime
) -> Tree:
    """Everything below ``/latest``. ``world`` is the one whose interfaces the instance is to see. ``credentials`` gives
    AccessKeyId, SecretAccessKey, Token and Expiration (ISO 8601, UTC); it is called only when they are asked for."""
    enis = world.enis_of(instance.id)
    meta = _instance_entries(instance)
    if enis:
        meta |= _primary_entries(enis[0], instance)
        macs: Tree = {f"{eni.mac}": _interface_entries(eni, instance, world) for eni in enis}
        meta["network"] = {"interfaces": {"macs": macs}}
    if instance.profile_role:
        meta["iam"] = _iam_entries(instance, instance.profile_role, credentials, now)
    document = _identity_document(instance, enis[0].primary if enis else None)
    return {"meta-data": meta, "dynamic": {"instance-identity": {"document": document}}}


def _region(instance: Instance) -> str:
    return instance.zone[:-1]


def _account(instance: Instance) -> str:
    return instance.arn.split(":")[4]


def _instance_entries(instance: Instance) -> Tree:
    return {
        "ami-id": instance.image,
        "ami-launch-index": "0",
        "instance-id": instance.id,
        "instance-life-cycle": "on-demand",
        "instance-type": instance.type,
        "placement": {"availability-zone": instance.zone, "region": _region(instance)},
        "services": {"domain": "amazonaws.com", "partition": "aws"},
    }


def _hostname(address: str, instance: Instance) -> str:
    return f"ip-{address.replace('.', '-')}.{_region(instance)}.compute.internal"


def _primary_entries(eni: Eni, instance: Instance) -> Tree:
    hostname = _hostname(eni.primary, instance)
    entries: Tree = {"hostname": hostname, "local-hostname": hostname, "local-ipv4": eni.primary, "mac": eni.mac}
    if eni.public_address:
        entries["public-ipv4"] = eni.public_address
    return entries


def _interface_entries(eni: Eni, instance: Instance, world: World) -> Tree:
    subnet = world.subnet(eni.subnet_id)
    cidrs = _vpc_cidrs(world, subnet.vpc_id)
    entries: Tree = {
        "device-number": str(eni.device_index),
        "interface-id": eni.id,
        "local-hostname": _hostname(eni.primary, instance),
        "local-ipv4s": "\n".join(eni.addresses),
        "mac": eni.mac,
        "network-card": str(eni.network_card),
        "owner-id": _account(instance),
        "security-group-ids": "\n".join(eni.security_groups),
        "subnet-id": eni.subnet_id,
        "subnet-ipv4-cidr-block": subnet.cidr,
        "vpc-id": subnet.vpc_id,
        "vpc-ipv4-cidr-block": cidrs[0] if cidrs else subnet.cidr,
        "vpc-ipv4-cidr-blocks": "\n".join(cidrs),
    }
    if eni.prefixes:
        entries["ipv4-prefix"] = "\n".join(eni.prefixes)
    ipv6 = {
        "ipv6s": eni.ipv6_addresses,
        "ipv6-prefix": eni.ipv6_prefixes,
        "subnet-ipv6-cidr-blocks": subnet.ipv6_cidrs,
        "vpc-ipv6-cidr-blocks": _vpc_ipv6_cidrs(world, subnet.vpc_id),
    }
    entries |= {name: "\n".join(values) for name, values in ipv6.items() if values}
    if eni.associations:
        entries["public-ipv4s"] = "\n".join(public for _, public in eni.associations)
        entries["ipv4-associations"] = {public: private for private, public in eni.associations}
    return entries


def _vpc_cidrs(world: World, vpc_id: str) -> list[str]:
    """The VPC's own blocks. The World does not say which VPC a block is of: those that hold one of its subnets are,
    and those that hold nobody's."""
    subnets = [(ipaddress.IPv4Network(s.cidr), s.vpc_id) for s in world.subnets]

    def users(cidr: str) -> set[str]:
        return {owner for subnet, owner in subnets if subnet.subnet_of(ipaddress.IPv4Network(cidr))}

    return [cidr for cidr in world.vpc_cidrs if vpc_id in users(cidr) or not users(cidr)]


def _vpc_ipv6_cidrs(world: World, vpc_id: str) -> list[str]:
    """The VPC's own blocks, of those that hold one of its subnets' blocks."""
    subnets = [ipaddress.IPv6Network(cidr) for s in world.subnets if s.vpc_id == vpc_id for cidr in s.ipv6_cidrs]
    return [c for c in world.vpc_ipv6_cidrs if any(s.subnet_of(ipaddress.IPv6Network(c)) for s in subnets)]


def _iam_entries(instance: Instance, role: str, credentials: Callable[[], Mapping[str, str]], now: datetime) -> Tree:
    updated = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    info = {
        "Code": "Success",
        "LastUpdated": updated,
        "InstanceProfileArn": f"arn:aws:iam::{_account(instance)}:instance-profile/{role}",
        "InstanceProfileId": f"AIPA{instance.id[2:].upper():0>17.17}",
    }

    def session() -> str:
        given = credentials()
        keys = {key: given[key] for key in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")}
        return json.dumps({"Code": "Success", "LastUpdated": updated, "Type": "AWS-HMAC", **keys}, indent=2)

    return {"info": json.dumps(info, indent=2), "security-credentials": {role: session}}


def _identity_document(instance: Instance, address: str | None) -> str:
    launched = datetime.fromtimestamp(instance.launched_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        "accountId": _account(instance),
        "architecture": "x86_64",
        "availabilityZone": instance.zone,
        "billingProducts": None,
        "devpayProductCodes": None,
        "marketplaceProductCodes": None,
        "imageId": instance.image,
        "instanceId": instance.id,
        "instanceType": instance.type,
        "kernelId": None,
        "pendingTime": launched,
        "privateIp": address,
        "ramdiskId": None,
        "region": _region(instance),
        "version": "2017-09-30",
    }
    return json.dumps(document, indent=2)
