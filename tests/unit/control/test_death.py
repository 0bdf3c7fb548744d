"""Death: all that a node had is deleted as soon as EC2 lets go, at whatever moment it died; the living keep theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from berth.calls import DeleteInterface, Detach, Unassign
from berth.contract import Order, Report
from berth.events import Signal
from berth.model import InterfaceView
from berth.plan import ORPHAN_SECONDS
from berth.reconcile import RunResult, reconcile

from tests.unit.control.fakes import ARN, NODE, SUBNET, Died, FakeEc2, Machine, Scene

TWO = {"berth__minimum_addresses": "150", "berth__max_pods": "200"}
"""More than the primary interface holds: a second one has to be made, attached and protected."""
LAG = 30.0
"""How long EC2 may take to show what was created. Overlay and unanswered creations reckon with 60 s."""


class LateEc2(FakeEc2):
    """Describes leave out interfaces made less than ``LAG`` ago."""

    def __init__(self, machine: Machine) -> None:
        self.made: dict[str, float] = {}
        super().__init__(machine)

    def _new(self, subnet: str, groups: tuple[str, ...]) -> InterfaceView:
        view = super()._new(subnet, groups)
        self.made[view.id] = self._machine.now
        return view

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        shown = super().interfaces(ids)
        visible = {i for i, at in self.made.items() if self._machine.now - at >= LAG}
        return {i: tuple(v for v in found if v.id in visible or v.attachment) for i, found in shown.items()}


def look(scene: Scene, *signals: Signal) -> RunResult:
    return reconcile(scene.edges, signals or (Signal(NODE, "test"),), 50.0)


def grown(*, state: str = "running") -> Scene:
    scene = Scene()
    scene.ec2.launch(state=state, **TWO)
    look(scene)
    return scene


def buried(scene: Scene) -> bool:
    item = scene.store.items.get(ARN)
    return item is None or (item.expires_at is not None and not item.report and not item.intents)


def settle(scene: Scene) -> None:
    """Nothing more happens than that the messages come: the redelivered one, then those that looks ask for."""
    scene.machine.restart()
    scene.machine.now += 81  # the lease of the dead has run out
    for _ in range(8):
        assert not look(scene).failed
        if not scene.looks.asked:
            break
        scene.machine.now += max(delay for _, _, delay in scene.looks.asked)
        scene.looks.asked.clear()


@pytest.mark.parametrize("late", [False, True], ids=["seen at once", "seen late"])
@pytest.mark.parametrize("ends", ["terminated", "shutting-down", "forgotten"])
@pytest.mark.parametrize("at", range(40))
def test_killed_between_any_two_steps_of_its_making_a_node_that_dies_then_leaves_nothing(
    at: int, ends: str, late: bool
) -> None:
    """Also the interface whose creation was in flight, and the one that was not yet marked DeleteOnTermination."""
    scene = Scene()
    if late:
        ec2 = LateEc2(scene.machine)
        scene.ec2, scene.edges = ec2, replace(scene.edges, ec2=ec2)
    scene.ec2.launch(state="pending", **TWO)
    scene.machine.dies_at = at
    try:
        look(scene)
        scene.ec2.set_state("running")
        look(scene)
    except Died:
        scene.machine.restart()
    scene.looks.asked.clear()
    scene.ec2.set_state("shutting-down" if ends == "shutting-down" else "terminated")
    if ends == "forgotten":  # no event told of its end, and EC2 shows it no longer
        scene.ec2.forget()
    settle(scene)
    if ends == "shutting-down":
        assert all(i.attachment for i in scene.ec2.ours()), "EC2 had let go"
        scene.ec2.set_state("terminated")
        settle(scene)
    if ends == "forgotten":  # of an instance without a record nothing but the sweep tells, once its orphan is old
        scene.machine.now += ORPHAN_SECONDS
        settle(scene)
    assert scene.ec2.ours() == []
    assert buried(scene)
    assert scene.store.leases == {}


def test_what_turns_up_after_the_tombstone_is_deleted_at_once() -> None:
    scene = grown()
    scene.ec2.set_state("terminated")
    look(scene)
    assert buried(scene)
    scene.ec2.forget()
    view = replace(scene.ec2._new(SUBNET, ()), cluster="demo", node=NODE, created_at=scene.machine.now)
    scene.ec2.all_interfaces[view.id] = view
    look(scene)
    assert scene.ec2.ours() == []
    assert buried(scene)


def test_the_detach_of_a_dying_node_is_not_waited_for_by_the_others() -> None:
    scene = grown()
    (mine,) = scene.ec2.ours()
    assert mine.attachment is not None
    loose = replace(mine.attachment, delete_on_termination=False)
    scene.ec2.all_interfaces[mine.id] = replace(mine, attachment=loose)
    scene.machine.now += 120  # what our own call did is no longer overlaid
    scene.ec2.set_state("shutting-down")
    other = "i-0123456789abcdef1"
    scene.ec2.launch(other)
    look(scene, Signal(NODE, "shutting-down"), Signal(other, "pending"))
    assert Detach(mine.id, loose.id) in scene.ec2.calls
    assert scene.ec2.primary(other).prefixes


# ------------------------------------------------------------------------------------------------ absence


def detached(scene: Scene) -> InterfaceView:
    """Our interface, a day old, has just been detached by hand."""
    scene.machine.now += 86_400
    (mine,) = scene.ec2.ours()
    scene.ec2.all_interfaces[mine.id] = replace(mine, attachment=None)
    return mine


def test_one_absence_deletes_nothing_however_old_it_is() -> None:
    scene = grown()
    mine = detached(scene)
    instance = scene.ec2.all_instances[NODE]
    scene.ec2.forget()
    look(scene)
    assert mine.id in scene.ec2.all_interfaces
    scene.ec2.all_instances[NODE] = instance
    look(scene)
    assert scene.ec2.all_interfaces[mine.id].attachment is not None, "attached again"


def test_two_absences_ten_minutes_apart_delete_what_is_left() -> None:
    scene = grown()
    detached(scene)
    scene.ec2.forget()
    look(scene)
    scene.machine.now += 599
    look(scene)
    assert len(scene.ec2.ours()) == 1
    scene.machine.now += 2
    look(scene)
    assert scene.ec2.ours() == []
    assert buried(scene)


def test_an_orphan_of_an_instance_that_nobody_knows_is_deleted_by_its_exact_age() -> None:
    scene = Scene()
    view = replace(scene.ec2._new(SUBNET, ()), cluster="demo", node=NODE, created_at=scene.machine.now)
    scene.ec2.all_interfaces[view.id] = view
    scene.machine.now += ORPHAN_SECONDS - 5
    look(scene)
    assert scene.ec2.ours() == [view]
    scene.machine.now += 6
    look(scene)
    assert scene.ec2.ours() == []


# ------------------------------------------------------------------------------------------------ unwanted


def with_no_room() -> tuple[Scene, InterfaceView]:
    """Our interface was detached by hand a minute ago, and somebody else's took its place."""
    scene = grown()
    mine = detached(scene)
    scene.ec2.types["m5.large"] = replace(scene.ec2.types["m5.large"], interfaces=1)
    return scene, mine


