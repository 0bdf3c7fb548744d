"""The shell and the token budget: what a node takes, keeps and comes back for when tokens are out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from berth.budget import Priority, Slot
from berth.calls import AssignPrefixes, Attach, CreateInterface, DeleteInterface, SetDeleteOnTermination, Unassign
from berth.contract import Order, Policy, Report, Surrender
from berth.ec2_wire import Trouble
from berth.events import Signal
from berth.ingest import SentReport, ingest
from berth.reconcile import RunResult, reconcile

from tests.unit.control.fake_budget import FakeBudget
from tests.unit.control.fakes import ARN, ARN_PREFIX, NODE, SUBNET, Died, Scene, refusal

SECONDS = 50.0
ASSIGN, ATTACH, CREATE = "AssignPrivateIpAddresses", "AttachNetworkInterface", "CreateNetworkInterface"
INSTANCES, INTERFACES = "DescribeInstances", "DescribeNetworkInterfaces"


class Budgeted(Scene):
    """All fakes, with a budget that counts."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__(policy)
        self.budget = FakeBudget()
        self.edges = replace(self.edges, budget=self.budget)
        self.sequence = 0

    def look(self, *ids: str) -> RunResult:
        result = reconcile(self.edges, [Signal(i, "test") for i in ids or (NODE,)], SECONDS)
        assert not result.failed
        return result

    def report(self, in_use: int = 0, waiting: int = 0, surrendered: tuple[Surrender, ...] = ()) -> RunResult:
        self.sequence += 1
        record = self.store.record()
        assert record is not None
        pods = tuple(f"pod-{n}" for n in range(waiting))
        said = Report(Order(1, self.sequence), record.revision, in_use, waiting=pods, surrendered=surrendered)
        intake = ingest(self.store, {NODE: ARN}, [SentReport(NODE, said)])
        return reconcile(self.edges, intake.signals, SECONDS)

    def taken(self, action: str) -> int:
        return sum(n for a, n, _ in self.budget.taken if a == action)

    def ask(self) -> tuple[str, int]:
        """Why and in how many seconds the node was last asked to be looked at."""
        _, reason, delay = self.looks.asked[-1]
        return reason, delay


@pytest.fixture
def scene() -> Budgeted:
    made = Budgeted()
    made.ec2.launch()
    return made


# ------------------------------------------------------------------------------------------------ what is taken


def test_a_steady_batch_takes_one_token_for_instances_and_one_for_interfaces_and_no_other(scene: Budgeted) -> None:
    others = [f"i-{n:08x}" for n in range(9)]
    for instance_id in others:
        scene.ec2.launch(instance_id)
    scene.look(NODE, *others)
    scene.budget.taken.clear()
    scene.look(NODE, *others)
    assert [(a, n) for a, n, _ in scene.budget.taken] == [(INSTANCES, 1), (INTERFACES, 1)]


def test_instances_that_are_no_nodes_cost_one_token(scene: Budgeted) -> None:
    scene.ec2.all_instances[NODE] = replace(scene.ec2.all_instances[NODE], tags=())
    scene.look()
    assert [(a, n) for a, n, _ in scene.budget.taken] == [(INSTANCES, 1)]


def test_every_call_of_a_plan_has_its_token_and_a_plans_calls_of_one_action_are_reserved_at_once() -> None:
    scene = Budgeted()
    scene.ec2.add_subnet(SUBNET, "10.0.0.0/20")
    scene.ec2.launch(berth__minimum_addresses="300", berth__max_pods="300")
    scene.look()
    kinds = [type(c) for c in scene.ec2.calls]
    assert kinds.count(CreateInterface) == kinds.count(Attach) == kinds.count(SetDeleteOnTermination) == 2
    for action, calls in ((ASSIGN, AssignPrefixes), (CREATE, CreateInterface), (ATTACH, Attach)):
        assert scene.taken(action) == kinds.count(calls)
    assert [n for a, n, _ in scene.budget.taken if a == CREATE] == [2]


# ------------------------------------------------------------------------------------------------ slots


