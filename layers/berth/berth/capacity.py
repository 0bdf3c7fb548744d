"""How many addresses, interfaces and EC2 calls a group of nodes takes when pods fill it, and whether that fits. Pure.

The numbers are those of full nodes: each has as many addresses as it may have pods. Berth fills the primary interface
first, then makes as few others as it can, each with all that it is to hold (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from berth.buckets import Buckets
from berth.contract import Mode
from berth.model import PREFIX_SIZE, Limits

__all__ = [
    "INTERFACE_QUOTA",
    "USAGE_QUOTA",
    "Calls",
    "Demand",
    "NodeNeed",
    "Room",
    "Verdict",
    "calls",
    "fit",
    "most_pods",
    "need",
]

INTERFACE_QUOTA: Final = 5_000
"""Network interfaces in one zone of a Region, by default ("Amazon VPC quotas", VPC User Guide: enforced by zone)."""
USAGE_QUOTA: Final = 64_000
"""Network address usage of one VPC, by default: an address, a prefix or a further interface counts one each ("Network
Address Usage for your VPC", VPC User Guide)."""
_BATCH: Final = 10
"""Nodes that one describe is about."""


@dataclass(frozen=True, slots=True)
class NodeNeed:
    """What one full node takes. ``blocks`` are prefixes (or single addresses) on ``interfaces``, the primary included;
    those that are single pods' own are among them, and have no block.

    ``pods`` may be less than what was asked for: the type cannot have more.
    """

    pods: int
    blocks: int
    interfaces: int
    subnet_addresses: int
    usage: int


@dataclass(frozen=True, slots=True)
class Room:
    """What a subnet has: ``prefixes`` whole /28 blocks are free, or so many at the most (:mod:`berth.free_blocks`)."""

    name: str
    zone: str
    free: int
    prefixes: int


@dataclass(frozen=True, slots=True)
class Calls:
    """One EC2 action: how often it is called, and how long its bucket takes for that, from full, in seconds."""

    action: str
    count: int
    capacity: float
    refill: float

    @property
    def seconds(self) -> float:
        return max(self.count - self.capacity, 0.0) / self.refill


@dataclass(frozen=True, slots=True)
class Demand:
    """What is planned. ``spare_primary``: the primary interface serves no pods. ``pods_own`` of each node's pods have
    an interface for themselves (docs/security-groups.md)."""

    limits: Limits
    mode: Mode
    max_pods: int
    nodes: int
    spare_primary: bool = False
    pods_own: int = 0

    @property
    def shared(self) -> Limits:
        """What is left of the type's limits for all other pods; the primary interface always is."""
        left = max(self.limits.interfaces - self.pods_own, 1)
        return replace(self.limits, interfaces=left)

    def most_pods(self, mode: Mode) -> int:
        """Addresses for pods that a node can have."""
        return most_pods(self.shared, mode, spare_primary=self.spare_primary)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``nodes_packed`` and ``nodes_scattered``: how many full nodes the subnets hold if single addresses lie together,
    and if each spoils a /28 of its own. ``problems`` say what does not fit, ``remarks`` what is worth knowing."""

    nodes_packed: int
    nodes_scattered: int
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def most_pods(limits: Limits, mode: Mode, *, spare_primary: bool = False) -> int:
    """Addresses for pods that the type can have: each interface's first address is its own."""
    blocks = (limits.interfaces - spare_primary) * (limits.addresses_per_interface - 1)
    if mode == "addresses":
        return blocks
    return blocks * PREFIX_SIZE if limits.prefixes else 0


def need(demand: Demand) -> NodeNeed:
    """One full node. A spared primary is one of its ``interfaces``; ``subnet_addresses`` are of pods' subnets alone, so
    its own address is none of them."""
    limits, size = demand.limits, PREFIX_SIZE if demand.mode == "prefixes" else 1
    slots = limits.addresses_per_interface - 1
    own = limits.interfaces - demand.shared.interfaces
    pods = min(max(demand.max_pods - own, 0), demand.most_pods(demand.mode))
    blocks, spared = -(-pods // size), int(demand.spare_primary)
    interfaces = own + (spared + max(-(-blocks // slots), 1 - spared) if slots else 1)
    addresses = blocks * size + interfaces - spared
    return NodeNeed(pods + own, blocks, interfaces, addresses, blocks + 2 * interfaces - 1)


def calls(demand: Demand, buckets: Buckets | None = None) -> tuple[Calls, ...]:
    """All nodes at once, from nothing to full: what one reconcile of each would call if all its pods waited."""
    buckets, node = buckets or Buckets(), need(demand)
    further, batches = node.interfaces - 1, -(-demand.nodes // _BATCH)
    counts = {
        "AssignPrivateIpAddresses": demand.nodes if node.blocks and not demand.spare_primary else 0,
        "CreateNetworkInterface": demand.nodes * further,
        "AttachNetworkInterface": demand.nodes * further,
        "ModifyNetworkInterfaceAttribute": demand.nodes * further,
        "DescribeInstances": batches,
        "DescribeNetworkInterfaces": batches,
    }
    made = ((action, count, buckets.of(action)) for action, count in counts.items())
    return tuple(Calls(action, count, bucket.capacity, bucket.refill) for action, count, bucket in made)


def fit(
    demand: Demand, rooms: Sequence[Room], interface_quota: int = INTERFACE_QUOTA, usage_quota: int = USAGE_QUOTA
) -> Verdict:
    """Whether the nodes fit, spread over the subnets as these have room."""
    node = need(demand)
    packed = [_nodes(demand, node, room, scattered=False) for room in rooms]
    scattered = [_nodes(demand, node, room, scattered=True) for room in rooms]
    zones = len({room.zone for room in rooms}) or 1
    problems = [*_of_type(demand, node), *_of_subnets(demand, node, rooms, sum(packed))]
    in_zone = -(-demand.nodes // zones) * node.interfaces
    if in_zone > interface_quota:
        problems.append(
            f"{in_zone:,} interfaces in a zone ({demand.nodes:,} nodes × {node.interfaces} in {zones} zones), "
            f"the quota is {interface_quota:,}: have it raised (L-DF5E4CA3)"
        )
    usage = demand.nodes * node.usage
    if usage > usage_quota:
        problems.append(
            f"{usage:,} units of network address usage ({demand.nodes:,} nodes × {node.usage}), the VPC's quota is "
            f"{usage_quota:,} and can be raised to 256,000"
        )
    short = not problems and sum(scattered) < demand.nodes
    return Verdict(sum(packed), sum(scattered), tuple(problems), tuple(_remarks(demand, node, short, bool(problems))))


def _nodes(demand: Demand, node: NodeNeed, room: Room, *, scattered: bool) -> int:
    """Full nodes that a subnet holds."""
    by_addresses = room.free // node.subnet_addresses
    if demand.mode == "addresses" or not node.blocks:
        return by_addresses
    if scattered:
        return min(by_addresses, room.prefixes // (node.blocks + node.interfaces))
    # interfaces' own addresses fill what is no whole block first, then blocks, one after the other
    loose = room.free - room.prefixes * PREFIX_SIZE
    most = min(by_addresses, room.prefixes // node.blocks)
    while most and most * node.blocks + -(-max(most * node.interfaces - loose, 0) // PREFIX_SIZE) > room.prefixes:
        most -= 1
    return most


def _of_type(demand: Demand, node: NodeNeed) -> Iterable[str]:
    if demand.pods_own >= demand.limits.interfaces:
        free = demand.limits.interfaces - 1
        yield f"{demand.pods_own} pods with an interface of their own: beside the primary one the type has {free}"
    elif node.pods < demand.max_pods:
        limits = demand.shared
        spared = "" if not demand.spare_primary else " − 1 spared"
        each = f"{limits.interfaces}{spared} interfaces × ({limits.addresses_per_interface} − 1)"
        size = f" × {PREFIX_SIZE}" if demand.mode == "prefixes" and limits.prefixes else ""
        why = f"{each}{size}" if node.pods else "no prefixes: it is not on Nitro"
        yield f"a node has room for {node.pods} pods ({why}), not for {demand.max_pods}"


def _of_subnets(demand: Demand, node: NodeNeed, rooms: Sequence[Room], nodes: int) -> Iterable[str]:
    if nodes >= demand.nodes:
        return
    free, wanted = sum(r.free for r in rooms), demand.nodes * node.subnet_addresses
    blocks = f", {demand.nodes * node.blocks:,} of {sum(r.prefixes for r in rooms):,} whole /28"
    yield (
        f"the subnets hold {nodes:,} of {demand.nodes:,} full nodes: {wanted:,} addresses are wanted "
        f"({demand.nodes:,} × {node.subnet_addresses}), {free:,} are free"
        f"{blocks if demand.mode == 'prefixes' else ''}"
    )


def _remarks(demand: Demand, node: NodeNeed, short: bool, overfull: bool) -> Iterable[str]:
    if short:
        yield (
            "if interfaces' own addresses lie scattered, whole /28 run out before the last node: keep a CIDR "
            "reservation of type prefix in each subnet"
        )
    if demand.mode == "prefixes" and demand.limits.prefixes and node.blocks * PREFIX_SIZE >= 2 * node.pods:
        yield f"a prefix is {PREFIX_SIZE} addresses: mode addresses would take half or less of the subnet"
    if demand.mode == "addresses" and demand.most_pods("prefixes") >= demand.max_pods > node.pods:
        yield "mode prefixes has room for all these pods on this type"
    if overfull:
        yield (
            "where no larger or secondary CIDR (100.64.0.0/10) can be had for pods, and no IPv6, an overlay network "
            "serves better: its pods take none of the VPC's addresses, and cannot be reached from outside by their own"
        )
