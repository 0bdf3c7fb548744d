"""What EC2 and the table say about a batch of nodes, described together.

A batch costs one DescribeInstances, which shows what is attached to each, and, if there are nodes in it, one
DescribeNetworkInterfaces by tag, which shows what is not attached and what is ours. Both draw on the token budget, and
so does what else the EC2 edge describes: more pages, and what it remembers for longer than a batch takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from berth.budget import Budget, OutOfTokensError, Priority
from berth.claims import take_in
from berth.ec2_wire import Network
from berth.edges import Edges
from berth.meters import Meters
from berth.model import Instance, InterfaceView, Limits, PublicAddress
from berth.policy import cluster_of
from berth.public_claims import load_publics
from berth.store import NodeState

__all__ = ["World", "describe", "pay"]


@dataclass(frozen=True, slots=True)
class World:
    """Instances, interfaces and states are by instance id; an instance that EC2 does not show is missing.

    ``at`` is when it began to be described (Unix seconds): how old an outcome is must be reckoned from there, since a
    function may be held up between a describe and what it makes of it.
    """

    at: float
    instances: dict[str, Instance]
    interfaces: dict[str, tuple[InterfaceView, ...]]
    states: dict[str, NodeState]
    limits: dict[str, Limits]
    network: Network
    claimed: dict[str, frozenset[str]]
    """Standby interfaces that a node has claimed and that its tag does not name yet; ``interfaces`` has them too."""
    publics: tuple[PublicAddress, ...] | None = None
    """See :func:`berth.public_claims.load_publics`."""


def describe(edges: Edges, ids: Sequence[str]) -> World:
    """Everything about the nodes among ``ids``. Most instances of an account are none: they cost one describe.

    Raises :class:`~berth.budget.OutOfTokensError`, and what the edges raise.
    """
    settings, at = edges.settings, edges.clock()
    pay(edges.budget, edges.meters, at, "DescribeInstances")
    instances = edges.ec2.instances(ids)
    by_arn = edges.store.load([settings.arn(i) for i in ids])
    states = {i: by_arn[settings.arn(i)] for i in ids}
    ours = [i for i in ids if i not in instances or states[i].record or _cluster(edges, instances[i])]
    if ours:
        pay(edges.budget, edges.meters, edges.clock(), "DescribeNetworkInterfaces")
    interfaces, claimed = _interfaces(edges, ours, states) if ours else ({}, {})
    living = [i for i in (instances[n] for n in ours if n in instances) if not i.dead]
    return World(
        at=at,
        instances=instances,
        interfaces=interfaces,
        states=states,
        limits=edges.ec2.limits({i.type for i in living}) if living else {},
        network=edges.ec2.network({i.vpc_id for i in living}) if living else Network(),
        claimed=claimed,
        publics=load_publics(edges, ours, interfaces, states),
    )


def _interfaces(
    edges: Edges, ours: Sequence[str], states: Mapping[str, NodeState]
) -> tuple[dict[str, tuple[InterfaceView, ...]], dict[str, frozenset[str]]]:
    return take_in(edges, edges.ec2.interfaces(ours), [i for i in ours if states[i].claims])


def pay(budget: Budget, meters: Meters, now: float, action: str) -> None:
    """Take the token of one describe. Raises :class:`~berth.budget.OutOfTokensError`."""
    slot = budget.reserve(action, 1, Priority.SHORTAGE, now)
    if slot.left is not None:
        meters.stands("TokensLeft", slot.left, action=action)
    if slot.at > now:
        raise OutOfTokensError(action, slot.at)


def _cluster(edges: Edges, instance: Instance) -> str | None:
    return cluster_of(dict(instance.tags), edges.settings.clusters)
