"""Reads how VPCs route: their route tables, with the networks that prefix lists stand for, and their CIDRs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from berth.chunks import chunks
from berth.ec2_errors import Ec2Error, Trouble
from berth.ec2_wire import read_vpc_cidrs
from berth.route_wire import listed_prefixes, named_lists, read_route_table
from berth.routes import RouteTable, Routing

__all__ = ["ROUTES_SECONDS", "RouteTables"]

logger = logging.getLogger(__name__)

ROUTES_SECONDS: Final = 120.0
"""Route tables are good for so long; where a change is told of, they are read anew (``forget_routes``)."""
_FOR_NOW: Final = (Trouble.THROTTLED, Trouble.IN_DOUBT)


class _Describe(Protocol):
    def __call__(self, action: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make one call of EC2 by the name of boto3's method. Raises :class:`Ec2Error`."""


class RouteTables:
    """Route tables by VPC. ``describe`` makes one call."""

    def __init__(self, describe: _Describe) -> None:
        self._describe = describe

    def of(self, vpcs: Sequence[str]) -> dict[str, tuple[RouteTable, ...]]:
        """The tables of each VPC that has some, sorted by id. Raises :class:`Ec2Error`."""
        items = list(self._among("describe_route_tables", "RouteTables", "vpc-id", vpcs))
        lists = {name: self._entries(name) for name in named_lists(items)}
        found: dict[str, list[RouteTable]] = {}
        for item in items:
            found.setdefault(item["VpcId"], []).append(read_route_table(item, lists))
        return {vpc: tuple(sorted(tables, key=lambda t: t.id)) for vpc, tables in found.items()}

    def routing(self, vpcs: Sequence[str]) -> dict[str, Routing]:
        """How each of these VPCs routes. Raises :class:`Ec2Error`."""
        cidrs = {v["VpcId"]: read_vpc_cidrs(v) for v in self._among("describe_vpcs", "Vpcs", "vpc-id", vpcs)}
        tables = self.of(vpcs)
        return {vpc: Routing(own, tables.get(vpc, ())) for vpc, own in cidrs.items()}

    def vpcs(self, subnets: Sequence[str]) -> dict[str, str]:
        """The VPC of each of these subnets that is there. Raises :class:`Ec2Error`."""
        return {s["SubnetId"]: s["VpcId"] for s in self._among("describe_subnets", "Subnets", "subnet-id", subnets)}

    def _among(self, action: str, key: str, name: str, values: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        for chunk in chunks(values):
            yield from self._pages(action, key, {"Filters": [{"Name": name, "Values": chunk}]})

    def _entries(self, name: str) -> tuple[str, ...] | None:
        """None, and a word in the log, for a list that cannot be read, such as one that is no longer shared."""
        try:
            return listed_prefixes(
                list(self._pages("get_managed_prefix_list_entries", "Entries", {"PrefixListId": name}))
            )
        except Ec2Error as error:
            if error.trouble in _FOR_NOW:
                raise
            logger.warning("a route's prefix list cannot be read", extra={"list": name, "error": str(error)})
            return None

    def _pages(self, action: str, key: str, asked: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        parameters = {**asked, "MaxResults": 100}
        while True:
            page = self._describe(action, parameters)
            yield from page[key]
            if not page.get("NextToken"):
                return
            parameters = {**parameters, "NextToken": page["NextToken"]}
