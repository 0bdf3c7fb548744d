"""The simulator's own test: control planes that break a promise on purpose must be caught, and soon.

Each defect is put in from outside, for one test. The number beside it is how many schedules may pass before one of
them fails; about a third of that was needed when it was written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from berth import converge, plan, records
from berth.contract import Assignment
from berth.model import InterfaceView, NodeView
from berth.plan import Plan

from tests.simulator import table
from tests.simulator.schedule import run
from tests.simulator.standby import SimStandby
from tests.simulator.table import Item, Table

Patch = pytest.MonkeyPatch


def releases_without_acknowledgement(patch: Patch) -> None:
    """What is surrendered is unassigned, whether the agent has seen the mark or not."""

    def due(view: NodeView) -> tuple[tuple[str, str], ...]:
        if view.record is None or view.report is None:
            return ()
        given = {s.cidr for s in view.report.surrendered}
        return tuple(sorted((i.id, b) for i in view.managed for b in i.blocks if b in given))

    patch.setattr(plan, "due_for_release", due)


def ids_name_the_block_alone(patch: Patch) -> None:
    """A block that was unassigned and assigned again has the id it had, so that an old surrender matches it."""
    patch.setattr(
        records, "Assignment", lambda cidr, id, **more: Assignment(cidr=cidr, id=id.partition(":")[2], **more)
    )


def older_reports_count(patch: Patch) -> None:
    """A report that comes late takes the place of a later one."""

    def accept(self: Table, arn: str, report: Any) -> bool:
        self.items.setdefault(arn, Item()).report = report
        return True

    patch.setattr(Table, "accept_report", accept)


def outcomes_are_not_overlaid(patch: Patch) -> None:
    """Describes are believed as they are."""
    patch.setattr(converge, "overlay", lambda interfaces, *_: tuple(interfaces))


def intents_are_not_kept(patch: Patch) -> None:
    """What a function was about to do dies with it."""
    patch.setattr(Table, "save_intents", lambda *_: None)


def releases_that_were_begun_are_forgotten(patch: Patch) -> None:
    """A block that left the record and is still shown comes back into it."""
    patch.setattr(converge, "leaving_blocks", lambda *_: frozenset())


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


def an_absence_is_believed_at_once(patch: Patch) -> None:
    patch.setattr("berth.gone.ABSENCE_SECONDS", -1_000.0)


MUTATIONS: list[tuple[Callable[[Patch], None], int]] = [
    (releases_without_acknowledgement, 1000),
    (ids_name_the_block_alone, 1000),
    (older_reports_count, 1000),
    (outcomes_are_not_overlaid, 1000),
    (intents_are_not_kept, 1000),
    (releases_that_were_begun_are_forgotten, 1000),
    (leases_keep_nobody_out, 1000),
    (records_are_written_over_later_ones, 1000),
    (calls_are_made_after_the_deadline, 1000),
    (claims_have_no_condition, 1000),
    (whatever_is_attached_is_ours, 1000),
    (the_dead_are_left_alone, 1000),
    (interfaces_outlive_their_node, 1000),
    (an_absence_is_believed_at_once, 1000),
]


@pytest.mark.parametrize(("mutate", "schedules"), MUTATIONS, ids=[m.__name__ for m, _ in MUTATIONS])
def test_a_defect_is_caught(mutate: Callable[[Patch], None], schedules: int, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    assert caught_by(schedules) is not None


def caught_by(schedules: int) -> int | None:
    """The first seed that fails."""
    for seed in range(schedules):
        try:
            run(seed)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a broken promise is no Exception
            return seed
    return None
