"""The simulator's own test: control planes that break a promise on purpose must be caught, and soon.

Each defect is put in from outside, for one test. It is looked for among so many random schedules, of which about a
third were needed when this was written, or in a small scene. Defects that break no promise alone are not here: a report
that comes late may count, and an id may name the block alone, since two conditions guard each release.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from berth import converge, gone, overlay, plan, pod_interfaces
from berth.buckets import Reservation
from berth.calls import Unassign
from berth.model import Intent, InterfaceView, NodeView
from berth.own_interfaces import kept
from berth.plan import Plan
from berth.store import NodeState

from tests.simulator import table
from tests.simulator.interleavings import Scene, behind, held_up, left_out
from tests.simulator.schedule import run
from tests.simulator.small import launch, race, surrender
from tests.simulator.standby import SimStandby
from tests.simulator.table import Table

Patch = pytest.MonkeyPatch


def releases_without_acknowledgement(patch: Patch) -> None:
    """What is surrendered is unassigned, whether the agent has seen the mark or not."""

    def due(view: NodeView) -> tuple[tuple[str, str], ...]:
        if view.record is None or view.report is None:
            return ()
        given = {s.cidr for s in view.report.surrendered}
        return tuple(sorted((i.id, b) for i in view.managed for b in i.blocks if b in given))

    patch.setattr(plan, "due_for_release", due)


def outcomes_are_not_overlaid(patch: Patch) -> None:
    """Describes are believed as they are."""
    patch.setattr(overlay, "overlay", lambda interfaces, *_: tuple(interfaces))


def intents_are_not_kept(patch: Patch) -> None:
    """What a function was about to do dies with it."""
    patch.setattr(Table, "save_intents", lambda *_: None)


def begun_releases_are_forgotten(patch: Patch) -> None:
    """An Unassign of which nobody has heard leaves no trace."""
    save = Table.save_intents

    def without(self: Table, arn: str, intents: Sequence[Intent], slots: Sequence[Reservation] = ()) -> None:
        save(self, arn, [i for i in intents if i.outcome or not isinstance(i.call, Unassign)], slots)

    patch.setattr(Table, "save_intents", without)


def an_absence_is_believed_at_once(patch: Patch) -> None:
    """What one describe leaves out is taken for dead."""
    clear = gone.clear

    def believing(visit: Any, name: str, instance: Any, cluster: Any, interfaces: Any, state: NodeState) -> str:
        known = replace(state, notes=replace(state.notes, absent_since=1.0))
        return clear(visit, name, instance, cluster, interfaces, known)

    patch.setattr("berth.look.clear", believing)


def leases_keep_nobody_out(patch: Patch) -> None:
    """Two functions write one node."""
    patch.setattr(Table, "take", lambda *_: True)


def records_are_written_over_later_ones(patch: Patch) -> None:
    patch.setattr(table, "_may_follow", lambda *_: True)


def calls_are_made_after_the_deadline(patch: Patch) -> None:
    patch.setattr(converge.Convergence, "_hurry", lambda *_: None)


def claims_have_no_condition(patch: Patch) -> None:
    """Whoever claims a standby interface last has it."""

    def take(self: SimStandby, interface: InterfaceView, who: str, now: float) -> bool:
        self.by_id[interface.id] = replace(self.by_id[interface.id], claimed_by=who, claimed_at=now)
        return True

    patch.setattr(SimStandby, "_take", take)


def whatever_is_attached_is_ours(patch: Patch) -> None:
    """Foreign interfaces are used like our own."""

    def is_ours(self: InterfaceView, _clusters: Any, instance_id: str) -> bool:
        return self.node == instance_id or bool(self.attachment and self.attachment.instance_id == instance_id)

    patch.setattr(InterfaceView, "is_ours", is_ours)


def the_dead_are_left_alone(patch: Patch) -> None:
    patch.setattr("berth.gone.plan_death", lambda _: Plan())


def interfaces_outlive_their_node(patch: Patch) -> None:
    """DeleteOnTermination is not set."""
    patch.setattr(plan, "_protect", lambda _: [])


Search = Callable[[], str | None]
"""Says what has failed, if anything has."""


def pods_that_have_their_interface_are_forgotten(patch: Patch) -> None:
    """Only requests of pods that still wait are looked at."""

    def waiting(view: NodeView) -> dict[str, InterfaceView]:
        has = {r.id for r in (view.report.requests if view.report else ()) if r.address}
        return {name: i for name, i in kept(view).items() if name not in has}

    patch.setattr(pod_interfaces, "kept", waiting)


def what_pods_leave_stays(patch: Patch) -> None:
    """Nothing is taken back."""
    patch.setattr(pod_interfaces, "_let_go", lambda _view: ([], ""))


def among(schedules: int) -> Search:
    """The first of so many random schedules that fails."""

    def search() -> str | None:
        return next((f"seed {seed}" for seed in range(schedules) if _fails(partial(run, seed))), None)

    return search


def within(scene: Scene, tried: Callable[[Scene], Iterator[str]]) -> Search:
    """Somewhere in a small scene."""

    def search() -> str | None:
        return "one of them" if _fails(lambda: deque(tried(scene), maxlen=0)) else None

    return search


def _fails(work: Callable[[], object]) -> bool:
    try:
        work()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a broken promise is no Exception
        return True
    return False


def past_lease(scene: Scene) -> Iterator[str]:
    return held_up(scene, past_lease=True)


def within_lease(scene: Scene) -> Iterator[str]:
    return held_up(scene, past_lease=False)


MUTATIONS: list[tuple[Callable[[Patch], None], Search]] = [
    (releases_without_acknowledgement, among(200)),
    (outcomes_are_not_overlaid, within(surrender, behind)),
    (intents_are_not_kept, among(1200)),
    (begun_releases_are_forgotten, within(surrender, behind)),
    (an_absence_is_believed_at_once, within(launch, left_out)),
    (whatever_is_attached_is_ours, among(50)),
    (the_dead_are_left_alone, among(100)),
    (interfaces_outlive_their_node, among(20)),
    (leases_keep_nobody_out, within(surrender, within_lease)),
    (calls_are_made_after_the_deadline, within(surrender, past_lease)),
    (records_are_written_over_later_ones, within(launch, past_lease)),
    (claims_have_no_condition, within(race, within_lease)),
    (pods_that_have_their_interface_are_forgotten, among(200)),
    (what_pods_leave_stays, among(200)),
]


@pytest.mark.parametrize(("mutate", "search"), MUTATIONS, ids=[m.__name__ for m, _ in MUTATIONS])
def test_a_defect_is_caught(
    mutate: Callable[[Patch], None], search: Search, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "berth")
    mutate(monkeypatch)
    assert search() is not None