def test_out_of_tokens_the_node_comes_back_at_its_slot_by_a_new_message_and_nothing_failed(scene: Budgeted) -> None:
    scene.budget.exhaust(ASSIGN, scene.machine.now + 100)
    result = scene.look()
    assert scene.ec2.calls == []
    assert scene.ask() == (f"no token yet for {ASSIGN}", 100)
    assert (result.counts["PlansDelayed"], scene.bus.named("Node Address Demand Unmet")) == (1, [])
    scene.machine.now += 100
    scene.look()
    assert scene.ec2.calls == [AssignPrefixes(scene.ec2.primary().id, 1)]


def test_a_second_look_at_a_node_that_holds_a_slot_takes_no_other_and_sends_no_other_message(scene: Budgeted) -> None:
    scene.budget.exhaust(ASSIGN, scene.machine.now + 100)
    for _ in range(5):
        scene.look()
    assert (scene.taken(ASSIGN), len(scene.looks.asked), scene.ec2.calls) == (1, 1, [])


def test_a_nodes_attachments_stand_in_line_together_and_not_one_by_one() -> None:
    scene = Budgeted()
    scene.ec2.add_subnet(SUBNET, "10.0.0.0/20")
    scene.ec2.launch(berth__minimum_addresses="300", berth__max_pods="300")
    scene.budget.exhaust(ATTACH, scene.machine.now + 60)
    scene.look()
    assert [type(c) for c in scene.ec2.calls] == [AssignPrefixes, CreateInterface, CreateInterface]
    assert [n for a, n, _ in scene.budget.taken if a == ATTACH] == [2]


def test_tokens_that_are_missing_are_added_to_those_held(scene: Budgeted) -> None:
    scene.look()
    scene.budget.exhaust(ATTACH, scene.machine.now + 60)
    for number in range(2):
        view = scene.ec2._new(SUBNET, ("sg-11111111",))
        scene.ec2.all_interfaces[view.id] = replace(view, cluster="demo", node=NODE, created_at=1.0)
        scene.look()
        assert [n for a, n, _ in scene.budget.taken if a == ATTACH] == [1] * (number + 1)
    scene.machine.now += 61
    scene.look()
    assert [type(c) for c in scene.ec2.calls].count(Attach) == 2


def test_a_slot_is_kept_where_a_crash_cannot_lose_it_once_it_is_written(scene: Budgeted) -> None:
    scene.budget.exhaust(ASSIGN, scene.machine.now + 100)
    scene.look()
    (slot,) = scene.store.load([ARN])[ARN].slots
    assert (slot.action, slot.count) == (ASSIGN, 1)
    scene.machine.now += 100
    scene.look()
    assert scene.store.load([ARN])[ARN].slots == ()


def test_a_slot_is_spent_in_the_write_that_notes_the_call(scene: Budgeted) -> None:
    """Killed right after EC2 has acted, the node does not make another call with the same token."""
    scene.budget.exhaust(ASSIGN, scene.machine.now + 100)
    scene.look()
    scene.machine.now += 100
    scene.ec2.loses, scene.ec2.loses_answers = AssignPrefixes, 1
    scene.look()
    assert len(scene.ec2.calls) == 1
    assert scene.store.load([ARN])[ARN].slots == ()


def test_a_slot_that_was_missed_is_taken_anew(scene: Budgeted) -> None:
    scene.budget.exhaust(ASSIGN, scene.machine.now + 100)
    scene.look()
    scene.machine.now += 130
    result = scene.look()
    assert result.counts["SlotsMissed"] == 1
    assert scene.taken(ASSIGN) == 2
    assert len(scene.ec2.calls) == 1


def test_a_slot_that_comes_up_a_little_late_is_used(scene: Budgeted) -> None:
    scene.budget.exhaust(ASSIGN, scene.machine.now + 100)
    scene.look()
    scene.machine.now += 110
    scene.look()
    assert (scene.taken(ASSIGN), len(scene.ec2.calls)) == (1, 1)


