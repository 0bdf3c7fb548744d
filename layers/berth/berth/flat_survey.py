"""Reads what the flat-network check needs, by Describe calls alone, page by page.

The client is botocore's own, with EC2's whole service model: the models that the layer carries for quick starts do not
know these calls, so that the functions which assign addresses do not load them (docs/decisions/0019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from berth.flat.reading import read_snapshot
from berth.flat.snapshot import Snapshot

__all__ = ["ACTIONS", "take_snapshot"]

_CALLS: Final[Mapping[str, tuple[str, str, bool]]] = {
    # operation: (the answer's list, its key in the check, whether it has pages)
    "describe_vpcs": ("Vpcs", "Vpcs", True),
    "describe_subnets": ("Subnets", "Subnets", True),
    "describe_route_tables": ("RouteTables", "RouteTables", True),
    "describe_network_acls": ("NetworkAcls", "NetworkAcls", True),
    "describe_security_groups": ("SecurityGroups", "SecurityGroups", True),
    "describe_network_interfaces": ("NetworkInterfaces", "NetworkInterfaces", True),
    "describe_nat_gateways": ("NatGateways", "NatGateways", True),
    "describe_internet_gateways": ("InternetGateways", "InternetGateways", True),
    "describe_vpc_peering_connections": ("VpcPeeringConnections", "VpcPeeringConnections", True),
    "describe_vpn_gateways": ("VpnGateways", "VpnGateways", False),
    "describe_transit_gateway_vpc_attachments": ("TransitGatewayVpcAttachments", "TransitGatewayVpcAttachments", True),
}
ACTIONS: Final = (
    "DescribeVpcs",
    "DescribeSubnets",
    "DescribeRouteTables",
    "DescribeNetworkAcls",
    "DescribeSecurityGroups",
    "DescribeNetworkInterfaces",
    "DescribeNatGateways",
    "DescribeInternetGateways",
    "DescribeVpcPeeringConnections",
    "DescribeVpnGateways",
    "DescribeTransitGatewayVpcAttachments",
    "DescribeManagedPrefixLists",
    "GetManagedPrefixListEntries",
    "DescribeInstances",
)
"""What a role needs to be allowed."""

_VALUES: Final = 200
"""Values that one filter of a Describe call may have (EC2 API reference, "Filter")."""

Paying = Callable[[str], None]


def take_snapshot(
    ec2: Any,
    clusters: Sequence[str],
    no_snat: Sequence[str],
    taken_at: str,
    pay: Paying = lambda _: None,
    snat: Sequence[str] = (),
) -> Snapshot:
    """Describe everything once. ``no_snat`` and ``snat`` are what the stack adds to its routes and takes out.

    ``pay`` is told of each call before it is made. Raises botocore's errors.
    """
    answers = {key: list(_pages(ec2, call, name, paged, pay)) for call, (name, key, paged) in _CALLS.items()}
    answers["PrefixLists"] = list(_prefix_lists(ec2, answers, pay))
    answers["Instances"] = list(_nodes(ec2, clusters, pay))
    return read_snapshot(answers, no_snat=no_snat, snat=snat, taken_at=taken_at)


def _pages(ec2: Any, call: str, name: str, paged: bool, pay: Paying, **asked: Any) -> Iterator[Mapping[str, Any]]:
    action = "".join(word.capitalize() for word in call.split("_"))
    if not paged:
        pay(action)
        yield from getattr(ec2, call)(**asked)[name]
        return
    token = ""
    while True:
        pay(action)
        answer = getattr(ec2, call)(**asked, **({"NextToken": token} if token else {"MaxResults": _size(call)}))
        yield from answer[name]
        token = answer.get("NextToken") or ""
        if not token:
            return


def _size(call: str) -> int:
    """Items in a page, as many as each call allows (EC2 API reference)."""
    return 100 if call == "describe_route_tables" or "prefix_list" in call else 1000


def _prefix_lists(
    ec2: Any, answers: Mapping[str, Iterable[Mapping[str, Any]]], pay: Paying
) -> Iterator[dict[str, Any]]:
    """Those that a route or a rule names, with their entries: AWS's own lists are many and long."""
    named = sorted(set(_named_lists(answers)))
    for start in range(0, len(named), _VALUES):
        filters = [{"Name": "prefix-list-id", "Values": named[start : start + _VALUES]}]
        for item in _pages(ec2, "describe_managed_prefix_lists", "PrefixLists", True, pay, Filters=filters):
            asked = {"PrefixListId": item["PrefixListId"]}
            entries = list(_pages(ec2, "get_managed_prefix_list_entries", "Entries", True, pay, **asked))
            yield {**item, "Entries": entries}


def _named_lists(answers: Mapping[str, Iterable[Mapping[str, Any]]]) -> Iterator[str]:
    for table in answers["RouteTables"]:
        yield from (r["DestinationPrefixListId"] for r in table.get("Routes", ()) if r.get("DestinationPrefixListId"))
    for group in answers["SecurityGroups"]:
        for rule in (*group.get("IpPermissions", ()), *group.get("IpPermissionsEgress", ())):
            yield from (p["PrefixListId"] for p in rule.get("PrefixListIds", ()))


def _nodes(ec2: Any, clusters: Sequence[str], pay: Paying) -> Iterator[Mapping[str, Any]]:
    """Living instances of the clusters."""
    filters = [
        {"Name": "tag-key", "Values": [f"kubernetes.io/cluster/{name}" for name in clusters]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
    ]
    for reservation in _pages(ec2, "describe_instances", "Reservations", True, pay, Filters=filters):
        yield from reservation["Instances"]
