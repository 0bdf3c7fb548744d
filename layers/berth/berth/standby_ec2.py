"""The EC2 edge of standby interfaces: makes, shows and deletes those that are no node's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from berth.chunks import chunks
from berth.ec2 import call_ec2
from berth.ec2_errors import ec2_name
from berth.ec2_wire import ALLOWED_TAG, read_interface, read_subnet
from berth.model import CLUSTER_TAG, CREATED_TAG, STANDBY_TAG, InterfaceView, SubnetView
from berth.standby_pools import StandbyPool

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client

__all__ = ["Boto3StandbyEc2", "Pay", "Places", "StandbyEc2"]

_PAGE: Final = 1000
"""Interfaces in a page (EC2 API reference: 5 to 1000)."""

Pay = Callable[[str], None]
"""Takes the token of one call of an action (EC2's name), or raises. Each page of a describe is a call."""


@dataclass(frozen=True, slots=True)
class Places:
    """Subnets by id, and the security groups tagged ``berth:allowed``."""

    subnets: Mapping[str, SubnetView]
    groups: frozenset[str]


class StandbyEc2(Protocol):
    """What the filler needs of EC2. Every method raises :class:`~berth.ec2_wire.Ec2Error`, or what ``pay`` raises."""

    def loose(self, clusters: Sequence[str], pay: Pay) -> tuple[InterfaceView, ...]:
        """Every interface made for a pool of these clusters that is attached to nothing and no node's by its tag."""

    def shown(self, ids: Sequence[str], pay: Pay) -> dict[str, InterfaceView]:
        """These interfaces as they are now; those that EC2 does not show are missing."""

    def places(self, subnet_ids: Iterable[str], group_ids: Iterable[str], pay: Pay) -> Places:
        """What is there of these."""

    def create(self, pool: StandbyPool, token: str, at: float) -> InterfaceView:
        """Make one with everything on it. The same token and time give the same interface."""

    def delete(self, interface_id: str) -> None:
        """Delete it."""


class Boto3StandbyEc2:
    """EC2 through boto3."""

    def __init__(self, reader: EC2Client, writer: EC2Client) -> None:
        self._reader, self._writer = reader, writer

    def loose(self, clusters: Sequence[str], pay: Pay) -> tuple[InterfaceView, ...]:
        filters = [_filter(f"tag:{CLUSTER_TAG}", clusters), _filter("tag-key", [STANDBY_TAG])]
        found = self._interfaces([*filters, _filter("status", ["available"])], pay, _PAGE)
        return tuple(i for i in found if i.standby and i.node is None and i.attachment is None)

    def shown(self, ids: Sequence[str], pay: Pay) -> dict[str, InterfaceView]:
        return {i.id: i for c in chunks(ids) for i in self._interfaces([_filter("network-interface-id", c)], pay)}

    def places(self, subnet_ids: Iterable[str], group_ids: Iterable[str], pay: Pay) -> Places:
        subnets = self._chunked("describe_subnets", "Subnets", "subnet-id", subnet_ids, pay)
        allowed = _filter("tag-key", [ALLOWED_TAG])
        groups = self._chunked("describe_security_groups", "SecurityGroups", "group-id", group_ids, pay, allowed)
        return Places({s["SubnetId"]: read_subnet(s) for s in subnets}, frozenset(g["GroupId"] for g in groups))

    def create(self, pool: StandbyPool, token: str, at: float) -> InterfaceView:
        created = datetime.fromtimestamp(int(at), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        tags = {CLUSTER_TAG: pool.cluster, STANDBY_TAG: pool.key, CREATED_TAG: created}
        answer = call_ec2(
            self._writer,
            "create_network_interface",
            {
                "SubnetId": pool.subnet_id,
                "Groups": list(pool.groups),
                "Ipv4PrefixCount": pool.prefixes,
                "Description": f"Berth: standby {pool.key} of {pool.cluster}",
                "ClientToken": token,
                "TagSpecifications": [
                    {"ResourceType": "network-interface", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
                ],
            },
        )
        made = read_interface(answer["NetworkInterface"])
        return replace(made, cluster=pool.cluster, standby=pool.key, created_at=float(int(at)))

    def delete(self, interface_id: str) -> None:
        call_ec2(self._writer, "delete_network_interface", {"NetworkInterfaceId": interface_id})

    def _interfaces(self, filters: Sequence[Mapping[str, Any]], pay: Pay, page: int = 0) -> Iterator[InterfaceView]:
        found = self._all("describe_network_interfaces", "NetworkInterfaces", filters, pay, page)
        return (read_interface(i) for i in found)

    def _chunked(
        self, action: str, name: str, by: str, values: Iterable[str], pay: Pay, *more: Mapping[str, Any]
    ) -> Iterator[Mapping[str, Any]]:
        for chunk in chunks(sorted(set(values))):
            yield from self._all(action, name, [_filter(by, chunk), *more], pay)

    def _all(
        self, action: str, name: str, filters: Sequence[Mapping[str, Any]], pay: Pay, page: int = 0
    ) -> Iterator[Mapping[str, Any]]:
        parameters: dict[str, Any] = {"Filters": list(filters)} | ({"MaxResults": page} if page else {})
        while True:
            pay(ec2_name(action))
            answer = call_ec2(self._reader, action, parameters)
            yield from answer[name]
            if not answer.get("NextToken"):
                return
            parameters["NextToken"] = answer["NextToken"]


def _filter(name: str, values: Sequence[str]) -> Mapping[str, Any]:
    return {"Name": name, "Values": list(values)}