def test_calls_of_other_actions_go_on_meanwhile() -> None:
    scene = Budgeted()
    scene.ec2.launch(berth__minimum_addresses="150", berth__max_pods="200")
    scene.budget.exhaust(ASSIGN, scene.machine.now + 200)
    scene.look()
    assert [type(c) for c in scene.ec2.calls] == [CreateInterface, Attach, SetDeleteOnTermination]
    assert scene.ask() == (f"no token yet for {ASSIGN}", 200)


def test_a_node_that_waits_for_ec2_too_is_looked_at_before_its_slot() -> None:
    """Its interface is to be attached once it runs, and the event that tells of that may be lost."""
    scene = Budgeted()
    scene.ec2.launch(state="pending", berth__minimum_addresses="150", berth__max_pods="200")
    scene.budget.exhaust(ASSIGN, scene.machine.now + 200)
    scene.look()
    assert scene.ask()[1] <= scene.edges.settings.delay
    assert scene.taken(ASSIGN) == 1


def test_a_message_that_comes_after_the_slot_does_not_stand_in_for_one_at_the_slot(scene: Budgeted) -> None:
    scene.look()
    scene.report(in_use=16, waiting=1)
    record = scene.store.record()
    assert record is not None
    state = scene.store.load([ARN])[ARN]
    scene.store.save(ARN, record, state.marked, replace(state.notes, next_look=scene.machine.now + 600))
    scene.budget.exhaust(ASSIGN, scene.machine.now + 100)
    scene.report(in_use=32, waiting=5)
    assert scene.ask() == (f"no token yet for {ASSIGN}", 100)


def test_no_slot_within_reach_of_a_message_means_to_ask_again(scene: Budgeted) -> None:
    scene.budget.exhaust(ASSIGN, scene.machine.now + 5000)
    scene.look()
    assert scene.taken(ASSIGN) == 0
    assert scene.ask() == (f"no token yet for {ASSIGN}", 900)


# ------------------------------------------------------------------------------------------------ who goes first


class Seen(FakeBudget):
    """Remembers how urgent each request was."""

    priorities: list[tuple[str, Priority]]

    def reserve(self, action: str, count: int, priority: Priority, now: float) -> Slot:
        self.priorities = [*getattr(self, "priorities", []), (action, priority)]
        return FakeBudget.reserve(self, action, count, priority, now)


def _new(scene: Budgeted) -> None:
    scene.look()


def _short(scene: Budgeted) -> None:
    scene.look()
    scene.report(in_use=16, waiting=1)


def _lending_its_last(scene: Budgeted) -> None:
    scene.look()
    scene.report(in_use=16)


def _warming(scene: Budgeted) -> None:
    scene.look()
    scene.report(in_use=12)


def _dying(scene: Budgeted) -> None:
    view = scene.ec2._new("subnet-a", ("sg-11111111",))
    scene.ec2.all_interfaces[view.id] = replace(view, cluster="demo", node=NODE, created_at=1.0)
    scene.ec2.set_state("terminated")
    scene.look()


@pytest.mark.parametrize(
    ("act", "action", "priority"),
    [
        (_new, ASSIGN, Priority.NEW_NODE),
        (_short, ASSIGN, Priority.SHORTAGE),
        (_lending_its_last, ASSIGN, Priority.SHORTAGE),
        (_warming, ASSIGN, Priority.WARM),
        (_dying, "DeleteNetworkInterface", Priority.SHORTAGE),
    ],
)
def test_who_goes_first(act: Callable[[Budgeted], None], action: str, priority: Priority, scene: Budgeted) -> None:
    scene.budget = Seen()
    scene.edges = replace(scene.edges, budget=scene.budget)
    act(scene)
    assert [p for a, p in scene.budget.priorities if a == action][-1] is priority


def test_warm_up_leaves_tokens_for_pods_that_wait(scene: Budgeted) -> None:
    scene.look()
    bucket, now = scene.budget.buckets.of(ASSIGN), scene.machine.now
    while bucket.left(scene.budget.levels[ASSIGN], now) > 40:
        scene.budget.reserve(ASSIGN, 10, Priority.NEW_NODE, now)
    scene.report(in_use=12)
    assert len(scene.ec2.calls) == 1
    scene.report(in_use=12, waiting=5)
    assert len(scene.ec2.calls) == 2


