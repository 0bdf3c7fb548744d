"""The shell with a standby pool: claims, what follows, death, and whatever dies in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from berth.budget import Priority, Slot
from berth.calls import (
    AssignPrefixes,
    Attach,
    CreateInterface,
    DeleteInterface,
    Detach,
    SetDeleteOnTermination,
    TagForNode,
)
from berth.contract import Policy, Record, address_count
from berth.ec2_wire import Trouble
from berth.events import Signal
from berth.reconcile import reconcile

from tests.unit.control.fakes import NODE, Died, Scene, refusal
from tests.unit.control.standby_pool import FakeStandby, stocked

BIG = Policy(minimum_addresses=170, max_pods=200)
"""More than the nine prefixes of a primary interface."""


def look(scene: Scene, node: str = NODE) -> None:
    assert not reconcile(scene.edges, [Signal(node, "test")], 50.0).failed


def kinds(scene: Scene) -> list[type]:
    return [type(c) for c in scene.ec2.calls]


def record(scene: Scene) -> Record:
    found = scene.store.record()
    assert found is not None
    return found


def listed(scene: Scene) -> int:
    return sum(address_count(a.cidr) for i in record(scene).interfaces for a in i.assignments)


def big(count: int = 1, **launch: str) -> tuple[Scene, FakeStandby]:
    """A running node whose primary interface is full already and that needs an interface more."""
    scene = Scene(BIG)
    scene.ec2.launch(**launch)
    scene.ec2._assign(scene.ec2.primary(), prefixes=9)
    return scene, stocked(scene, count)


def only(scene: Scene, pool: FakeStandby) -> str:
    (interface,) = pool.pool
    return interface


class Waits:
    """A budget whose buckets have so long to wait."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds

    def reserve(self, action: str, count: int, priority: Priority, now: float) -> Slot:
        return Slot(now)

    def waits(self, actions: frozenset[str], now: float) -> Mapping[str, float]:
        return {a: self.seconds.get(a, 0.0) for a in actions}

    def throttled(self, action: str, now: float) -> None:
        raise AssertionError(action)


class TestTaking:
    def test_a_node_serves_after_one_attach(self) -> None:
        scene, pool = big()
        look(scene)
        assert scene.ec2.calls == [Attach(only(scene, pool), 1)]
        assert listed(scene) == 9 * 16 + 3 * 16
        assert pool.owners == {only(scene, pool): NODE}

    def test_protection_and_tag_follow_in_a_later_look_and_the_claim_has_served_once_the_tag_is_seen(self) -> None:
        scene, pool = big()
        look(scene)
        assert [(n, "follow" in why) for n, why, _ in scene.looks.asked] == [(NODE, True)]
        scene.machine.now += 20
        look(scene)
        assert kinds(scene) == [Attach, SetDeleteOnTermination, TagForNode]
        assert pool.settled == set()
        assert len(scene.looks.asked) == 2, "somebody must come for it"
        scene.machine.now += 20
        look(scene)
        assert pool.settled == set(pool.pool)
        mine = scene.ec2.all_interfaces[only(scene, pool)]
        assert mine.attachment is not None
        assert (mine.node, mine.attachment.delete_on_termination) == (NODE, True)
        scene.machine.now += 100
        look(scene)
        assert len(scene.ec2.calls) == 3
        assert listed(scene) == 12 * 16

    def test_a_node_that_lacks_nothing_does_not_even_ask(self) -> None:
        scene = Scene()
        scene.ec2.launch()
        scene.ec2._assign(scene.ec2.primary(), prefixes=1)
        pool = stocked(scene)
        look(scene)
        assert pool.asked == 0

    def test_a_lost_race_moves_on_to_the_next_at_once(self) -> None:
        scene, pool = big(2)
        pool.lost_races = 1
        look(scene)
        assert kinds(scene) == [Attach]
        assert sorted(pool.owners.values()) == [NODE, "i-somebody-quicker"]

    def test_an_empty_pool_has_one_made_as_ever(self) -> None:
        scene, pool = big()
        pool.lost_races = 1
        look(scene)
        assert kinds(scene) == [CreateInterface, Attach, SetDeleteOnTermination]

    def test_two_nodes_of_one_batch_take_different_ones(self) -> None:
        scene, other = Scene(), NODE[:-1] + "1"
        scene.ec2.launch()
        scene.ec2.launch(other)
        pool = stocked(scene, 2)
        scene.edges = replace(scene.edges, budget=Waits(AssignPrivateIpAddresses=4.0))
        assert not reconcile(scene.edges, [Signal(NODE, "test"), Signal(other, "test")], 50.0).failed
        spare = [i for i in scene.ec2.all_interfaces.values() if i.standby]
        assert {i.id: i.attachment.instance_id for i in spare if i.attachment} == pool.owners
        assert sorted(pool.owners.values()) == [NODE, other]

    @pytest.mark.parametrize(
        ("assign", "attach", "wanted"), [(0.0, 0.0, AssignPrefixes), (4.0, 0.0, Attach), (4.0, 6.0, AssignPrefixes)]
    )
    def test_the_fuller_bucket_is_drawn_on(self, assign: float, attach: float, wanted: type) -> None:
        scene = Scene()
        scene.ec2.launch()
        stocked(scene)
        waits = Waits(AssignPrivateIpAddresses=assign, AttachNetworkInterface=attach)
        scene.edges = replace(scene.edges, budget=waits)
        look(scene)
        assert kinds(scene) == [wanted]

    def test_a_pending_node_claims_and_attaches_once_it_runs(self) -> None:
        scene, pool = big(state="pending")
        look(scene)
        assert scene.ec2.calls == []
        assert pool.owners == {only(scene, pool): NODE}
        scene.ec2.set_state("running")
        look(scene)
        assert kinds(scene) == [Attach]


