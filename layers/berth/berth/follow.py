"""Finds the nodes whose records no longer say what the route tables do, and asks for looks. It changes nothing.

It compares what is with what should be, whatever it was called for: so it may be called by each change that CloudTrail
tells of, and by a schedule for those that nobody tells (routes that a VPN gateway propagates, a lost event, a changed
parameter of the stack). Where nothing differs it costs one read of the table and a few describes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from berth.absent import Unlimited
from berth.budget import Budget, OutOfTokensError, paying
from berth.bus import Bus, routes_unknown
from berth.chunks import chunks
from berth.ec2_wire import Ec2Error, Trouble, ec2_name
from berth.looks import FRESH_SECONDS, ROUTES_CHANGED, Looks, spread
from berth.model import Instance
from berth.policy import is_managed
from berth.route_records import Listed
from berth.routes import Routing
from berth.settings import Settings
from berth.survey import Page, every

__all__ = ["FollowEdges", "RouteRecords", "RouteSurvey", "follow_routes"]

_BATCH: Final = 10


class RouteSurvey(Protocol):
    """What is read of EC2 about routes. Every method raises :class:`Ec2Error` and
    :class:`~berth.budget.OutOfTokensError`."""

    def vpcs(self, subnets: Sequence[str]) -> Mapping[str, str]:
        """The VPC of each of these subnets that is there."""

    def routing(self, vpcs: Sequence[str]) -> Mapping[str, Routing]:
        """How each of these VPCs routes."""


class InstanceSurvey(Protocol):
    def instances_among(self, ids: Sequence[str], token: str) -> Page[Instance]:
        """Those of ``ids`` that EC2 shows; at most :data:`~berth.survey.PAGE_IDS` ids."""


class RouteRecords(Protocol):
    def page(self, token: str) -> tuple[tuple[Listed, ...], str]:
        """One page of what records list, and the next page's token."""


@dataclass(frozen=True, slots=True)
class FollowEdges:
    routes: RouteSurvey
    instances: InstanceSurvey
    records: RouteRecords
    looks: Looks
    settings: Settings
    bus: Bus
    budget: Budget = field(default_factory=Unlimited)
    clock: Callable[[], float] = time.time


def follow_routes(edges: FollowEdges) -> Counter[str]:
    """Ask for a look at every node that has other routes than its record says. Returns counts for metrics.

    Without a token to spare it is left to the next run. Raises :class:`~berth.ec2_wire.Ec2Error`; nothing is lost then
    but time.
    """
    counts = Counter({"RoutesCompared": 0, "NodesRoutesChanged": 0, "RouteLooksPutOff": 0, "PrefixListsUnread": 0})
    try:
        listed = list(_all(edges.records))
        differing, unread = _compared(edges, listed)
        nodes = sorted(_nodes(edges, differing)) if differing else []
    except OutOfTokensError:
        counts["RouteLooksPutOff"] = 1
        return counts
    except Ec2Error as error:
        if error.trouble is not Trouble.THROTTLED:
            raise
        edges.budget.throttled(ec2_name(error.action), edges.clock())
        counts["RouteLooksPutOff"] = 1
        return counts
    for start in range(0, len(nodes), _BATCH):
        edges.looks.ask(nodes[start : start + _BATCH], ROUTES_CHANGED, FRESH_SECONDS + spread(start))
    counts["RoutesCompared"], counts["NodesRoutesChanged"] = len(listed), len(nodes)
    counts["PrefixListsUnread"] = len(unread)
    edges.bus.send([routes_unknown(name, sorted(tables), count) for name, (tables, count) in sorted(unread.items())])
    return counts


def _all(records: RouteRecords) -> Iterator[Listed]:
    token = ""
    while True:
        page, token = records.page(token)
        yield from page
        if not token:
            return


def _compared(edges: FollowEdges, listed: Sequence[Listed]) -> tuple[list[str], dict[str, tuple[set[str], int]]]:
    """Nodes whose records list other destinations than a look would now; and prefix lists that cannot be read, with the
    route tables that name them and how many nodes that concerns."""
    settings = edges.settings
    vpcs = edges.routes.vpcs(sorted({s for node in listed for s in node.subnets}))
    routing = edges.routes.routing(sorted(set(vpcs.values())))
    found, unread = list[str](), dict[str, tuple[set[str], int]]()
    for node in listed:
        own = routing.get(next((vpcs[s] for s in node.subnets if s in vpcs), ""))
        if own is None:
            continue
        wanted = own.no_snat(node.subnets, settings.no_snat_cidrs, settings.snat_cidrs, node.no_snat_cidrs)
        found += [node.instance_id] if wanted != node.no_snat_cidrs else []
        for name, tables in _by_list(own.unread(node.subnets)).items():
            known, count = unread.get(name, (set(), 0))
            unread[name] = (known | tables, count + 1)
    return found, unread


def _by_list(unread: Sequence[tuple[str, str]]) -> dict[str, set[str]]:
    return {name: {table for table, other in unread if other == name} for _, name in unread}


def _nodes(edges: FollowEdges, ids: Sequence[str]) -> Iterator[str]:
    """Those that are looked after: a look at others would leave their records as they are, each time anew."""
    for chunk in chunks(ids):
        for instance in _shown(edges, chunk):
            if not instance.dead and is_managed(dict(instance.tags), edges.settings.clusters):
                yield instance.id


def _shown(edges: FollowEdges, ids: Sequence[str]) -> Iterator[Instance]:
    pay = paying(edges.budget, edges.clock)

    def page(token: str) -> Page[Instance]:
        pay("DescribeInstances")
        return edges.instances.instances_among(ids, token)

    return every(page)
