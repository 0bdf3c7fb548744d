"""The EC2 edge: describes in batches, one function for every mutating call, errors sorted by what to do about them.

Time-outs are bounded and mutating calls are never retried blindly: the outcome of a call that timed out is unknown, and
the planner decides after a fresh look. All mutating calls go through :meth:`Boto3Ec2.mutate`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from berth.calls import CreateInterface
from berth.chunks import chunks
from berth.ec2_wire import (
    ALLOWED_TAG,
    Ec2Error,
    Network,
    Trouble,
    classify,
    ec2_name,
    read_attached,
    read_instance,
    read_interface,
    read_limits,
    read_outcome,
    read_subnet,
    read_vpc_cidrs,
    request,
    routed_subnet,
)
from berth.model import INSTANCE_TAG, Instance, Intent, InterfaceView, Limits, Outcome, SubnetView
from berth.remembered import Remembered
from berth.route_tables import ROUTES_SECONDS, RouteTables

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef

__all__ = [
    "CIDRS_SECONDS",
    "CLIENT_CONFIG",
    "GROUPS_SECONDS",
    "MUTATING_CONFIG",
    "SUBNETS_SECONDS",
    "TYPES_SECONDS",
    "Boto3Ec2",
    "Ec2",
    "call_ec2",
]

CLIENT_CONFIG: Final = Config(
    connect_timeout=2, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3}, max_pool_connections=10
)
MUTATING_CONFIG: Final = Config(
    connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}, max_pool_connections=10
)
"""One attempt, for describes too: what a mutating call has done is looked at before it is made again, and whoever
repeats a throttled describe hides from the token budget that it was."""
TYPES_SECONDS: Final = 21_600.0
"""What is known of an instance type is good for this long: EC2 does not change it, but once in years."""
SUBNETS_SECONDS: Final = 15.0
"""So are subnets with their tags and free addresses. The count is a hint; EC2's refusal is the truth, and ends it."""
GROUPS_SECONDS: Final = 60.0
"""So are the security groups tagged as usable: an operator who tags one waits so long."""
CIDRS_SECONDS: Final = 300.0
"""So are a VPC's CIDRs."""