def test_an_old_interface_that_was_just_detached_by_hand_is_kept_for_ten_minutes() -> None:
    scene, mine = with_no_room()
    look(scene)
    scene.machine.now += 590
    look(scene)
    assert mine.id in scene.ec2.all_interfaces
    scene.machine.now += 20
    look(scene)
    assert mine.id not in scene.ec2.all_interfaces
    (event,) = scene.bus.named("Network Interface Reclaimed")
    assert event.detail["network-interface-id"] == mine.id


def test_an_interface_that_is_wanted_again_starts_over() -> None:
    scene, mine = with_no_room()
    look(scene)
    scene.ec2.types["m5.large"] = replace(scene.ec2.types["m5.large"], interfaces=3)
    scene.machine.now += 300
    look(scene)
    assert scene.ec2.all_interfaces[mine.id].attachment is not None
    assert scene.store.items[ARN].notes.unwanted == ()


# ------------------------------------------------------------------------------------------------ the living


@pytest.mark.parametrize("state", ["stopping", "stopped"])
def test_a_stopped_or_hibernated_node_keeps_what_it_uses(state: str) -> None:
    """A hibernated instance is ``stopped`` to EC2, and its pods come back with their addresses."""
    scene = grown()
    kept = dict(scene.ec2.all_interfaces)
    calls = len(scene.ec2.calls)
    scene.ec2.set_state(state)
    for _ in range(3):
        look(scene)
        scene.machine.now += 86_400
    assert scene.ec2.all_interfaces == kept
    assert len(scene.ec2.calls) == calls
    assert not buried(scene)


@pytest.mark.parametrize("reason", ["spot terminate", "spot hibernate", "rebalance recommended"])
def test_a_node_that_is_about_to_go_keeps_what_it_uses_and_serves_pods_that_wait(reason: str) -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    kept = scene.ec2.assigned()
    scene.store.accept_report(ARN, Report(Order(1, 1), 1, in_use=14))
    look(scene, Signal(NODE, reason, draining_until=scene.machine.now + 600))
    assert scene.ec2.assigned() == kept, "warm growth, or a release"
    scene.store.accept_report(ARN, Report(Order(1, 2), 1, in_use=16, waiting=("pod",)))
    look(scene)
    assert scene.ec2.assigned() > kept
    assert not {Unassign, Detach, DeleteInterface} & set(map(type, scene.ec2.calls))
    scene.machine.now += 601  # it was not taken after all
    scene.store.accept_report(ARN, Report(Order(1, 3), 1, in_use=32))
    look(scene)
    assert len(scene.ec2.assigned()) == 3
