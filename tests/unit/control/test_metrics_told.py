"""What is measured and counted where it happens: how long addresses took, who lacks some, what was reclaimed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from berth.calls import AssignAddresses, AssignPrefixes, DeleteInterface
from berth.contract import Order, Report
from berth.ec2_wire import Trouble
from berth.events import Signal
from berth.ingest import SentReport, ingest
from berth.reconcile import reconcile
from berth.records import usable_addresses

from tests.unit.control.fakes import ARN, NODE, Scene, refusal
from tests.unit.control.test_sweep import OTHER, settled

LOOK_MILLISECONDS = 500.0
"""A look in memory takes so long at the most, by the fakes' clock: 10 ms for each time it is asked."""


def look(scene: Scene, *signals: Signal) -> Counter[str]:
    result = reconcile(scene.edges, signals, 50.0)
    assert not result.failed
    return result.counts


def event(scene: Scene, age: float) -> Signal:
    """An event of ``age`` seconds ago that asks for a look at the node."""
    return Signal(NODE, "state running", at=scene.machine.now - age)


def allocation_times(scene: Scene) -> list[float]:
    return scene.edges.meters.take().times.get("AllocationTime", [])


class TestAllocationTime:
    def test_it_is_from_the_event_that_told_of_the_need_to_the_record_that_lists_the_addresses(self) -> None:
        scene = Scene()
        scene.ec2.launch()
        look(scene, event(scene, 7.0))
        assert usable_addresses(scene.store.record()) == 16
        (took,) = allocation_times(scene)
        assert 7000 < took < 7000 + LOOK_MILLISECONDS

    def test_of_several_events_the_first_told_of_the_need(self) -> None:
        scene = Scene()
        scene.ec2.launch()
        look(scene, event(scene, 3.0), event(scene, 9.0), Signal(NODE, "nobody knows when"))
        (took,) = allocation_times(scene)
        assert 9000 < took < 9000 + LOOK_MILLISECONDS

    def test_what_a_report_asks_for_counts_from_when_it_was_sent(self) -> None:
        scene = Scene()
        scene.ec2.launch()
        look(scene, event(scene, 0.0))
        scene.edges.meters.take()
        scene.machine.now += 600
        report = Report(order=Order(1, 1), acknowledged_revision=1, in_use=16, waiting=("pod",))
        intake = ingest(scene.edges.store, {NODE: ARN}, [SentReport(NODE, report, scene.machine.now - 4.0)])
        look(scene, *intake.signals)
        assert usable_addresses(scene.store.record()) == 32
        (took,) = allocation_times(scene)
        assert 4000 < took < 4000 + LOOK_MILLISECONDS

    def test_a_need_that_a_later_look_meets_counts_from_the_first(self) -> None:
        scene = Scene()
        scene.ec2.launch()
        nothing_free = [refusal("InsufficientFreeAddressesInSubnet", Trouble.EXHAUSTED)]
        scene.ec2.refuse = {AssignPrefixes: [*nothing_free], AssignAddresses: [*nothing_free]}
        look(scene, event(scene, 2.0))
        assert usable_addresses(scene.store.record()) == 0
        assert allocation_times(scene) == []
        scene.machine.now += 100
        scene.ec2.refuse.clear()
        look(scene, Signal(NODE, "sweep: NodesUnmet"))
        assert usable_addresses(scene.store.record()) == 16
        (took,) = allocation_times(scene)
        assert 102_000 < took < 102_000 + 2 * LOOK_MILLISECONDS

    def test_a_need_that_was_met_is_not_counted_with_the_next(self) -> None:
        scene = Scene()
        scene.ec2.launch()
        look(scene, event(scene, 50.0))
        look(scene, event(scene, 40.0))
        assert len(allocation_times(scene)) == 1, "the second look brought nothing"
        assert scene.store.items[ARN].notes.wanted_since == 0.0


def test_the_sweep_counts_nodes_in_deficit_and_the_addresses_they_lack() -> None:
    site = settled()
    site.ec2.launch(OTHER)
    site.look(OTHER)
    site.pass_time(100)
    counts = site.sweep()
    assert (counts["NodesSeen"], counts["NodesInDeficit"], counts["DeficitAddresses"]) == (2, 0, 0)
    site.store.items[ARN].notes = replace(site.store.items[ARN].notes, unmet=9)
    counts = site.sweep()
    assert (counts["NodesSeen"], counts["NodesInDeficit"], counts["DeficitAddresses"]) == (2, 1, 9)


@pytest.fixture
def dead() -> Scene:
    """A node that is gone. EC2 has let go of its two interfaces and deleted neither."""
    scene = Scene()
    scene.ec2.launch(berth__mode="addresses", berth__minimum_addresses="25")
    look(scene, event(scene, 1.0))
    ours = scene.ec2.ours()
    assert len(ours) == 2
    for view in ours:
        assert view.attachment is not None
        kept = replace(view.attachment, delete_on_termination=False)
        scene.ec2.all_interfaces[view.id] = replace(view, attachment=kept)
    scene.ec2.set_state("terminated")
    assert [v.attachment for v in scene.ec2.ours()] == [None, None]
    return scene


def test_a_nodes_death_counts_each_of_its_interfaces_as_reclaimed(dead: Scene) -> None:
    assert look(dead, event(dead, 1.0))["InterfacesReclaimed"] == 2
    assert dead.ec2.ours() == []
    assert look(dead, event(dead, 1.0))["InterfacesReclaimed"] == 0


def test_an_interface_that_ec2_has_deleted_meanwhile_was_not_reclaimed(dead: Scene) -> None:
    dead.ec2.refuse[DeleteInterface] = [refusal("InvalidNetworkInterfaceID.NotFound", Trouble.GONE)]
    assert look(dead, event(dead, 1.0))["InterfacesReclaimed"] == 1
