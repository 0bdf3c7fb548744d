"""What the simulator (tests/simulator) has found, each as small as it can be told."""

from __future__ import annotations

import pytest
from berth.events import Signal
from berth.reconcile import reconcile

from tests.unit.control.fakes import NODE, Died, Scene

SECONDS = 50.0


def look(scene: Scene) -> None:
    reconcile(scene.edges, [Signal(NODE, "test")], SECONDS)


@pytest.mark.parametrize("dies_at", range(40))
def test_a_shortage_is_told_wherever_the_function_is_killed(dies_at: int) -> None:
    """Once it was noted, nobody told of it again: a function killed between note and event kept it for itself."""
    scene = Scene()
    scene.ec2.groups = frozenset()
    scene.ec2.launch(berth__minimum_addresses="200", berth__max_pods="400")
    scene.machine.dies_at = dies_at
    try:
        look(scene)
    except Died:
        scene.machine.restart()
        scene.machine.now += 120
        look(scene)
    assert scene.bus.named("Node Address Demand Unmet")
