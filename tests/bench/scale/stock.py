"""Standby pools in memory, with the promises of the ones in DynamoDB: claims are conditional, candidates are random."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from berth.ec2_wire import read_interface
from berth.model import CLUSTER_TAG, CREATED_TAG, STANDBY_TAG, InterfaceView

from tests.bench.scale.ec2 import VirtualEc2

__all__ = ["Stock", "stock"]

_ENOUGH = 8
"""As many candidates as :mod:`berth.standby_store` reads for one look."""


class Stock:
    """``size`` is how many were made ahead. Latencies are added outside."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._free: dict[str, list[InterfaceView]] = {}
        self._claims: dict[str, dict[str, InterfaceView]] = {}
        self._owners: dict[str, str] = {}
        self.size = 0
        self.races: Counter[str] = Counter()

    def add(self, interface: InterfaceView) -> None:
        self.size += 1
        self._free.setdefault(interface.subnet_id, []).append(interface)

    @property
    def left(self) -> int:
        return sum(map(len, self._free.values()))

    def candidates(self, subnet_ids: frozenset[str], now: float) -> tuple[InterfaceView, ...]:
        found: list[InterfaceView] = []
        for subnet in sorted(subnet_ids):
            free = self._free.get(subnet, [])
            found += self._rng.sample(free, min(_ENOUGH, len(free)))
        return tuple(found)

    def claimed(self, instance_ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        return {i: tuple(self._claims[i].values()) for i in instance_ids if self._claims.get(i)}

    def claim(self, interface: InterfaceView, instance_id: str, now: float) -> bool:
        won = self._owners.setdefault(interface.id, instance_id) == instance_id
        self.races["won" if won else "lost"] += 1
        mine = self._claims.setdefault(instance_id, {})
        if won and interface.id not in mine:
            mine[interface.id] = interface
            self._free[interface.subnet_id] = [i for i in self._free[interface.subnet_id] if i.id != interface.id]
        return won

    def settle(self, interface: InterfaceView, instance_id: str, now: float) -> None:
        self._claims.get(instance_id, {}).pop(interface.id, None)


def stock(ec2: VirtualEc2, rng: random.Random, count: int, prefixes: int, cluster: str, pool: str) -> Stock:
    """``count`` interfaces, evenly over the subnets, made long before the run: their calls are counted, no more."""
    made = Stock(rng)
    tags = {CLUSTER_TAG: cluster, STANDBY_TAG: pool, CREATED_TAG: "2026-01-01T00:00:00Z"}
    for number in range(count):
        nic = ec2.made_before(ec2.subnets[number % len(ec2.subnets)], prefixes, tags)
        made.add(read_interface(nic.describe()))
    return made