class TestTrouble:
    @pytest.mark.parametrize("at", range(60))
    def test_killed_between_any_two_steps_exactly_one_is_taken_and_settled(self, at: int) -> None:
        scene, pool = big(2)
        scene.machine.dies_at = scene.machine.steps + at
        try:
            for _ in range(3):
                look(scene)
                scene.machine.now += 20
        except Died:
            scene.machine.now += 81
        scene.machine.restart()
        for _ in range(4):
            look(scene)
            scene.machine.now += 70
        mine = [i for i in scene.ec2.all_interfaces.values() if i.attachment and i.standby]
        assert [i.node for i in mine] == [NODE]
        assert mine[0].attachment is not None
        assert mine[0].attachment.delete_on_termination
        assert pool.owners == {mine[0].id: NODE}
        assert pool.settled == {mine[0].id}
        assert kinds(scene).count(Attach) == 1
        assert listed(scene) == 12 * 16

    def test_an_attachment_whose_answer_was_lost_is_not_made_twice(self) -> None:
        scene, pool = big(2)
        scene.ec2.loses_answers, scene.ec2.loses = 1, Attach
        look(scene)
        scene.machine.now += 20
        look(scene)
        assert kinds(scene).count(Attach) == 1
        assert len(pool.owners) == 1

    def test_one_that_was_deleted_by_hand_is_given_up(self) -> None:
        scene, pool = big(2)
        first = next(iter(pool.pool))
        del scene.ec2.all_interfaces[first]
        for _ in range(2):
            look(scene)
            scene.machine.now += 20
        assert first in pool.settled
        assert [i.id for i in scene.ec2.all_interfaces.values() if i.standby and i.attachment] != [first]
        assert listed(scene) == 12 * 16

    def test_a_tag_that_is_not_described_yet_is_not_given_twice(self) -> None:
        scene, pool = big()
        for _ in range(2):
            look(scene)
            scene.machine.now += 20
        eni = only(scene, pool)
        scene.ec2.all_interfaces[eni] = replace(scene.ec2.all_interfaces[eni], node=None)
        look(scene)
        assert kinds(scene).count(TagForNode) == 1
        assert listed(scene) == 12 * 16
        scene.machine.now += 70
        look(scene)
        assert kinds(scene).count(TagForNode) == 2, "by now it would be described: somebody took it away"


class TestDeath:
    def dead(self, scene: Scene, state: str = "terminated") -> None:
        scene.ec2.set_state("shutting-down")
        look(scene)
        scene.ec2.set_state(state)
        for _ in range(3):
            scene.machine.now += 20
            look(scene)

    def nothing_is_left(self, scene: Scene, pool: FakeStandby) -> None:
        left = [i for i in scene.ec2.all_interfaces.values() if i.standby]
        assert [i.id for i in left] == [i for i in pool.pool if i not in pool.owners]
        assert pool.settled == set(pool.owners)

    def test_claimed_and_never_attached_it_is_deleted(self) -> None:
        scene, pool = big(state="pending")
        look(scene)
        self.dead(scene)
        assert DeleteInterface in kinds(scene)
        self.nothing_is_left(scene, pool)

    def test_attached_and_not_yet_protected_it_is_detached_and_deleted(self) -> None:
        scene, pool = big()
        look(scene)
        self.dead(scene)
        assert kinds(scene) == [Attach, Detach, DeleteInterface]
        self.nothing_is_left(scene, pool)

    def test_let_go_by_ec2_before_anybody_looked_it_is_deleted_although_no_tag_names_the_node(self) -> None:
        scene, pool = big()
        look(scene)
        scene.ec2.set_state("terminated")
        for _ in range(2):
            look(scene)
            scene.machine.now += 20
        assert kinds(scene) == [Attach, DeleteInterface]
        self.nothing_is_left(scene, pool)

    def test_deleted_by_ec2_itself_its_claim_ends(self) -> None:
        scene, pool = big()
        look(scene)
        eni = only(scene, pool)
        at = scene.ec2.all_interfaces[eni].attachment
        assert at is not None
        scene.ec2.all_interfaces[eni] = replace(
            scene.ec2.all_interfaces[eni], attachment=replace(at, delete_on_termination=True)
        )
        scene.ec2.set_state("terminated")
        look(scene)
        self.nothing_is_left(scene, pool)

    def test_that_of_an_instance_that_nobody_remembers_is_deleted_too(self) -> None:
        scene, pool = big(state="pending")
        look(scene)
        scene.store.items.clear()
        scene.ec2.forget()
        look(scene)
        self.nothing_is_left(scene, pool)

    @pytest.mark.parametrize("at", range(50))
    def test_killed_between_any_two_steps_of_life_and_death_nothing_is_left(self, at: int) -> None:
        scene, pool = big(2)
        scene.machine.dies_at = scene.machine.steps + at
        try:
            look(scene)
            self.dead(scene)
        except Died:
            scene.machine.now += 81
        scene.machine.restart()
        scene.ec2.set_state("terminated")
        for _ in range(5):
            scene.machine.now += 70
            look(scene)
        self.nothing_is_left(scene, pool)


def test_a_call_that_ec2_refuses_for_want_of_permission_is_told_and_leaves_the_claim() -> None:
    scene, pool = big()
    scene.ec2.refuse[Attach] = [refusal("UnauthorizedOperation", Trouble.REFUSED)]
    assert reconcile(scene.edges, [Signal(NODE, "test")], 50.0).failed
    look(scene)
    assert pool.owners == {only(scene, pool): NODE}
    assert kinds(scene) == [Attach, Attach]
