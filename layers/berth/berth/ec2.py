"""The EC2 edge: describes in batches, one function for every mutating call, errors sorted by what to do about them.

Time-outs are bounded and mutating calls are never retried blindly: the outcome of a call that timed out is unknown, and
the planner decides after a fresh look. All mutating calls go through :meth:`Boto3Ec2.mutate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from berth.ec2_wire import (
    ALLOWED_TAG,
    Ec2Error,
    Network,
    Trouble,
    classify,
    read_instance,
    read_interface,
    read_limits,
    read_outcome,
    read_subnet,
    read_vpc_cidrs,
    request,
    routed_subnet,
)
from berth.model import INSTANCE_TAG, NODE_TAG_PREFIX, Instance, Intent, InterfaceView, Limits, Outcome, SubnetView

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef

__all__ = ["CLIENT_CONFIG", "MUTATING_CONFIG", "Boto3Ec2", "Ec2", "call_ec2"]

CLIENT_CONFIG: Final = Config(
    connect_timeout=2, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3}, max_pool_connections=10
)
MUTATING_CONFIG: Final = Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1})
_PAGE: Final = 500
"""Results in a page of what the sweep walks through (5 to 1000)."""
_FILTER_VALUES: Final = 200
"""Values that one filter of a Describe call may have (EC2 API reference, "Filter")."""


class Ec2(Protocol):
    """What reconcile needs of EC2. Every method raises :class:`Ec2Error`."""

    def instances(self, ids: Sequence[str]) -> dict[str, Instance]:
        """By id; instances that EC2 does not show are missing."""

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        """By instance id: all that are attached to it or tagged for it."""

    def limits(self, types: Iterable[str]) -> dict[str, Limits]:
        """By instance type; unknown types are missing."""

    def network(self, vpc_ids: Iterable[str]) -> Network:
        """What is around the nodes."""

    def mutate(self, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        """Make one mutating call, once."""


class Boto3Ec2:
    """EC2 through boto3. Make one for each execution environment: instance types are remembered.

    ``arn_prefix`` is ``arn:PARTITION:ec2:REGION:ACCOUNT:instance/``.
    """

    def __init__(self, reader: EC2Client, writer: EC2Client, arn_prefix: str) -> None:
        self._reader, self._writer, self._arn_prefix = reader, writer, arn_prefix
        self._limits: dict[str, Limits] = {}

    def instances(self, ids: Sequence[str]) -> dict[str, Instance]:
        found = (
            read_instance(instance, self._arn_prefix)
            for page in self._pages("describe_instances", "instance-id", ids)
            for reservation in page["Reservations"]
            for instance in reservation["Instances"]
        )
        return {instance.id: instance for instance in found}

    def node_pages(self, clusters: Iterable[str]) -> Iterator[tuple[Instance, ...]]:
        """Living instances that carry a cluster tag, page by page."""
        states = ["pending", "running", "stopping", "stopped"]
        filters: list[FilterTypeDef] = [
            {"Name": "tag-key", "Values": [NODE_TAG_PREFIX + name for name in sorted(clusters)]},
            {"Name": "instance-state-name", "Values": states},
        ]
        for page in self._paginate("describe_instances", filters, _PAGE):
            yield tuple(read_instance(i, self._arn_prefix) for r in page["Reservations"] for i in r["Instances"])

    def tagged_interface_pages(self) -> Iterator[tuple[InterfaceView, ...]]:
        """Interfaces with our instance tag, page by page."""
        tagged: list[FilterTypeDef] = [{"Name": "tag-key", "Values": [INSTANCE_TAG]}]
        for page in self._paginate("describe_network_interfaces", tagged, _PAGE):
            yield tuple(read_interface(i) for i in page["NetworkInterfaces"])

    def allowed_subnets(self) -> tuple[SubnetView, ...]:
        """Every subnet tagged ``berth:allowed``."""
        pages = self._paginate("describe_subnets", [{"Name": "tag-key", "Values": [ALLOWED_TAG]}])
        return tuple(read_subnet(s) for page in pages for s in page["Subnets"])

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        found: dict[str, dict[str, InterfaceView]] = {i: {} for i in ids}
        for name in ("attachment.instance-id", f"tag:{INSTANCE_TAG}"):
            for page in self._pages("describe_network_interfaces", name, ids):
                for interface in map(read_interface, page["NetworkInterfaces"]):
                    holder = interface.attachment.instance_id if interface.attachment else None
                    for owner in {holder, interface.node} & found.keys():
                        if owner is not None:
                            found[owner][interface.id] = interface
        return {i: tuple(sorted(by_id.values(), key=lambda n: n.id)) for i, by_id in found.items()}

    def limits(self, types: Iterable[str]) -> dict[str, Limits]:
        wanted = sorted(set(types))
        unknown = [t for t in wanted if t not in self._limits]
        for page in self._pages("describe_instance_types", "instance-type", unknown):
            for item in page["InstanceTypes"]:
                self._limits[item["InstanceType"]] = read_limits(item)
        return {t: self._limits[t] for t in wanted if t in self._limits}

    def network(self, vpc_ids: Iterable[str]) -> Network:
        vpcs = sorted(set(vpc_ids))
        subnets = [read_subnet(s) for page in self._pages("describe_subnets", "vpc-id", vpcs) for s in page["Subnets"]]
        found = (v for page in self._pages("describe_vpcs", "vpc-id", vpcs) for v in page["Vpcs"])
        cidrs = {v["VpcId"]: read_vpc_cidrs(v) for v in found}
        tagged: FilterTypeDef = {"Name": "tag-key", "Values": [ALLOWED_TAG]}
        groups = (
            g["GroupId"]
            for page in self._pages("describe_security_groups", "vpc-id", vpcs, tagged)
            for g in page["SecurityGroups"]
        )
        return Network(
            subnets=tuple(routed_subnet(s, cidrs.get(s.vpc_id, ())) for s in sorted(subnets, key=lambda s: s.id)),
            vpc_cidrs=tuple(sorted(cidrs.items())),
            allowed_groups=frozenset(groups),
        )

    def mutate(self, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        """Make one mutating call, once. Raises :class:`Ec2Error`."""
        action, parameters = request(intent, instance_id, cluster)
        answer = call_ec2(self._writer, action, parameters)
        outcome = read_outcome(intent.call, answer)
        if outcome.interface is None:
            return outcome
        ours = replace(outcome.interface, cluster=cluster, node=instance_id, created_at=float(int(intent.at)))
        return Outcome(interface=ours)

    # ------------------------------------------------------------------------------------------- describing

    def _pages(
        self, action: str, name: str, values: Sequence[str], *more: FilterTypeDef
    ) -> Iterator[Mapping[str, Any]]:
        for start in range(0, len(values), _FILTER_VALUES):
            chunk: FilterTypeDef = {"Name": name, "Values": list(values[start : start + _FILTER_VALUES])}
            yield from self._paginate(action, [chunk, *more])

    def _paginate(
        self, action: str, filters: Sequence[FilterTypeDef], size: int | None = None
    ) -> Iterator[Mapping[str, Any]]:
        """A Describe with a filter, page by page: filtered ones have the larger bucket (EC2 API throttling).

        Without ``size`` EC2 decides how much a page holds, which may be everything.
        """
        parameters: dict[str, Any] = {"Filters": list(filters)} | ({"MaxResults": size} if size else {})
        while True:
            page = call_ec2(self._reader, action, parameters)
            yield page
            if not page.get("NextToken"):
                return
            parameters["NextToken"] = page["NextToken"]


def call_ec2(client: EC2Client, action: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make one call. Raises :class:`Ec2Error`, also for a time-out or a broken connection."""
    try:
        answer: Mapping[str, Any] = getattr(client, action)(**parameters)
    except ClientError as error:
        code, message = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        raise Ec2Error(action, code, message, classify(code, message)) from error
    except BotoCoreError as error:
        # a time-out or a broken connection: the request may have arrived
        raise Ec2Error(action, type(error).__name__, str(error), Trouble.IN_DOUBT) from error
    return answer
