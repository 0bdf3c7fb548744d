"""What the simulator (tests/simulator) has found, each as small as it can be told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from berth.buckets import Reservation
from berth.calls import AssignPrefixes, Unassign
from berth.contract import Assignment, Interface, Order, Policy, Record, Report
from berth.ec2_wire import Network
from berth.events import Signal
from berth.ingest import SentReport, ingest, needs_look
from berth.model import LAG_SECONDS, Intent
from berth.overlay import OVERLAY_SECONDS
from berth.reconcile import reconcile
from berth.store import NodeState

from tests.unit.control.fakes import ARN, NODE, SUBNET, Died, Scene
from tests.unit.control.standby_pool import stocked

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


def test_a_function_that_is_held_up_past_its_deadline_makes_no_call_any_more() -> None:
    """Its lease runs out 30 s later: by the time of the call another function may have changed its mind."""
    scene = Scene()
    scene.ec2.launch()
    written = scene.store.save_intents

    def held_up(arn: str, intents: Sequence[Intent], slots: Sequence[Reservation] = ()) -> None:
        written(arn, intents, slots)
        scene.machine.now += SECONDS + 1

    scene.store.save_intents = held_up  # type: ignore[method-assign]
    result = reconcile(scene.edges, [Signal(NODE, "test")], SECONDS)
    assert isinstance(result.failed[NODE], TimeoutError)
    assert scene.ec2.calls == []
    assert not scene.store.leases


def test_a_killed_functions_call_is_finished_by_the_next_report_even_if_that_asks_for_nothing() -> None:
    """Its own message may be a report that is older by then, and so starts no look."""
    intent = Intent("token", Unassign("eni-1", ("10.0.1.16/28",)), at=1.0)
    interface = Interface("eni-1", "06:00:00:00:00:01", 0, SUBNET, "10.0.1.0/24", "10.0.1.1", "10.0.1.4")
    listed = replace(interface, assignments=(Assignment("10.0.1.32/28", "1:10.0.1.32/28"),))
    record = Record(ARN, 2, policy=Policy(warm_addresses=4), interfaces=(listed,), accepted=Order(1, 1))
    report = Report(Order(1, 2), acknowledged_revision=2, in_use=1)
    assert not needs_look(report, NodeState(record))
    assert needs_look(report, NodeState(record, intents=(intent,)))


def test_an_older_report_that_comes_again_has_its_node_looked_at_while_the_last_one_still_asks() -> None:
    """A later report knocks at a lease and is done with. Its holder dies, and what comes again is the holder's own
    message: an older report."""
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    earlier, later = Report(Order(1, 1), 1, in_use=0), Report(Order(1, 2), 1, in_use=16, waiting=("pod",))
    assert scene.store.accept_report(ARN, later)
    intake = ingest(scene.store, {NODE: ARN}, [SentReport(NODE, earlier)])
    assert [s.instance_id for s in intake.signals] == [NODE]
    reconcile(scene.edges, intake.signals, SECONDS)
    again = ingest(scene.store, {NODE: ARN}, [SentReport(NODE, earlier)])
    assert len(again.older) == 1


def test_what_the_record_has_just_listed_stays_in_it_although_a_describe_of_an_earlier_moment_does_not_show_it() -> (
    None
):
    """Two describes need not show moments in order. The node was launched with its addresses, so no call of ours, which
    would be remembered for a minute, says that they are there; and pods use them by now."""
    scene = Scene()
    scene.ec2.launch()
    before = dict(scene.ec2.all_interfaces)
    scene.ec2._assign(scene.ec2.primary(), prefixes=1)
    after = dict(scene.ec2.all_interfaces)
    look(scene)
    listed = scene.store.record()
    assert listed is not None
    assert listed.interfaces[0].assignments
    for lagging in (before, {}):
        scene.ec2.all_interfaces = dict(lagging)
        look(scene)
        assert scene.store.record() == listed
        assert scene.ec2.calls == []
    scene.ec2.all_interfaces = dict(after)
    look(scene)
    assert scene.store.record() == listed


def test_what_somebody_took_away_leaves_the_record_once_no_describe_can_lag_behind_it() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    (block,) = scene.ec2.primary().blocks
    scene.ec2._unassign(scene.ec2.primary(), (block,))
    scene.machine.now += LAG_SECONDS + 1
    look(scene)
    record = scene.store.record()
    assert record is not None
    assert block not in {a.cidr for a in record.interfaces[0].assignments if a.id.startswith("1:")}


def test_an_outcome_is_as_old_as_it_was_when_its_node_was_described() -> None:
    """A function held up between a describe and its plan must not take an assignment for one that has failed."""
    scene = Scene()
    scene.ec2.launch()
    before = dict(scene.ec2.all_interfaces)
    look(scene)
    after, scene.ec2.all_interfaces = scene.ec2.all_interfaces, before  # a describe that lags
    scene.machine.now += OVERLAY_SECONDS - 5
    describe = scene.ec2.network

    def held_up(vpc_ids: Iterable[str]) -> Network:
        scene.machine.now += 20
        return describe(vpc_ids)

    scene.ec2.network = held_up  # type: ignore[method-assign]
    look(scene)
    assert scene.ec2.all_interfaces == before, "addresses were assigned twice"
    scene.ec2.all_interfaces = after


def test_nothing_is_put_on_a_claimed_standby_interface_before_it_is_attached() -> None:
    """It is known as it stood by: what was put on it would be forgotten a minute later, and put on it again."""
    scene = Scene()
    stocked(scene, prefixes=3)
    scene.ec2.launch(state="pending", berth__minimum_addresses="250", berth__max_pods="250")
    for _ in range(3):
        look(scene)
        scene.machine.now += OVERLAY_SECONDS + 10
    assigned = [c for c in scene.ec2.calls if isinstance(c, AssignPrefixes)]
    assert {c.interface_id for c in assigned} == {scene.ec2.primary().id}
    scene.ec2.set_state("running")
    for _ in range(3):
        look(scene)
        scene.machine.now += OVERLAY_SECONDS + 10
    record = scene.store.record()
    assert record is not None
    assert sum(len(i.assignments) for i in record.interfaces) >= 16
