"""What the sweep reads of EC2 and Auto Scaling. Each method is exactly one call, so that the caller can count them.

Describes go by filter, not by id: one unknown id would fail the whole call, and filtered or paginated describes have
the larger bucket (EC2 developer guide, "Request throttling"). A page's token is EC2's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from berth.chunks import FILTER_VALUES
from berth.ec2 import call_ec2
from berth.ec2_wire import ALLOWED_TAG, read_instance, read_interface, read_public_address, read_subnet
from berth.model import (
    INSTANCE_TAG,
    NODE_TAG_PREFIX,
    POOL_TAG,
    Instance,
    InterfaceView,
    PublicAddress,
    SubnetView,
)

if TYPE_CHECKING:
    from mypy_boto3_autoscaling.client import AutoScalingClient
    from mypy_boto3_ec2.client import EC2Client

__all__ = ["GROUP_IDS", "PAGE_IDS", "Boto3Survey", "Page", "Reservation", "Survey", "every"]

PAGE_IDS: Final = FILTER_VALUES
"""Values that one filter of a Describe call may have (EC2 API reference, "Filter"), so also nodes in a page."""
GROUP_IDS: Final = 50
"""Instances that one DescribeAutoScalingInstances may name (Auto Scaling API reference)."""
_INTERFACES: Final = 500
"""Interfaces in a page (5 to 1000): the answer is parsed as a whole, which is what most of the memory is for."""
_INSTANCES: Final = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """``token`` is "" on the last page."""

    items: tuple[T, ...] = ()
    token: str = ""


def every(page: Callable[[str], Page[T]]) -> Iterator[T]:
    """All items of ``page``, which gives the one of a token."""
    token = ""
    while True:
        found = page(token)
        yield from found.items
        token = found.token
        if not token:
            return


@dataclass(frozen=True, slots=True)
class Reservation:
    """A range of a subnet; ``for_prefixes``: EC2 takes prefixes from it and no single address, else neither."""

    cidr: str
    for_prefixes: bool


class Survey(Protocol):
    """At most :data:`PAGE_IDS` ids at a time. Every method raises :class:`~berth.ec2_wire.Ec2Error`, or boto3's own."""

    def nodes(self, clusters: Iterable[str], token: str) -> Page[Instance]:
        """Living instances that carry a cluster tag."""

    def instances_among(self, ids: Sequence[str], token: str) -> Page[Instance]:
        """Those of ``ids`` that EC2 shows."""

    def attached(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        """All interfaces attached to these instances."""

    def interfaces_among(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        """Those of ``ids`` (interface ids) that EC2 shows."""

    def pooled_among(self, ids: Sequence[str], token: str) -> Page[PublicAddress]:
        """Those of ``ids`` (Elastic IP addresses) that carry the tag of a pool."""

    def unattached(self, token: str) -> Page[InterfaceView]:
        """Interfaces tagged for some node and attached to nothing."""

    def subnets(self, token: str) -> Page[SubnetView]:
        """Subnets tagged ``berth:allowed``."""

    def used(self, subnet_id: str, token: str) -> Page[str]:
        """IPv4 addresses and prefixes on the interfaces of a subnet, whoever made them."""

    def reserved(self, subnet_id: str, token: str) -> Page[Reservation]:
        """IPv4 ranges of a subnet that its owner has reserved."""

    def in_hooks(self, ids: Sequence[str]) -> dict[str, str]:
        """Group by instance id, of those that wait in a launch hook; at most :data:`GROUP_IDS` ids."""

    def has_hook(self, group: str, name: str) -> bool:
        """Whether a group has a launch hook of this name."""


class Boto3Survey:
    """EC2 and Auto Scaling through boto3. ``connect_groups`` makes the client when the first group is asked about."""

    def __init__(self, ec2: EC2Client, connect_groups: Callable[[], AutoScalingClient], arn_prefix: str) -> None:
        self._ec2, self._connect_groups, self._arn_prefix = ec2, connect_groups, arn_prefix
        self._groups: AutoScalingClient | None = None

    def nodes(self, clusters: Iterable[str], token: str) -> Page[Instance]:
        tags = {"tag-key": [NODE_TAG_PREFIX + name for name in sorted(clusters)]}
        states = {"instance-state-name": ["pending", "running", "stopping", "stopped"]}
        return self._instances(tags | states, PAGE_IDS, token)

    def instances_among(self, ids: Sequence[str], token: str) -> Page[Instance]:
        return self._instances({"instance-id": ids}, _INSTANCES, token)

    def attached(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        return self._interfaces({"attachment.instance-id": ids}, token)

    def interfaces_among(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        return self._interfaces({"network-interface-id": ids}, token)

    def interfaces_by_attachment(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        """Those that one of these attachments holds, still or again."""
        return self._interfaces({"attachment.attachment-id": ids}, token)

    def pooled_among(self, ids: Sequence[str], token: str) -> Page[PublicAddress]:  # noqa: ARG002 - there are no pages
        """DescribeAddresses answers everything at once."""
        filters = [{"Name": "allocation-id", "Values": list(ids)}, {"Name": "tag-key", "Values": [POOL_TAG]}]
        answer = call_ec2(self._ec2, "describe_addresses", {"Filters": filters})
        return Page(tuple(map(read_public_address, answer["Addresses"])))

    def unattached(self, token: str) -> Page[InterfaceView]:
        return self._interfaces({"tag-key": [INSTANCE_TAG], "status": ["available"]}, token)

    def subnets(self, token: str) -> Page[SubnetView]:
        answer = self._page("describe_subnets", {"tag-key": [ALLOWED_TAG]}, _INSTANCES, token)
        return Page(tuple(read_subnet(s) for s in answer["Subnets"]), answer.get("NextToken") or "")

    def used(self, subnet_id: str, token: str) -> Page[str]:
        answer = self._page("describe_network_interfaces", {"subnet-id": [subnet_id]}, _INTERFACES, token)
        blocks = (block for i in answer["NetworkInterfaces"] for block in _blocks(i))
        return Page(tuple(blocks), answer.get("NextToken") or "")

    def reserved(self, subnet_id: str, token: str) -> Page[Reservation]:
        parameters: dict[str, Any] = {"SubnetId": subnet_id} | ({"NextToken": token} if token else {})
        answer = call_ec2(self._ec2, "get_subnet_cidr_reservations", parameters)
        found = answer.get("SubnetIpv4CidrReservations", ())
        ranges = (Reservation(r["Cidr"], r.get("ReservationType") == "prefix") for r in found)
        return Page(tuple(ranges), answer.get("NextToken") or "")

    def in_hooks(self, ids: Sequence[str]) -> dict[str, str]:
        answer = self._auto_scaling().describe_auto_scaling_instances(InstanceIds=list(ids))
        # Pending:Wait, and Warmed:Pending:Wait on the way into a warm pool
        waiting = (i for i in answer["AutoScalingInstances"] if i["LifecycleState"].endswith("Pending:Wait"))
        return {i["InstanceId"]: i["AutoScalingGroupName"] for i in waiting}

    def has_hook(self, group: str, name: str) -> bool:
        answer = self._auto_scaling().describe_lifecycle_hooks(AutoScalingGroupName=group)
        named = (h for h in answer["LifecycleHooks"] if h["LifecycleHookName"] == name)
        return any(h.get("LifecycleTransition") == "autoscaling:EC2_INSTANCE_LAUNCHING" for h in named)

    # ------------------------------------------------------------------------------------------------ plumbing

    def _auto_scaling(self) -> AutoScalingClient:
        self._groups = self._groups or self._connect_groups()
        return self._groups

    def _instances(self, filters: Mapping[str, Sequence[str]], size: int, token: str) -> Page[Instance]:
        answer = self._page("describe_instances", filters, size, token)
        shown = (read_instance(i, self._arn_prefix) for r in answer["Reservations"] for i in r["Instances"])
        return Page(tuple(shown), answer.get("NextToken") or "")

    def _interfaces(self, filters: Mapping[str, Sequence[str]], token: str) -> Page[InterfaceView]:
        answer = self._page("describe_network_interfaces", filters, _INTERFACES, token)
        return Page(tuple(map(read_interface, answer["NetworkInterfaces"])), answer.get("NextToken") or "")

    def _page(self, action: str, filters: Mapping[str, Sequence[str]], size: int, token: str) -> Mapping[str, Any]:
        parameters: dict[str, Any] = {
            "Filters": [{"Name": name, "Values": list(values)} for name, values in filters.items()],
            "MaxResults": size,
        }
        return call_ec2(self._ec2, action, parameters | ({"NextToken": token} if token else {}))


def _blocks(interface: Mapping[str, Any]) -> Iterable[str]:
    yield from (a["PrivateIpAddress"] for a in interface.get("PrivateIpAddresses", ()))
    yield from (p["Ipv4Prefix"] for p in interface.get("Ipv4Prefixes", ()))