class Ec2(Protocol):
    """What reconcile needs of EC2. Every method raises :class:`Ec2Error`."""

    def instances(self, ids: Sequence[str]) -> dict[str, Instance]:
        """By id; instances that EC2 does not show are missing."""

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        """By instance id: all that are attached to it or tagged for it. Ask for the instances first, in one call."""

    def limits(self, types: Iterable[str]) -> dict[str, Limits]:
        """By instance type; unknown types are missing."""

    def network(self, vpc_ids: Iterable[str]) -> Network:
        """What is around the nodes."""

    def forget_routes(self, older_than: float) -> None:
        """Describe VPCs' CIDRs and routes anew, unless that was done in the last ``older_than`` seconds."""

    def mutate(self, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        """Make one mutating call, once."""


class Boto3Ec2:
    """EC2 through boto3. Make one for each execution environment: what seldom changes is remembered, so that a batch of
    steady nodes costs one DescribeInstances and one DescribeNetworkInterfaces.

    ``arn_prefix`` is ``arn:PARTITION:ec2:REGION:ACCOUNT:instance/``; ``clock`` counts seconds from anywhere. ``pay``
    takes the token of a describe (EC2's name of it) that the caller cannot foresee, or raises: all but the first page
    of :meth:`instances` and of :meth:`interfaces`.
    """

    def __init__(
        self,
        reader: EC2Client,
        writer: EC2Client,
        arn_prefix: str,
        clock: Callable[[], float] = time.monotonic,
        pay: Callable[[str], None] = lambda _action: None,
    ) -> None:
        self._reader, self._writer, self._arn_prefix, self._pay = reader, writer, arn_prefix, pay
        self.reader, self.pay = reader, pay
        self._attached: dict[str, tuple[InterfaceView, ...]] = {}
        self._limits = Remembered(TYPES_SECONDS, clock, self._ask_limits)
        self._subnets = Remembered(SUBNETS_SECONDS, clock, self._ask_subnets)
        self._cidrs = Remembered(CIDRS_SECONDS, clock, self._ask_cidrs)
        self._groups = Remembered(GROUPS_SECONDS, clock, self._ask_groups)
        self._routes = Remembered(ROUTES_SECONDS, clock, RouteTables(self._describe).of)

    def instances(self, ids: Sequence[str]) -> dict[str, Instance]:
        pages = self._pages("describe_instances", "instance-id", ids, paid=True)
        found = [i for page in pages for reservation in page["Reservations"] for i in reservation["Instances"]]
        self._attached = {i["InstanceId"]: read_attached(i) for i in found}
        return {i["InstanceId"]: read_instance(i, self._arn_prefix) for i in found}

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        """What is attached was in the answer of :meth:`instances`; EC2 is asked for what is tagged."""
        found = {i: {view.id: view for view in self._attached.get(i, ())} for i in ids}
        for page in self._pages("describe_network_interfaces", f"tag:{INSTANCE_TAG}", ids, paid=True):
            for interface in map(read_interface, page["NetworkInterfaces"]):
                holder = interface.attachment.instance_id if interface.attachment else None
                for owner in {holder, interface.node} & found.keys():
                    if owner is not None:
                        found[owner][interface.id] = interface
        return {i: tuple(sorted(by_id.values(), key=lambda n: n.id)) for i, by_id in found.items()}

    def limits(self, types: Iterable[str]) -> dict[str, Limits]:
        return self._limits.get(types)

    def network(self, vpc_ids: Iterable[str]) -> Network:
        vpcs = sorted(set(vpc_ids))
        subnets = sorted((s for found in self._subnets.get(vpcs).values() for s in found), key=lambda s: s.id)
        cidrs = self._cidrs.get(vpcs)
        return Network(
            subnets=tuple(routed_subnet(s, cidrs.get(s.vpc_id, ())) for s in subnets),
            vpc_cidrs=tuple(cidrs.items()),
            allowed_groups=frozenset().union(*self._groups.get(vpcs).values()),
            route_tables=tuple(self._routes.get(vpcs).items()),
        )

    def forget_routes(self, older_than: float) -> None:
        """Describe VPCs' CIDRs and routes anew, unless that was done in the last ``older_than`` seconds."""
        self._cidrs.forget(older_than)
        self._routes.forget(older_than)

    def mutate(self, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        """Make one mutating call, once. Raises :class:`Ec2Error`."""
        action, parameters = request(intent, instance_id, cluster)
        try:
            answer = call_ec2(self._writer, action, parameters)
        except Ec2Error as error:
            if error.trouble in (Trouble.EXHAUSTED, Trouble.FRAGMENTED):
                self._subnets.forget()  # their counts are older than this
            if error.code.startswith(("InvalidGroup.", "InvalidSubnetID.")):
                self._subnets.forget()
                self._groups.forget()
            raise
        outcome = read_outcome(intent.call, answer)
        if outcome.interface is None:
            return outcome
        ours = replace(outcome.interface, cluster=cluster, node=instance_id, created_at=float(int(intent.at)))
        if isinstance(intent.call, CreateInterface):
            ours = replace(ours, pod=intent.call.pod, pod_asks=intent.call.pod_asks)
        return Outcome(interface=ours)

    # ------------------------------------------------------------------------------------------- describing

    def _ask_limits(self, types: list[str]) -> dict[str, Limits]:
        pages = self._pages("describe_instance_types", "instance-type", types)
        return {item["InstanceType"]: read_limits(item) for page in pages for item in page["InstanceTypes"]}

    def _ask_subnets(self, vpcs: list[str]) -> dict[str, list[SubnetView]]:
        found: dict[str, list[SubnetView]] = {vpc: [] for vpc in vpcs}
        for page in self._pages("describe_subnets", "vpc-id", vpcs):
            for subnet in map(read_subnet, page["Subnets"]):
                found[subnet.vpc_id].append(subnet)
        return found

    def _ask_cidrs(self, vpcs: list[str]) -> dict[str, tuple[str, ...]]:
        pages = self._pages("describe_vpcs", "vpc-id", vpcs)
        return {v["VpcId"]: read_vpc_cidrs(v) for page in pages for v in page["Vpcs"]}

    def _ask_groups(self, vpcs: list[str]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {vpc: set() for vpc in vpcs}
        tagged: FilterTypeDef = {"Name": "tag-key", "Values": [ALLOWED_TAG]}
        for page in self._pages("describe_security_groups", "vpc-id", vpcs, tagged):
            for group in page["SecurityGroups"]:
                found[group["VpcId"]].add(group["GroupId"])
        return found

    def _pages(
        self, action: str, name: str, values: Sequence[str], *more: FilterTypeDef, paid: bool = False
    ) -> Iterator[Mapping[str, Any]]:
        """``paid``: the first call's token has been taken."""
        for number, chunk in enumerate(chunks(values)):
            wanted: FilterTypeDef = {"Name": name, "Values": chunk}
            yield from self._paginate(action, [wanted, *more], paid=paid and not number)

    def _paginate(self, action: str, filters: Sequence[FilterTypeDef], *, paid: bool) -> Iterator[Mapping[str, Any]]:
        """A Describe with a filter, page by page: filtered ones have the larger bucket (EC2 API throttling).

        EC2 decides how much a page holds, which may be everything.
        """
        parameters: dict[str, Any] = {"Filters": list(filters)}
        while True:
            page = self._describe(action, parameters, paid=paid)
            paid = False
            yield page
            if not page.get("NextToken"):
                return
            parameters["NextToken"] = page["NextToken"]

    def _describe(self, action: str, parameters: Mapping[str, Any], *, paid: bool = False) -> Mapping[str, Any]:
        """Once more if it was not answered: describing again does no harm."""
        if not paid:
            self._pay(ec2_name(action))
        try:
            return call_ec2(self._reader, action, parameters)
        except Ec2Error as error:
            if error.trouble is not Trouble.IN_DOUBT:
                raise
        self._pay(ec2_name(action))
        return call_ec2(self._reader, action, parameters)


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
