"""The launch template of nodes that boot with their addresses: how many, and where they stand in the template. Pure.

Facts relied upon:

* a launch template's network interface takes ``Ipv4PrefixCount`` or ``SecondaryPrivateIpAddressCount`` (EC2 API
  reference, LaunchTemplateInstanceNetworkInterfaceSpecificationRequest), and each counts against the addresses that the
  instance type allows on an interface (EC2 User Guide, "Prefix delegation");
* a template with a network interface names its security groups there and not beside it (EC2 API reference,
  RunInstances);
* a managed node group refuses a template with SubnetId, IamInstanceProfile, InstanceMarketOptions, HibernationOptions
  or a shutdown behaviour (EKS API reference, LaunchTemplateSpecification);
* with instance tags in the metadata service no tag key may have a slash, as the cluster's tag has: the launch would
  fail (EC2 User Guide, "Work with instance tags using the instance metadata").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from berth.calls import AssignAddresses, AssignIpv6Prefixes, AssignPrefixes
from berth.contract import Policy
from berth.growth import deficit
from berth.model import (
    CLUSTER_TAG,
    NODE_TAG_PREFIX,
    Attachment,
    Instance,
    InterfaceView,
    Limits,
    NodePolicy,
    NodeView,
    SubnetView,
)
from berth.plan import plan
from berth.policy import fit_policy

__all__ = ["Sizing", "merge", "size", "template_data"]

_INSTANCE = "i-0"
_SUBNET = "subnet-0"


@dataclass(frozen=True, slots=True)
class Sizing:
    """What the first interface carries at launch: either prefixes or single addresses, and IPv6 prefixes (/80).

    ``wanted`` addresses are what the planner would give a new node; ``missing`` of them find no room on its first
    interface.
    """

    prefixes: int
    addresses: int
    wanted: int
    missing: int
    ipv6_prefixes: int = 0


def size(policy: Policy, limits: Mapping[str, Limits]) -> Sizing:
    """What fits every one of the instance types. ``limits`` is by type and not empty.

    The planner itself is asked what a node just launched needs, so that one that boots with it needs nothing.
    """
    return min((_size_one(policy, kind, limits[kind]) for kind in sorted(limits)), key=_carried)


def _carried(sizing: Sizing) -> tuple[bool, int, int]:
    # single addresses go on every type, prefixes not
    return bool(sizing.prefixes), sizing.ipv6_prefixes, sizing.prefixes + sizing.addresses


def _size_one(policy: Policy, kind: str, limits: Limits) -> Sizing:
    fitted = fit_policy(NodePolicy(policy), kind, limits)
    view = _new_node(kind)
    roomy = SubnetView(_SUBNET, "10.0.0.0/8", "vpc-0", "zone", 1 << 20, allowed=True, ipv6=True)
    calls = plan(view, fitted, limits, [roomy]).calls
    prefixes = sum(c.count for c in calls if isinstance(c, AssignPrefixes))
    addresses = sum(c.count for c in calls if isinstance(c, AssignAddresses))
    wanted = deficit(view, fitted)
    ipv6 = sum(c.count for c in calls if isinstance(c, AssignIpv6Prefixes))
    return Sizing(prefixes, addresses, wanted, max(0, wanted - 16 * prefixes - addresses), ipv6)


def _new_node(kind: str) -> NodeView:
    attachment = Attachment("eni-attach-0", _INSTANCE, device_index=0)
    primary = InterfaceView("eni-0", "", _SUBNET, "vpc-0", "zone", "10.0.0.1", attachment=attachment)
    return NodeView(Instance(_INSTANCE, "", "running", kind, _SUBNET, "vpc-0", "zone", 0.0), "", (primary,))


def template_data(
    sizing: Sizing,
    cluster: str,
    groups: Sequence[str],
    *,
    kind: str | None = None,
    policy_tags: Mapping[str, str] | None = None,
    instance_tags: bool = True,
    hop_limit: int = 1,
) -> dict[str, Any]:
    """``LaunchTemplateData`` as EC2's API takes it.

    The interface is tagged with the cluster alone: so it falls under the permissions for Berth's own interfaces, while
    without ``berth:instance`` (nobody knows the instance yet) it is never taken for a secondary one that may be
    detached or deleted. The agent runs in the host's network, so a hop limit of 1 will do.
    """
    interface: dict[str, Any] = {"DeviceIndex": 0, "DeleteOnTermination": True, "Groups": sorted(groups)}
    if sizing.prefixes:
        interface["Ipv4PrefixCount"] = sizing.prefixes
    elif sizing.addresses:
        interface["SecondaryPrivateIpAddressCount"] = sizing.addresses
    if sizing.ipv6_prefixes:
        interface["Ipv6PrefixCount"] = sizing.ipv6_prefixes
    tags = [_tags("network-interface", {CLUSTER_TAG: cluster})]
    if instance_tags:
        tags.append(_tags("instance", {NODE_TAG_PREFIX + cluster: "owned", **(policy_tags or {})}))
    return {
        **({"InstanceType": kind} if kind else {}),
        "NetworkInterfaces": [interface],
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": hop_limit,
            "InstanceMetadataTags": "disabled",
        },
        "TagSpecifications": tags,
    }


def _tags(kind: str, tags: Mapping[str, str]) -> dict[str, Any]:
    return {"ResourceType": kind, "Tags": [{"Key": k, "Value": tags[k]} for k in sorted(tags)]}


def merge(known: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """A template's present data with ours put in: image, user data, volumes and other tags stay.

    Security groups that stood beside the interfaces move to the first one if ``ours`` names none, since EC2 refuses
    both places at once. A subnet on the first interface goes: managed node groups and zones need it elsewhere.
    """
    merged: dict[str, Any] = {**known, **ours}
    beside = merged.pop("SecurityGroupIds", None) or []
    merged.pop("SecurityGroups", None)
    interfaces = list(known.get("NetworkInterfaces", ()))
    first: dict[str, Any] = next((dict(i) for i in interfaces if i.get("DeviceIndex", 0) == 0), {})
    for name in ("SubnetId", "NetworkInterfaceId", "PrivateIpAddress", "PrivateIpAddresses", *_COUNTS):
        first.pop(name, None)
    new = dict(ours["NetworkInterfaces"][0])
    groups = new.pop("Groups") or first.get("Groups") or sorted(beside)
    rest = [i for i in interfaces if i.get("DeviceIndex", 0) != 0]
    merged["NetworkInterfaces"] = [{**first, **new, "Groups": groups}, *rest]
    merged["MetadataOptions"] = {**_settable(known.get("MetadataOptions", {})), **ours["MetadataOptions"]}
    merged["TagSpecifications"] = _merge_tags(known.get("TagSpecifications", ()), ours["TagSpecifications"])
    return merged


_COUNTS = ("Ipv4PrefixCount", "Ipv4Prefixes", "SecondaryPrivateIpAddressCount", "Ipv6PrefixCount", "Ipv6Prefixes")


def _settable(options: Mapping[str, Any]) -> dict[str, Any]:
    """``State`` is told by EC2 and cannot be set."""
    return {k: v for k, v in options.items() if k != "State"}


def _merge_tags(known: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    by_kind: dict[str, dict[str, str]] = {}
    for specification in (*known, *ours):
        by_kind.setdefault(specification["ResourceType"], {}).update(
            {t["Key"]: t["Value"] for t in specification["Tags"]}
        )
    return [_tags(kind, by_kind[kind]) for kind in sorted(by_kind)]