# ------------------------------------------------------------------------------------------------ throttling, doubt


def test_a_throttled_call_halves_the_budget_and_is_made_again_at_a_slot(scene: Budgeted) -> None:
    scene.ec2.refuse = {AssignPrefixes: [refusal("RequestLimitExceeded", Trouble.THROTTLED)]}
    scene.look()
    assert scene.budget.throttlings == [ASSIGN]
    assert scene.budget.levels[ASSIGN].slow(scene.machine.now)
    assert len(scene.ec2.calls) == 1
    reason, delay = scene.ask()
    assert (reason, delay) == (f"no token yet for {ASSIGN}", 1)
    scene.machine.now += delay
    scene.look()
    assert len(scene.ec2.calls) == 2
    assert len(scene.ec2.assigned()) == 1


def test_without_a_budget_a_throttled_call_is_not_made_again_at_once() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.ec2.refuse = {AssignPrefixes: [refusal("RequestLimitExceeded", Trouble.THROTTLED)]}
    reconcile(scene.edges, [Signal(NODE, "test")], SECONDS)
    assert len(scene.ec2.calls) == 1
    assert scene.looks.asked[-1][2] > 5


def test_after_a_lost_answer_the_node_is_looked_at_before_a_second_token_is_taken(scene: Budgeted) -> None:
    scene.ec2.loses, scene.ec2.loses_answers = AssignPrefixes, 1
    scene.look()
    assert (scene.taken(ASSIGN), len(scene.ec2.calls)) == (1, 1)
    scene.machine.now += 15
    scene.look()
    assert (scene.taken(ASSIGN), len(scene.ec2.calls)) == (1, 1)
    assert len(scene.ec2.assigned()) == 1


def test_a_creation_that_was_not_answered_is_repeated_only_with_a_token() -> None:
    scene = Budgeted()
    scene.ec2.launch(berth__minimum_addresses="150", berth__max_pods="200")
    scene.ec2.loses, scene.ec2.loses_answers = CreateInterface, 1
    scene.look()
    made = {i.id for i in scene.ec2.ours()}
    hidden = {i: scene.ec2.all_interfaces.pop(i) for i in made}  # EC2 does not show it yet
    scene.budget.exhaust(CREATE, scene.machine.now + 60)
    scene.look()
    assert [type(c) for c in scene.ec2.calls].count(CreateInterface) == 1
    assert [s.action for s in scene.store.load([ARN])[ARN].slots] == [CREATE]
    scene.ec2.all_interfaces |= hidden
    scene.machine.now += 60
    scene.look()
    assert {i.id for i in scene.ec2.ours()} == made


# ------------------------------------------------------------------------------------------------ describing


@pytest.mark.parametrize("action", [INSTANCES, INTERFACES])
def test_without_a_token_to_describe_the_whole_batch_comes_again_and_nothing_failed(
    scene: Budgeted, action: str
) -> None:
    scene.ec2.launch("i-0000000a")
    scene.budget.exhaust(action, scene.machine.now + 3)
    result = scene.look(NODE, "i-0000000a")
    assert {(i, reason) for i, reason, _ in scene.looks.asked} == {
        (NODE, f"no token for {action}"),
        ("i-0000000a", f"no token for {action}"),
    }
    assert all(1 <= delay <= 4 for _, _, delay in scene.looks.asked)
    assert (result.counts["DescribesDelayed"], scene.store.leases) == (1, {})
    scene.machine.now += 4
    scene.look(NODE, "i-0000000a")
    assert len(scene.ec2.calls) == 2


