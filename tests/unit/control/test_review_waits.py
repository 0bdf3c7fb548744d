"""Nodes that wait no longer than they must: what a noted look or a reserved slot must not keep from being seen."""

from __future__ import annotations

from dataclasses import replace

from berth.buckets import Reservation
from berth.calls import AssignIpv6Prefixes, AssignPrefixes, SetDeleteOnTermination
from berth.contract import Order, Policy, Report
from berth.ec2_wire import Trouble
from berth.events import Signal
from berth.ingest import SentReport, ingest
from berth.reconcile import reconcile
from berth.store import NodeState, RevisionConflictError

from tests.unit.control.fakes import ARN, ARN_PREFIX, NODE, FakeStore, Scene, refusal
from tests.unit.control.test_tokens import ASSIGN, SECONDS, Budgeted

MODIFY = "ModifyNetworkInterfaceAttribute"
TWO_INTERFACES = {"berth__minimum_addresses": "150", "berth__max_pods": "200"}
"""More than the primary of an m5.large takes: 9 prefixes, 144 addresses."""


def sent(scene: Budgeted, **fields: object) -> Report:
    scene.sequence += 1
    record = scene.store.record()
    assert record is not None
    return replace(Report(Order(1, scene.sequence), record.revision, 0), **fields)  # type: ignore[arg-type]


def report(scene: Budgeted, **fields: object) -> int:
    """A report at its time, as SQS hands it over. Returns how many were quiet."""
    intake = ingest(scene.store, {NODE: ARN}, [SentReport(NODE, sent(scene, **fields), scene.machine.now)])
    assert not reconcile(scene.edges, intake.signals, SECONDS).failed
    return intake.quiet


# ------------------------------------------------------------------------------------------------ slots and reports


def test_a_slot_that_brings_no_addresses_keeps_no_pod_waiting() -> None:
    """DeleteOnTermination has a bucket of its own, and a launch can empty it for a quarter of an hour."""
    scene = Budgeted()
    scene.ec2.launch(**TWO_INTERFACES)
    scene.budget.exhaust(MODIFY, scene.machine.now + 600)
    scene.look()
    assert [s.action for s in scene.store.load([ARN])[ARN].slots] == [MODIFY]
    report(scene, in_use=150)
    scene.ec2.calls.clear()
    assert report(scene, in_use=160, waiting=tuple(f"pod-{n}" for n in range(5))) == 0
    assert [type(c) for c in scene.ec2.calls] == [AssignPrefixes]


def test_a_slot_whose_addresses_have_come_another_way_keeps_no_pod_waiting() -> None:
    scene = Budgeted()
    scene.ec2.launch()
    scene.look()
    state = scene.store.load([ARN])[ARN]
    stale = Reservation("CreateNetworkInterface", 1, scene.machine.now + 600, scene.machine.now + 618)
    scene.store.save_intents(ARN, state.intents, [stale])
    assert report(scene, in_use=16, waiting=("pod",)) == 0


# ------------------------------------------------------------------------------------------------ noted looks


def test_a_look_that_is_noted_for_a_token_does_not_stand_in_for_one_that_ec2_asks_for() -> None:
    """EC2 refused to attach for a moment; the node must not wait for a token that has nothing to do with it."""
    scene = Budgeted()
    scene.ec2.launch(**TWO_INTERFACES)
    scene.budget.exhaust(ASSIGN, scene.machine.now + 600)
    scene.ec2.refuse[SetDeleteOnTermination] = [refusal("IncorrectState", Trouble.STATE)]
    scene.look()
    first = scene.ask()
    state, record = scene.store.load([ARN])[ARN], scene.store.record()
    assert record is not None
    assert first[1] <= scene.edges.settings.delay
    # as if the first look had had nothing but the token to wait for
    far = replace(state.notes, next_look=scene.machine.now + 600, looks=0)
    scene.store.save(ARN, record, state.marked, far)
    scene.ec2.refuse[SetDeleteOnTermination] = [refusal("IncorrectState", Trouble.STATE)]
    scene.look()
    assert len(scene.looks.asked) == 2
    assert scene.ask()[1] <= scene.edges.settings.delay


def test_a_lost_answer_is_looked_into_soon_though_a_far_look_is_noted() -> None:
    scene = Budgeted()
    scene.ec2.launch()
    scene.look()
    record, state = scene.store.record(), scene.store.load([ARN])[ARN]
    assert record is not None
    scene.store.save(ARN, record, state.marked, replace(state.notes, next_look=scene.machine.now + 800))
    scene.ec2.refuse[AssignPrefixes] = [refusal("RequestTimeout", Trouble.IN_DOUBT)]
    scene.report(in_use=16, waiting=1)
    assert scene.ask()[1] <= scene.edges.settings.delay


