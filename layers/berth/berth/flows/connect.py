"""The attribution's edges together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from botocore.config import Config

from berth.budget import Budget, Priority
from berth.clients import make_client
from berth.connect import connect_budget, count_calls
from berth.ec2 import CLIENT_CONFIG
from berth.flows.attribution import FlowEdges
from berth.flows.ends import Subnet, Subnets
from berth.flows.objects import S3Objects
from berth.ledger_reader import LedgerReader
from berth.settings import Settings

if TYPE_CHECKING:
    from berth.meters import Meters

__all__ = ["RememberedSubnets", "connect_flows"]

_REMEMBERED_SECONDS: Final = 300.0
_PAGE: Final = 1000
"""Subnets of one answer (DescribeSubnets, API reference)."""
_PATIENCE_SECONDS: Final = 20.0
S3_CONFIG: Final = Config(
    connect_timeout=2, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 3}, max_pool_connections=10
)


class RememberedSubnets:
    """The region's subnets, or a VPC's. Asked for again after five minutes: a new one has no pods before."""

    def __init__(
        self,
        ec2: Any,
        budget: Budget,
        vpc_id: str = "",
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ec2, self._budget, self._clock, self._sleep = ec2, budget, clock, sleep
        self._filters = [{"Name": "vpc-id", "Values": [vpc_id]}] if vpc_id else []
        self._known: Subnets | None = None
        self._until = 0.0

    def __call__(self) -> Subnets:
        """Raises TimeoutError where others need the shared budget for long, and botocore's errors."""
        if self._known is None or self._clock() >= self._until:
            self._known = Subnets(map(_subnet, self._described()))
            self._until = self._clock() + _REMEMBERED_SECONDS
        return self._known

    def _described(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        more: dict[str, str] = {}
        while True:
            self._pay()
            answer = self._ec2.describe_subnets(MaxResults=_PAGE, Filters=self._filters, **more)
            found += answer["Subnets"]
            if not answer.get("NextToken"):
                return found
            more = {"NextToken": answer["NextToken"]}

    def _pay(self) -> None:
        waited = 0.0
        while True:
            now = self._clock()
            slot = self._budget.reserve("DescribeSubnets", 1, Priority.WARM, now)
            wait = slot.at - now
            if wait > 0:
                waited += wait
                if waited > _PATIENCE_SECONDS:
                    raise TimeoutError(f"the EC2 budget has no token for DescribeSubnets for {waited:.0f} s")
                self._sleep(wait)
            if wait <= 0 or slot.reserved:
                return


def _subnet(shown: Mapping[str, Any]) -> Subnet:
    ipv6 = [a["Ipv6CidrBlock"] for a in shown.get("Ipv6CidrBlockAssociationSet", ())]
    ipv4 = [shown["CidrBlock"]] if shown.get("CidrBlock") else []
    return Subnet(shown["SubnetId"], shown["VpcId"], (*ipv4, *ipv6))


def connect_flows(settings: Settings, environ: Mapping[str, str], meters: Meters) -> FlowEdges:
    """In the region and with the credentials of the environment. ``FLOWS_BUCKET`` is where flows are written to,
    ``FLOWS_VPC`` the VPC of the pods, or ``*``. Raises KeyError, which names what is missing."""
    from botocore.session import Session

    ec2 = make_client("ec2", config=CLIENT_CONFIG)
    count_calls(ec2, meters)
    return FlowEdges(
        # S3's handlers and whole model, which the quick clients leave out
        objects=S3Objects(Session().create_client("s3", config=S3_CONFIG), environ["FLOWS_BUCKET"]),
        ledger=LedgerReader(make_client("dynamodb", config=CLIENT_CONFIG), settings),
        subnets=RememberedSubnets(ec2, connect_budget(settings), environ["FLOWS_VPC"].strip("*")),
    )
