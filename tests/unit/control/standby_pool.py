"""A standby pool in memory, with the promises of the one in DynamoDB (test_standby_store.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from berth.model import InterfaceView

from tests.unit.control.fakes import GROUP, SUBNET, Machine, Scene

__all__ = ["POOL", "FakeStandby", "stocked"]

POOL = "0123456789abcdef"


class FakeStandby:
    """``owners`` says who has claimed which. The next ``lost_races`` claims find that somebody was quicker."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.pool: dict[str, InterfaceView] = {}
        self.owners: dict[str, str] = {}
        self.settled: set[str] = set()
        self.lost_races = 0
        self.asked = 0

    def candidates(self, subnet_ids: frozenset[str], now: float) -> tuple[InterfaceView, ...]:
        self._machine.step()
        self.asked += 1
        return tuple(i for i in self.pool.values() if i.subnet_id in subnet_ids and i.id not in self.owners)

    def claimed(self, instance_ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        self._machine.step()
        held = {
            node: tuple(self.pool[i] for i, o in self.owners.items() if o == node and i not in self.settled)
            for node in instance_ids
        }
        return {node: views for node, views in held.items() if views}

    def claim(self, interface: InterfaceView, instance_id: str, now: float) -> bool:
        self._machine.step()
        if self.lost_races:
            self.lost_races -= 1
            self.owners.setdefault(interface.id, "i-somebody-quicker")
        won = self.owners.setdefault(interface.id, instance_id) == instance_id
        self._machine.step()
        return won

    def settle(self, interface: InterfaceView, instance_id: str, now: float) -> None:
        self._machine.step()
        if self.owners.get(interface.id) == instance_id:
            self.settled.add(interface.id)


def stocked(scene: Scene, count: int = 1, prefixes: int = 3, groups: tuple[str, ...] = (GROUP,)) -> FakeStandby:
    """``count`` interfaces stand by, in EC2 and in the pool; the scene's edges draw on it."""
    pool = FakeStandby(scene.machine)
    for _ in range(count):
        made = replace(
            scene.ec2._new(SUBNET, groups), cluster="demo", standby=POOL, created_at=float(int(scene.machine.now) - 900)
        )
        scene.ec2.all_interfaces[made.id] = made
        scene.ec2._assign(made, prefixes=prefixes)
        pool.pool[made.id] = scene.ec2.all_interfaces[made.id]
    scene.edges = replace(scene.edges, standby=pool)
    return pool
