"""What EC2 and the table say about a batch of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from berth.ec2_wire import Network
from berth.edges import Edges
from berth.model import Instance, InterfaceView, Limits
from berth.policy import cluster_of
from berth.store import NodeState

__all__ = ["World", "describe"]


@dataclass(frozen=True, slots=True)
class World:
    """Instances, interfaces and states are by instance id; an instance that EC2 does not show is missing."""

    instances: dict[str, Instance]
    interfaces: dict[str, tuple[InterfaceView, ...]]
    states: dict[str, NodeState]
    limits: dict[str, Limits]
    network: Network


def describe(edges: Edges, ids: Sequence[str]) -> World:
    """Everything about the nodes among ``ids``. Most instances of an account are none: they cost one describe."""
    settings = edges.settings
    instances = edges.ec2.instances(ids)
    by_arn = edges.store.load([settings.arn(i) for i in ids])
    states = {i: by_arn[settings.arn(i)] for i in ids}
    ours = [i for i in ids if i not in instances or states[i].record or _cluster(edges, instances[i])]
    living = [i for i in (instances[n] for n in ours if n in instances) if not i.dead]
    return World(
        instances=instances,
        interfaces=edges.ec2.interfaces(ours) if ours else {},
        states=states,
        limits=edges.ec2.limits({i.type for i in living}) if living else {},
        network=edges.ec2.network({i.vpc_id for i in living}) if living else Network(),
    )


def _cluster(edges: Edges, instance: Instance) -> str | None:
    return cluster_of(dict(instance.tags), edges.settings.clusters)