def test_a_lost_answer_is_looked_into_soon_though_another_call_waits_for_its_token() -> None:
    scene = Budgeted()
    scene.ec2.launch(**TWO_INTERFACES)
    scene.budget.exhaust(MODIFY, scene.machine.now + 600)
    scene.look()
    scene.ec2.refuse[AssignPrefixes] = [refusal("RequestTimeout", Trouble.IN_DOUBT)]
    report(scene, in_use=160, waiting=("pod",))
    reason, delay = scene.ask()
    assert MODIFY in reason
    assert delay <= scene.edges.settings.delay


def test_a_look_that_is_on_its_way_soon_enough_is_not_asked_for_twice() -> None:
    scene = Budgeted()
    scene.ec2.launch(state="pending", **TWO_INTERFACES)
    for _ in range(4):
        scene.look()
    assert len(scene.looks.asked) == 1


# ------------------------------------------------------------------------------------------------ IPv6


def test_an_ipv6_prefix_that_was_not_to_be_had_is_asked_for_again() -> None:
    """Nothing else would: the node has all the IPv4 addresses it wants, so it is at rest."""
    scene = Budgeted(Policy(ip_families="dual"))
    scene.ec2.subnets = {k: replace(s, ipv6=True) for k, s in scene.ec2.subnets.items()}
    scene.ec2.types["m5.large"] = replace(scene.ec2.types["m5.large"], ipv6=True)
    scene.ec2.launch()
    scene.ec2.refuse[AssignIpv6Prefixes] = [refusal("InsufficientCidrBlocks", Trouble.FRAGMENTED)]
    scene.look()
    assert not scene.ec2.primary().ipv6_prefixes
    report(scene, in_use=1)
    report(scene, in_use=1)
    assert scene.ec2.primary().ipv6_prefixes
    assert report(scene, in_use=1) == 1


# ------------------------------------------------------------------------------------------------ batches


class Stubborn(FakeStore):
    """Another function has written this node meanwhile."""

    refuses = ""

    def save(self, arn: str, *rest: object) -> None:
        if arn == self.refuses:
            raise RevisionConflictError(arn)
        super().save(arn, *rest)  # type: ignore[arg-type]


def test_a_first_report_that_cannot_be_noted_fails_its_node_alone() -> None:
    other = "i-0123456789abcdef1"
    scene = Scene()
    scene.store = store = Stubborn(scene.machine)
    scene.edges = replace(scene.edges, store=store)
    scene.ec2.launch()
    scene.ec2.launch(other)
    arns = {NODE: ARN, other: ARN_PREFIX + other}
    reconcile(scene.edges, [Signal(NODE, "test"), Signal(other, "test")], SECONDS)
    reports = [SentReport(i, Report(Order(1, 1), 1, in_use=0), scene.machine.now) for i in arns]
    signals = ingest(store, arns, reports).signals
    assert [s.boot for s in signals] == [True, True]
    store.refuses = ARN
    result = reconcile(scene.edges, signals, SECONDS)
    assert set(result.failed) <= {NODE}
    noted = store.record(arns[other])
    assert noted is not None
    assert noted.accepted == Order(1, 1)
    assert store.leases == {}


class Busy(FakeStore):
    """DynamoDB has no capacity for the next reads."""

    busy = 0

    def load(self, arns: object) -> dict[str, NodeState]:
        if self.busy:
            self.busy -= 1
            raise TimeoutError("DynamoDB has no capacity to read 3 items")
        return super().load(arns)  # type: ignore[arg-type]


def test_a_table_without_capacity_puts_a_look_off_and_fails_no_message() -> None:
    scene = Scene()
    scene.store = store = Busy(scene.machine)
    scene.edges = replace(scene.edges, store=store)
    scene.ec2.launch()
    reconcile(scene.edges, [Signal(NODE, "test")], SECONDS)
    store.busy = 2
    result = reconcile(scene.edges, [Signal(NODE, "later", due=5.0)], SECONDS)
    assert not result.failed
    assert scene.looks.asked
    assert store.leases == {}


# ------------------------------------------------------------------------------------------------ launch hooks


def test_a_launch_hook_that_meets_no_token_to_describe_comes_again_in_one_message_at_its_turn() -> None:
    """Not every three seconds, and not in twice as many messages: a launch has no describes to spare."""
    scene = Budgeted()
    scene.edges = replace(scene.edges, settings=replace(scene.edges.settings, launch_hook="berth"))
    scene.ec2.launch(state="pending")
    scene.budget.exhaust("DescribeInstances", scene.machine.now + 40)
    waits = Signal(NODE, "launch", hook_group="workers", hook_name="berth", hook_at=scene.machine.now)
    result = reconcile(scene.edges, [waits], SECONDS)
    assert not result.failed
    ((_, _, delay),) = scene.looks.asked
    assert delay >= 39
    assert scene.looks.hooks == {NODE: ("workers", "berth", waits.hook_at)}