def test_a_throttled_describe_halves_its_budget_and_the_batch_comes_again(scene: Budgeted) -> None:
    error = refusal("RequestLimitExceeded", Trouble.THROTTLED)
    error.action = "describe_instances"

    def instances(_: object) -> dict[str, object]:
        raise error

    scene.ec2.instances = instances  # type: ignore[assignment, method-assign]
    scene.look()
    assert scene.budget.throttlings == [INSTANCES]
    assert len(scene.looks.asked) == 1


def test_a_capacity_request_is_not_lost_with_a_look_that_is_put_off(scene: Budgeted) -> None:
    """The node has no record to note it in, and nobody looked: the message itself must come again."""
    scene.budget.exhaust(INSTANCES, scene.machine.now + 3)
    asked = Signal(NODE, "capacity requested", requested=50, requested_until=scene.machine.now + 600, requested_at=1.0)
    assert set(reconcile(scene.edges, [asked], SECONDS).failed) == {NODE}


# ------------------------------------------------------------------------------------------------ time


def test_nodes_that_the_time_does_not_reach_come_again_by_new_messages() -> None:
    scene = Budgeted()
    ids = [f"i-{n:08x}" for n in range(10)]
    for instance_id in ids:
        scene.ec2.launch(instance_id)
    mutate = scene.ec2.mutate

    def slow(*arguments: object) -> object:
        scene.machine.now += 10
        return mutate(*arguments)  # type: ignore[arg-type]

    scene.ec2.mutate = slow  # type: ignore[assignment, method-assign]
    result = scene.look(*ids)
    assert 0 < len(scene.ec2.calls) < len(ids)
    again = {i for i, reason, _ in scene.looks.asked if reason == "the function's time is up"}
    served = {i for i in ids if scene.store.record(ARN_PREFIX + i)}
    assert again | served == set(ids)
    assert (result.failed, scene.store.leases) == ({}, {})


def test_a_release_that_waits_for_its_token_stays_in_the_record_meanwhile(scene: Budgeted) -> None:
    scene.look()
    scene.report(in_use=14, waiting=4)
    record = scene.store.record()
    assert record is not None
    (interface,) = record.interfaces
    block = interface.assignments[1]
    given = (Surrender(interface.mac, block.cidr, block.id),)
    scene.report(surrendered=given)
    scene.budget.exhaust("UnassignPrivateIpAddresses", scene.machine.now + 30)
    scene.report(surrendered=given)
    marked = scene.store.record()
    assert marked is not None
    assert [a.releasing for i in marked.interfaces for a in i.assignments if a.cidr == block.cidr] == [True]
    assert Unassign not in [type(c) for c in scene.ec2.calls]
    scene.machine.now += 30
    scene.look()
    assert [type(c) for c in scene.ec2.calls][-1] is Unassign


@pytest.mark.parametrize("step", range(0, 30, 2))
def test_killed_anywhere_while_it_waits_for_a_slot_the_node_still_gets_its_addresses(step: int) -> None:
    scene = Budgeted()
    scene.ec2.launch()
    scene.budget.exhaust(ASSIGN, scene.machine.now + 40)
    scene.machine.dies_at = step
    try:
        scene.look()
        scene.machine.now += 40
        scene.look()
    except Died:
        pass
    scene.machine.restart()
    for _ in range(4):
        scene.machine.now += 90
        scene.look()
    assert len(scene.ec2.assigned()) == 1
    assert scene.store.load([ARN])[ARN].slots == ()


def test_the_dead_are_cleaned_up_after_when_there_are_tokens_and_buried_then(scene: Budgeted) -> None:
    scene.look()
    view = scene.ec2._new("subnet-a", ("sg-11111111",))
    scene.ec2.all_interfaces[view.id] = replace(view, cluster="demo", node=NODE, created_at=1.0)
    scene.ec2.set_state("terminated")
    scene.budget.exhaust("DeleteNetworkInterface", scene.machine.now + 30)
    scene.look()
    assert DeleteInterface not in [type(c) for c in scene.ec2.calls]
    assert not scene.store.load([ARN])[ARN].buried
    scene.machine.now += scene.ask()[1]
    scene.look()
    assert scene.store.load([ARN])[ARN].buried
    assert scene.ec2.ours() == []
