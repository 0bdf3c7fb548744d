"""Finds the nodes that events did not tell of. It never changes anything: it only asks for looks.

Page by page, so that memory does not grow with the fleet.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

from berth.bus import Bus, subnet_low
from berth.contract import Record
from berth.looks import Looks
from berth.model import Instance, InterfaceView, SubnetView
from berth.policy import cluster_of, parse_policy
from berth.settings import Settings
from berth.store import NodeState

__all__ = ["SweepEc2", "SweepStore", "sweep"]

_PAGE = 100
_OVERDUE_SECONDS = 120


class SweepEc2(Protocol):
    """What the sweep reads of EC2."""

    def instances(self, ids: Sequence[str]) -> dict[str, Instance]: ...

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]: ...

    def node_pages(self, clusters: Iterable[str]) -> Iterator[tuple[Instance, ...]]: ...

    def tagged_interface_pages(self) -> Iterator[tuple[InterfaceView, ...]]: ...

    def allowed_subnets(self) -> tuple[SubnetView, ...]: ...


class SweepStore(Protocol):
    """What the sweep reads of the table."""

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]: ...

    def records(self) -> Iterator[tuple[str, NodeState]]: ...


def sweep(
    ec2: SweepEc2,
    store: SweepStore,
    looks: Looks,
    bus: Bus,
    settings: Settings,
    clock: Callable[[], float] = time.time,
) -> Counter[str]:
    """Ask for a look at every node where EC2 and the table disagree, that lacks addresses or whose look was lost.

    Returns counts for metrics.
    """
    counts: Counter[str] = Counter()
    for page in ec2.node_pages(settings.clusters):
        nodes = [i for i in page if _is_node(i, settings)]
        states = store.load([n.arn for n in nodes]) if nodes else {}
        drifted = _drifted(ec2, states, nodes)
        _ask(looks, counts, "NodesDrifted", drifted)
        _ask(looks, counts, "NodesNeglected", sorted(_neglected(states, nodes, clock()) - set(drifted)))
        counts["NodesSeen"] += len(nodes)
    for chunk in _chunks(store.records()):
        ids = [arn.rpartition("/")[2] for arn, state in chunk if not state.buried]
        _ask(looks, counts, "RecordsWithoutNode", _without_life(ec2, ids))
    for interfaces in ec2.tagged_interface_pages():
        ours = [i for i in interfaces if i.cluster in settings.clusters and i.node]
        loose = {i.node for i in ours if i.node and (i.attachment is None or i.attachment.instance_id != i.node)}
        dead = _without_life(ec2, sorted({i.node for i in ours if i.node}))
        _ask(looks, counts, "NodesWithOrphans", sorted(loose | set(dead)))
    _tell_levels(ec2, bus, settings, counts)
    return counts


def _ask(looks: Looks, counts: Counter[str], name: str, ids: list[str]) -> None:
    if ids:
        looks.ask(ids, f"sweep: {name}")
    counts[name] += len(ids)


def _is_node(instance: Instance, settings: Settings) -> bool:
    tags = dict(instance.tags)
    return bool(cluster_of(tags, settings.clusters)) and not parse_policy(tags, settings.defaults).unmanaged


def _neglected(states: Mapping[str, NodeState], nodes: Sequence[Instance], now: float) -> set[str]:
    """Nodes that want addresses, of which there may be some again, and nodes whose delayed look never came."""
    notes = {n.id: states[n.arn].notes for n in nodes}
    return {i for i, n in notes.items() if n.unmet or 0 < n.next_look < now - _OVERDUE_SECONDS}


def _drifted(ec2: SweepEc2, states: Mapping[str, NodeState], nodes: Sequence[Instance]) -> list[str]:
    """Nodes without a record, and nodes whose record lists other blocks than EC2 shows."""
    if not nodes:
        return []
    shown = ec2.interfaces([n.id for n in nodes])
    return [n.id for n in nodes if _listed(states[n.arn].record) != _blocks(n, shown.get(n.id, ()))]


def _listed(record: Record | None) -> set[tuple[str, str]] | None:
    return {(i.id, b) for i in record.interfaces for b in (a.cidr for a in i.assignments)} if record else None


def _blocks(node: Instance, interfaces: Iterable[InterfaceView]) -> set[tuple[str, str]]:
    clusters = {i.cluster for i in interfaces if i.cluster}
    mine = (i for i in interfaces if i.is_primary_of(node.id) or any(i.is_ours(c, node.id) for c in clusters))
    return {(i.id, block) for i in mine for block in i.blocks}


def _without_life(ec2: SweepEc2, ids: Sequence[str]) -> list[str]:
    found = ec2.instances(ids) if ids else {}
    return [i for i in ids if i not in found or found[i].dead]


def _tell_levels(ec2: SweepEc2, bus: Bus, settings: Settings, counts: Counter[str]) -> None:
    low = []
    for subnet in ec2.allowed_subnets():
        # EC2 keeps five addresses of each subnet (VPC User Guide, "Subnet CIDR blocks")
        size = max(ipaddress.ip_network(subnet.cidr).num_addresses - 5, 1)
        if subnet.free * 100 < settings.subnet_low_percent * size:
            low.append(subnet_low(subnet.id, subnet.zone, subnet.free, size))
    counts["SubnetsLow"] += len(low)
    counts["EventsNotSent"] += bus.send(low)


def _chunks(records: Iterator[tuple[str, NodeState]]) -> Iterator[list[tuple[str, NodeState]]]:
    while chunk := list(islice(records, _PAGE)):
        yield chunk
