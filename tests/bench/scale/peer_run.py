"""Runs of the peer's model: the same fleets, the same account, nobody in charge."""

from __future__ import annotations

import random
from typing import Final

from tests.bench.scale.assumed import ADDRESSES_PER_INTERFACE, INTERFACES, NETWORK_LEG, api_seconds
from tests.bench.scale.deployed import deployed
from tests.bench.scale.ec2 import Machine
from tests.bench.scale.fleet import Fleet, capacity
from tests.bench.scale.peer import Settings, VpcCniNode
from tests.bench.scale.result import Result, bound_by_action, percentile

__all__ = ["PEERS", "run_peer"]

PEERS: Final = ("vpc-cni-default", "vpc-cni-tuned")
LIMIT_SECONDS: Final = 40_000.0
_SLOTS: Final = ADDRESSES_PER_INTERFACE - 1


def settings_of(system: str, pods: int) -> Settings:
    """Tuned: the figures that Berth's nodes are asked for. Default: max-pods as EKS computes it for the type.

    That counts two pods in the host's network, which need no address.
    """
    policy = deployed().policy
    if system == "vpc-cni-tuned":
        wanted = min(policy.max_pods, pods + policy.warm_addresses)
        return Settings(True, wanted, policy.warm_addresses, 0, policy.max_pods, INTERFACES, _SLOTS)
    return Settings(False, 0, 0, 1, INTERFACES * _SLOTS + 2, INTERFACES, _SLOTS)


def run_peer(system: str, nodes: int, pods: int, seed: int) -> Result:
    """One run of one of :data:`PEERS`."""
    fleet = Fleet(nodes, seed, LIMIT_SECONDS)
    settings = settings_of(system, pods)
    wanted = min(pods, capacity(prefixes=settings.prefixes))
    all_nodes: list[VpcCniNode] = []

    def booted(machine: Machine) -> None:
        own = random.Random(seed * 7919 + len(all_nodes))
        node = VpcCniNode(fleet.ec2, fleet.timeline, own, machine, settings, wanted, fleet.served)
        all_nodes.append(node)
        node.start()

    fleet.launch({}, lambda _: None, lambda _: None, booted)
    fleet.run()
    calls = fleet.ec2.calls
    reading = sum(n for action, n in calls.items() if action.startswith("Describe"))
    bound, action = bound_by_action(calls, fleet.ec2.throttled)
    floor = sum(
        NETWORK_LEG.low + api_seconds(a).low
        for a in ("DescribeNetworkInterfaces", "CreateTags", "DescribeSubnets", "ModifyNetworkInterfaceAttribute")
    )
    floor += NETWORK_LEG.low + api_seconds("AssignPrivateIpAddresses").low
    return Result(
        nodes=nodes,
        pods_per_node=pods,
        system=system,
        mutating_calls_per_node=round((calls.total() - reading) / nodes, 3),
        describe_calls_per_node=round(reading / nodes, 3),
        throttled_calls=fleet.ec2.throttled.total(),
        seconds_p50=percentile(fleet.came, 0.5, nodes),
        seconds_p99=percentile(fleet.came, 0.99, nodes),
        seconds_all=percentile(fleet.came, 1.0, nodes),
        bound_seconds=round(floor + bound, 2),
        latency_floor_seconds=round(floor, 2),
        bound_action=action,
        addresses_per_node=wanted,
        calls=dict(sorted(calls.items())),
        throttled=dict(sorted(fleet.ec2.throttled.items())),
        refused=dict(sorted(fleet.ec2.refused.items())),
        observed_seconds=round(fleet.timeline.now, 1),
        details={"model": True, "restarts_of_aws_node": sum(n.restarts for n in all_nodes)},
    )
