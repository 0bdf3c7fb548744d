"""The shell against an EC2 and a table in memory: what a node gets, gives back and leaves behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth.calls import (
    AssignAddresses,
    AssignPrefixes,
    Attach,
    CreateInterface,
    DeleteInterface,
    Detach,
    SetDeleteOnTermination,
    Unassign,
)
from berth.contract import Order, Policy, Record, Report, Surrender, address_count
from berth.ec2_wire import Ec2Error, Trouble
from berth.events import Signal
from berth.ingest import SentReport, ingest
from berth.reconcile import RunResult, reconcile
from berth.store import NodeState, RevisionConflictError

from tests.unit.control.fakes import ARN, GROUP, NODE, SUBNET, Died, Scene, refusal

SECONDS = 50.0


def look(scene: Scene, *signals: Signal) -> RunResult:
    return reconcile(scene.edges, signals or (Signal(NODE, "test"),), SECONDS)


def kinds(scene: Scene) -> list[type]:
    return [type(c) for c in scene.ec2.calls]


def record(scene: Scene) -> Record:
    found = scene.store.record()
    assert found is not None
    return found


def blocks(record: Record) -> set[str]:
    return {a.cidr for i in record.interfaces for a in i.assignments}


class Agent:
    """What the node's agent does, as far as its reports tell."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.sequence = scene, 0

    def send(
        self,
        in_use: int = 0,
        waiting: int = 0,
        surrendered: tuple[Surrender, ...] = (),
        unusable: tuple[str, ...] = (),
        acknowledged: int | None = None,
        sequence: int | None = None,
    ) -> list[str]:
        self.sequence = self.sequence + 1 if sequence is None else sequence
        ack = record(self.scene).revision if acknowledged is None else acknowledged
        report = Report(
            order=Order(1, self.sequence),
            acknowledged_revision=ack,
            in_use=in_use,
            waiting=tuple(f"pod-{n}" for n in range(waiting)),
            surrendered=surrendered,
            unusable=unusable,
        )
        intake = ingest(self.scene.store, {NODE: ARN}, [SentReport(NODE, report)])
        reconcile(self.scene.edges, intake.signals, SECONDS)
        return [*intake.refused, *intake.older]

    def surrender(self, cidr: str) -> Surrender:
        for interface in record(self.scene).interfaces:
            for assignment in interface.assignments:
                if assignment.cidr == cidr:
                    return Surrender(interface.mac, cidr, assignment.id)
        raise LookupError(cidr)


# ------------------------------------------------------------------------------------------------ coming to life


def test_a_running_node_gets_its_warm_addresses_on_the_primary_interface_in_one_call() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    assert scene.ec2.calls == [AssignPrefixes(scene.ec2.primary().id, 1)]
    assert blocks(record(scene)) == scene.ec2.assigned()
    assert [e.detail["addresses"] for e in scene.bus.named("Node Addresses Ready")] == [16]


def test_a_second_look_changes_nothing_and_writes_nothing() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    before, written = list(scene.ec2.calls), len(scene.store.history)
    look(scene)
    assert scene.ec2.calls == before
    assert len(scene.store.history) == written
    assert len(scene.bus.named("Node Addresses Ready")) == 1


def test_the_record_says_what_the_agent_needs() -> None:
    scene = Scene(Policy(cooldown_seconds=60))
    scene.ec2.launch(berth__warm_addresses="3")
    look(scene)
    made = record(scene)
    assert made.instance_arn == ARN
    assert made.policy == Policy(cooldown_seconds=60, warm_addresses=3)
    assert made.no_snat_cidrs == ("10.0.0.0/16", "192.168.0.0/16")
    (interface,) = made.interfaces
    assert (interface.device_index, interface.subnet_cidr, interface.gateway) == (0, "10.0.1.0/24", "10.0.1.1")
    assert interface.primary_address == scene.ec2.primary().primary_address


def test_a_pending_node_gets_addresses_and_interfaces_at_once_but_nothing_attached() -> None:
    scene = Scene()
    scene.ec2.launch(state="pending", berth__minimum_addresses="150", berth__max_pods="200")
    look(scene)
    assert kinds(scene) == [AssignPrefixes, CreateInterface]
    assert scene.looks.asked[0][0] == NODE
    assert scene.ec2.calls[1].prefixes == 1  # type: ignore[union-attr]
    scene.ec2.set_state("running")
    look(scene)
    assert kinds(scene)[2:] == [Attach, SetDeleteOnTermination]
    assert [i.device_index for i in record(scene).interfaces] == [0, 1]


def test_a_primary_with_room_needs_no_further_interface() -> None:
    scene = Scene()
    scene.ec2.launch(state="pending")
    look(scene)
    assert kinds(scene) == [AssignPrefixes]


def test_when_ec2_refuses_the_pending_state_the_primary_is_asked_again_and_nothing_is_created_instead() -> None:
    scene = Scene()
    scene.ec2.launch(state="pending")
    scene.ec2.refuse = {AssignPrefixes: [refusal("IncorrectState", Trouble.STATE)]}
    look(scene)
    assert kinds(scene) == [AssignPrefixes]
    scene.ec2.set_state("running")
    look(scene)
    assert kinds(scene) == [AssignPrefixes, AssignPrefixes]
    assert len(blocks(record(scene))) == 1


def test_one_delayed_look_is_on_its_way_at_a_time() -> None:
    scene = Scene()
    scene.ec2.launch(state="pending", berth__mode="addresses", berth__minimum_addresses="12")  # on two interfaces
    look(scene)
    look(scene)
    assert len(scene.looks.asked) == 1
    scene.machine.now += 60
    look(scene)
    assert [delay > 0 for _, _, delay in scene.looks.asked] == [True, True]
    assert scene.looks.asked[1][2] > scene.looks.asked[0][2]


def test_addresses_mode_assigns_exactly_what_is_missing() -> None:
    scene = Scene()
    scene.ec2.launch(berth__mode="addresses", berth__warm_addresses="5")
    look(scene)
    assert scene.ec2.calls == [AssignAddresses(scene.ec2.primary().id, 5)]


def test_an_instance_type_without_prefixes_gets_addresses_and_is_reported() -> None:
    scene = Scene()
    scene.ec2.launch(type="t2.large")
    look(scene)
    assert kinds(scene) == [AssignAddresses]
    assert record(scene).policy.mode == "addresses"
    assert "t2.large" in scene.bus.named("Node Policy Invalid")[0].detail["problems"][0]["message"]


def test_an_unknown_instance_type_is_skipped_with_an_event_that_says_why() -> None:
    scene = Scene()
    scene.ec2.launch(type="m99.huge")
    result = look(scene)
    assert not result.failed
    assert scene.ec2.calls == []
    assert scene.bus.named("Node Policy Invalid")[0].detail["problems"][0]["value"] == "m99.huge"


def test_an_instance_without_the_cluster_tag_is_left_alone() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.ec2.all_instances[NODE] = replace(scene.ec2.all_instances[NODE], tags=())
    result = look(scene)
    assert (scene.ec2.calls, scene.store.items, result.counts["NotANode"]) == ([], {}, 1)


def test_an_unmanaged_node_is_left_alone() -> None:
    scene = Scene()
    scene.ec2.launch(berth__unmanaged="true")
    look(scene)
    assert scene.ec2.calls == []


def test_a_bad_tag_is_told_once_and_the_default_is_used() -> None:
    scene = Scene()
    scene.ec2.launch(berth__max_pods="many")
    look(scene)
    look(scene)
    assert len(scene.bus.named("Node Policy Invalid")) == 1
    assert record(scene).policy.max_pods == 110


# ------------------------------------------------------------------------------------------------ growing


def test_waiting_pods_are_served_by_the_next_look() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    Agent(scene).send(in_use=16, waiting=14)
    assert kinds(scene) == [AssignPrefixes, AssignPrefixes]
    assert sum(map(address_count, blocks(record(scene)))) >= 16 + 14 + 8


def test_growth_stops_at_max_pods() -> None:
    scene = Scene()
    scene.ec2.launch(berth__max_pods="20")
    look(scene)
    Agent(scene).send(in_use=16, waiting=200)
    assert sum(map(address_count, blocks(record(scene)))) == 32


def test_no_free_prefix_falls_back_to_addresses_for_this_call_only() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.ec2.refuse = {AssignPrefixes: [refusal("InsufficientCidrBlocks", Trouble.FRAGMENTED)]}
    look(scene)
    primary = scene.ec2.primary().id
    assert scene.ec2.calls == [AssignPrefixes(primary, 1), AssignAddresses(primary, 8)]
    Agent(scene).send(in_use=8, waiting=2)
    assert scene.ec2.calls[2] == AssignPrefixes(primary, 1)


def test_an_exhausted_subnet_is_reported_once_and_another_allowed_one_is_used() -> None:
    scene = Scene()
    scene.ec2.add_subnet("subnet-small", "10.0.9.0/28")
    scene.ec2.launch()
    scene.ec2.refuse = {
        AssignPrefixes: [refusal("InsufficientCidrBlocks", Trouble.FRAGMENTED)],
        AssignAddresses: [refusal("InsufficientFreeAddressesInSubnet", Trouble.EXHAUSTED)] * 2,
    }
    look(scene)
    created = [c for c in scene.ec2.calls if isinstance(c, CreateInterface)]
    assert {c.subnet_id for c in created} == {"subnet-small"}
    assert len(scene.ec2.assigned()) == 8


def test_what_a_look_assigned_is_taken_off_the_free_addresses_it_plans_with() -> None:
    """EC2 counts a subnet's free addresses once a look: 15 here, of which the first call takes 9."""
    scene = Scene()
    scene.ec2.add_subnet(SUBNET, "10.0.1.0/28")
    scene.ec2.launch(berth__mode="addresses", berth__minimum_addresses="20")
    look(scene)
    (assigned, created) = [c for c in scene.ec2.calls if isinstance(c, AssignAddresses | CreateInterface)]
    assert isinstance(assigned, AssignAddresses)
    assert isinstance(created, CreateInterface)
    assert (assigned.count, created.addresses) == (9, 5)
    (event,) = scene.bus.named("Node Address Demand Unmet")
    assert event.detail["addresses"] == 20 - 14


def test_demand_that_cannot_be_met_is_told_when_it_begins_and_not_again() -> None:
    scene = Scene()
    scene.ec2.groups = frozenset()
    scene.ec2.launch(berth__minimum_addresses="200", berth__max_pods="400")
    look(scene)
    look(scene)
    (event,) = scene.bus.named("Node Address Demand Unmet")
    assert GROUP in event.detail["reason"]
    assert event.detail["addresses"] == 200 - 9 * 16


def test_throttling_stops_the_node_and_looks_again_without_failing_the_message() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.ec2.refuse = {AssignPrefixes: [refusal("RequestLimitExceeded", Trouble.THROTTLED)]}
    result = look(scene)
    assert not result.failed
    assert len(scene.looks.asked) == 1
    assert len(scene.ec2.calls) == 1


def test_a_missing_permission_fails_the_message_of_that_node_alone() -> None:
    scene = Scene()
    other = "i-0123456789abcdef1"
    scene.ec2.launch()
    scene.ec2.launch(other)
    scene.ec2.refuse = {AssignPrefixes: [refusal("UnauthorizedOperation", Trouble.REFUSED)]}
    result = look(scene, Signal(NODE, "test"), Signal(other, "test"))
    assert set(result.failed) == {NODE}
    assert isinstance(result.failed[NODE], Ec2Error)
    assert scene.ec2.primary(other).prefixes
    assert scene.store.leases == {}


def test_a_spot_warning_stops_warm_growth_but_serves_waiting_pods() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    look(scene, Signal(NODE, "spot", draining_until=scene.machine.now + 600))
    agent = Agent(scene)
    agent.send(in_use=16)
    assert len(scene.ec2.calls) == 1
    agent.send(in_use=16, waiting=1)
    assert len(scene.ec2.calls) == 2


def test_requested_capacity_is_assigned_ahead_of_need() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    look(scene, Signal(NODE, "request", requested=40, requested_until=scene.machine.now + 600))
    assert len(scene.ec2.assigned()) == 3


def test_a_block_that_metadata_does_not_show_yet_is_not_assigned_twice() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    agent = Agent(scene)
    agent.send(unusable=tuple(blocks(record(scene))))
    assert len(scene.ec2.assigned()) == 1
    scene.machine.now += 61
    agent.send(unusable=tuple(blocks(record(scene))))
    assert len(scene.ec2.assigned()) == 2


def test_a_record_that_cannot_be_read_fails_that_node_alone() -> None:
    scene = Scene()
    other = "i-0123456789abcdef1"
    scene.ec2.launch()
    scene.ec2.launch(other)
    load = scene.store.load
    broken = NodeState(broken="record.schema: this version reads schema 1, got 2")
    scene.store.load = lambda arns: load(arns) | {ARN: broken}  # type: ignore[method-assign]
    result = look(scene, Signal(NODE, "test"), Signal(other, "test"))
    assert set(result.failed) == {NODE}
    assert scene.ec2.primary(other).prefixes


def request(scene: Scene, addresses: int, lasts: float = 600) -> Signal:
    now = scene.machine.now
    return Signal(NODE, "request", requested=addresses, requested_until=now + lasts, requested_at=now)


def test_the_node_is_told_of_requested_capacity_until_it_ends_so_that_it_does_not_give_it_back() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    look(scene, request(scene, 40))
    assert record(scene).policy.minimum_addresses == 40
    scene.machine.now += 601
    look(scene)
    assert record(scene).policy.minimum_addresses == 0


def test_capacity_that_is_requested_before_the_first_look_at_a_node_is_assigned() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene, request(scene, 40))
    assert scene.looks.asked == [(NODE, "capacity requested", 0)]
    look(scene)
    assert len(scene.ec2.assigned()) == 3


def test_a_capacity_request_that_meets_the_first_look_of_another_function_comes_again() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.store.take(ARN, "other", scene.machine.now, scene.machine.now + 80)
    assert set(look(scene, request(scene, 40)).failed) == {NODE}


def test_a_cluster_tag_of_another_value_is_told_of_once_an_hour() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.ec2.all_instances[NODE] = replace(
        scene.ec2.all_instances[NODE], tags=(("kubernetes.io/cluster/demo", "member"),)
    )
    look(scene)
    look(scene)
    (event,) = scene.bus.named("Node Policy Invalid")
    assert event.detail["problems"][0]["value"] == "member"
    scene.machine.now += 3601
    look(scene)
    assert len(scene.bus.named("Node Policy Invalid")) == 2


def test_an_agent_on_an_instance_without_the_cluster_tag_is_told_of() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.ec2.all_instances[NODE] = replace(scene.ec2.all_instances[NODE], tags=())
    intake = ingest(scene.store, {NODE: ARN}, [SentReport(NODE, Report(Order(1, 1), 0, 0))])
    look(scene, *intake.signals)
    (event,) = scene.bus.named("Node Policy Invalid")
    assert event.detail["problems"][0]["key"] == "kubernetes.io/cluster/demo"


# ------------------------------------------------------------------------------------------------ lost answers


def test_an_assignment_whose_answer_was_lost_and_that_is_not_described_yet_is_not_made_again_at_once() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene, Signal(NODE, "sees the primary, and stops there"))
    scene.ec2.calls.clear()
    before = dict(scene.ec2.all_interfaces)
    scene.ec2.loses_answers = 1
    agent = Agent(scene)
    agent.send(in_use=16, waiting=4)
    after, scene.ec2.all_interfaces = scene.ec2.all_interfaces, before  # a describe that lags
    look(scene)
    assert kinds(scene) == [AssignPrefixes]
    scene.ec2.all_interfaces = after
    look(scene)
    assert kinds(scene) == [AssignPrefixes]
    assert blocks(record(scene)) == scene.ec2.assigned()


def test_an_assignment_that_was_never_made_is_made_after_a_moment() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.ec2.refuse = {AssignPrefixes: [refusal("ReadTimeoutError", Trouble.IN_DOUBT)]}
    look(scene)
    look(scene)
    assert kinds(scene) == [AssignPrefixes]
    scene.machine.now += 11
    look(scene)
    assert kinds(scene) == [AssignPrefixes, AssignPrefixes]


def test_a_release_whose_answer_was_lost_stays_done_even_if_a_later_describe_lags() -> None:
    scene, agent, cidr = shrunk()
    offer = agent.surrender(cidr)
    agent.send(in_use=1, surrendered=(offer,))
    scene.machine.now += 61  # that it was assigned is no longer overlaid
    before = dict(scene.ec2.all_interfaces)
    scene.ec2.loses_answers = 1
    agent.send(in_use=1, surrendered=(offer,))
    look(scene)  # EC2 shows that it is gone
    after, scene.ec2.all_interfaces = scene.ec2.all_interfaces, before
    look(scene)  # a describe that lags
    assert cidr not in blocks(record(scene))
    scene.ec2.all_interfaces = after


def test_a_block_that_ec2_assigns_again_after_an_unanswered_release_is_given_to_the_node_at_once() -> None:
    scene, agent, cidr = shrunk()
    offer = agent.surrender(cidr)
    agent.send(in_use=1, surrendered=(offer,))
    before = dict(scene.ec2.all_interfaces)
    scene.ec2.loses_answers = 1
    agent.send(in_use=1, surrendered=(offer,))
    after = scene.ec2.all_interfaces
    scene.ec2.calls.clear()
    real = scene.ec2.interfaces
    scene.ec2.all_interfaces = before
    lagging = real([NODE])
    scene.ec2.all_interfaces = after
    scene.ec2.interfaces = lambda ids: lagging  # type: ignore[method-assign]
    agent.send(in_use=16, waiting=4)
    assert kinds(scene) == [AssignPrefixes]
    assert cidr in blocks(record(scene))


def test_two_creations_of_one_second_are_not_taken_for_each_other() -> None:
    scene = Scene()
    scene.ec2.launch(berth__minimum_addresses="150", berth__max_pods="400", berth__mode="addresses")
    scene.machine.now = 1_000_000.0
    scene.ec2.types["m5.large"] = replace(scene.ec2.types["m5.large"], interfaces=4)
    created = 0
    apply = scene.ec2._apply

    def second_is_lost(call: object, *rest: object) -> object:
        nonlocal created
        created += isinstance(call, CreateInterface)
        if isinstance(call, CreateInterface) and created == 2:
            raise refusal("ReadTimeoutError", Trouble.IN_DOUBT)
        return apply(call, *rest)  # type: ignore[arg-type]

    scene.ec2._apply = second_is_lost  # type: ignore[method-assign,assignment]
    look(scene)
    lost = [i for i in scene.store.load([ARN])[ARN].intents if i.outcome is None and type(i.call) is CreateInterface]
    look(scene)
    assert len(lost) == 1
    assert scene.ec2._made[lost[0].token]


def test_a_node_that_dies_while_a_creation_is_unanswered_is_not_buried_before_its_interface_can_be_seen() -> None:
    scene = Scene()
    scene.ec2.launch(berth__minimum_addresses="150", berth__max_pods="200")
    scene.ec2.loses_answers, scene.ec2.loses = 1, CreateInterface
    look(scene)
    made = {i.id: i for i in scene.ec2.ours()}
    assert len(made) == 1
    for interface_id in made:
        del scene.ec2.all_interfaces[interface_id]  # not described yet
    scene.ec2.set_state("terminated")
    look(scene)
    assert scene.store.items[ARN].expires_at is None
    scene.ec2.all_interfaces |= made
    look(scene)
    assert scene.ec2.all_interfaces == {}
    assert scene.store.items[ARN].expires_at is not None


def test_what_a_late_report_leaves_beside_a_tombstone_is_deleted_with_it() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    scene.ec2.set_state("terminated")
    look(scene)
    scene.store.accept_report(ARN, Report(Order(1, 9), 1, 0))  # it had passed the check before the node was buried
    look(scene)
    assert (scene.store.items[ARN].report, scene.store.items[ARN].intents) == ("", "")
    assert scene.store.items[ARN].expires_at is not None


def test_an_unfinished_release_that_is_over_is_forgotten_for_good() -> None:
    scene, agent, cidr = shrunk()
    offer = agent.surrender(cidr)
    agent.send(in_use=1, surrendered=(offer,))
    save = scene.store.save

    def killed(*_: object) -> None:
        raise Died

    scene.store.save = killed  # type: ignore[method-assign,assignment]
    with pytest.raises(Died):
        agent.send(in_use=1, surrendered=(offer,))  # its intent is stored, the record still lists the block
    scene.store.save = save  # type: ignore[method-assign]
    scene.machine.now += 81
    scene.store.leases.clear()
    agent.send(in_use=16)  # taken back
    shown = dict(scene.ec2.all_interfaces)
    primary = scene.ec2.primary()
    scene.ec2.all_interfaces[primary.id] = replace(primary, prefixes=tuple(p for p in primary.prefixes if p != cidr))
    look(scene)  # a describe that leaves it out
    scene.ec2.all_interfaces = shown
    scene.ec2.calls.clear()
    look(scene)
    assert Unassign not in kinds(scene)
    assert cidr in blocks(record(scene))


# ------------------------------------------------------------------------------------------------ giving back


def shrunk() -> tuple[Scene, Agent, str]:
    """A node with two prefixes, one of them not needed."""
    scene = Scene()
    scene.ec2.launch(berth__warm_addresses="0", berth__minimum_addresses="0")
    look(scene)
    agent = Agent(scene)
    agent.send(waiting=20)
    assert len(scene.ec2.assigned()) == 2
    return scene, agent, max(scene.ec2.assigned())


def test_a_surrendered_prefix_is_marked_then_acknowledged_then_unassigned() -> None:
    scene, agent, cidr = shrunk()
    offer = agent.surrender(cidr)
    agent.send(in_use=1, surrendered=(offer,))
    (marked,) = [a for i in record(scene).interfaces for a in i.assignments if a.releasing]
    assert marked.cidr == cidr
    assert Unassign not in kinds(scene)
    agent.send(in_use=1, surrendered=(offer,))
    assert scene.ec2.calls[-1] == Unassign(scene.ec2.primary().id, (cidr,))
    assert cidr not in blocks(record(scene))
    assert cidr not in scene.ec2.assigned()


def test_a_report_that_has_not_seen_the_mark_releases_nothing() -> None:
    scene, agent, cidr = shrunk()
    offer, before = agent.surrender(cidr), record(scene).revision
    agent.send(in_use=1, surrendered=(offer,))
    agent.send(in_use=1, surrendered=(offer,), acknowledged=before)
    assert Unassign not in kinds(scene)


def test_a_surrender_taken_back_is_unmarked_and_stays() -> None:
    scene, agent, cidr = shrunk()
    agent.send(in_use=1, surrendered=(agent.surrender(cidr),))
    agent.send(in_use=20)
    assert not any(a.releasing for i in record(scene).interfaces for a in i.assignments)
    assert cidr in scene.ec2.assigned()


def test_the_mark_stays_until_a_report_acknowledges_it() -> None:
    scene, agent, cidr = shrunk()
    before = record(scene).revision
    agent.send(in_use=1, surrendered=(agent.surrender(cidr),))
    agent.send(in_use=20, acknowledged=before)
    assert any(a.releasing for i in record(scene).interfaces for a in i.assignments)


def test_a_surrender_with_another_assignments_id_is_not_believed() -> None:
    scene, agent, cidr = shrunk()
    forged = replace(agent.surrender(cidr), assignment="another")
    agent.send(in_use=1, surrendered=(forged,))
    agent.send(in_use=1, surrendered=(forged,))
    assert Unassign not in kinds(scene)


def test_a_block_assigned_anew_has_a_new_id() -> None:
    scene, agent, cidr = shrunk()
    first = agent.surrender(cidr)
    agent.send(in_use=1, surrendered=(first,))
    agent.send(in_use=1, surrendered=(first,))
    scene.machine.now += 120
    agent.send(in_use=16, waiting=4)
    assert cidr in scene.ec2.assigned()
    assert agent.surrender(cidr).assignment != first.assignment


def test_a_report_alone_causes_no_revision() -> None:
    scene, agent, _ = shrunk()
    revision = record(scene).revision
    agent.send(in_use=17)
    agent.send(in_use=18)
    assert record(scene).revision == revision
    assert record(scene).accepted.boot == 1
    assert scene.store.load([ARN])[ARN].report == Report(Order(1, agent.sequence), revision, in_use=18)


def test_an_older_report_is_dropped() -> None:
    scene, agent, _ = shrunk()
    agent.send(in_use=17, sequence=9)
    assert agent.send(in_use=0, waiting=200, sequence=8) != []
    assert len(scene.ec2.assigned()) == 2


# ------------------------------------------------------------------------------------------------ dying


def test_a_terminated_node_leaves_nothing_behind_and_its_record_becomes_a_tombstone() -> None:
    scene = Scene()
    scene.ec2.launch(berth__minimum_addresses="150", berth__max_pods="200")
    look(scene)
    revision = record(scene).revision
    scene.ec2.set_state("terminated")
    look(scene)
    assert scene.ec2.all_interfaces == {}
    assert record(scene).interfaces == ()
    assert record(scene).revision > revision
    assert scene.store.items[ARN].expires_at is not None


def test_what_ec2_does_not_delete_is_deleted_and_told() -> None:
    scene = Scene()
    scene.ec2.launch(state="pending", berth__minimum_addresses="150", berth__max_pods="200")
    look(scene)
    scene.ec2.set_state("terminated")
    look(scene)
    assert DeleteInterface in kinds(scene)
    assert len(scene.bus.named("Network Interface Reclaimed")) == 1
    assert scene.ec2.all_interfaces == {}


def test_a_dying_node_is_looked_at_until_ec2_has_let_go() -> None:
    scene = Scene()
    scene.ec2.launch(berth__minimum_addresses="150", berth__max_pods="200")
    look(scene)
    scene.ec2.set_state("shutting-down")
    look(scene)
    assert len(scene.looks.asked) == 1
    assert scene.store.items[ARN].expires_at is None
    scene.ec2.set_state("terminated")
    look(scene)
    assert scene.store.items[ARN].expires_at is not None


def test_an_interface_without_delete_on_termination_is_detached_from_a_dying_node() -> None:
    scene = Scene()
    scene.ec2.launch(berth__minimum_addresses="150", berth__max_pods="200")
    look(scene)
    (mine,) = scene.ec2.ours()
    assert mine.attachment is not None
    scene.ec2.all_interfaces[mine.id] = replace(mine, attachment=replace(mine.attachment, delete_on_termination=False))
    scene.machine.now += 120
    scene.ec2.set_state("shutting-down")
    look(scene)
    scene.machine.now += 120
    look(scene)
    assert kinds(scene)[-2:] == [Detach, DeleteInterface]


def test_one_absence_is_not_believed_two_ten_minutes_apart_are() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    scene.ec2.forget()
    look(scene)
    assert scene.store.items[ARN].expires_at is None
    scene.machine.now += 601
    look(scene)
    assert scene.store.items[ARN].expires_at is not None


def test_an_absence_that_ends_is_forgotten() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    instance = scene.ec2.all_instances[NODE]
    scene.ec2.forget()
    look(scene)
    scene.ec2.all_instances[NODE] = instance
    look(scene)
    scene.machine.now += 601
    scene.ec2.forget()
    look(scene)
    assert scene.store.items[ARN].expires_at is None


def test_a_node_seen_again_after_its_tombstone_keeps_counting_revisions() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    instance = scene.ec2.all_instances[NODE]
    scene.ec2.forget()
    look(scene)
    scene.machine.now += 601
    look(scene)
    buried = record(scene).revision
    scene.ec2.all_instances[NODE] = instance
    look(scene)
    assert record(scene).revision > buried
    assert scene.store.items[ARN].expires_at is None
    assert blocks(record(scene)) == scene.ec2.assigned()


def test_a_stopped_node_keeps_everything() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    before = list(scene.ec2.calls)
    scene.ec2.set_state("stopped")
    look(scene)
    assert scene.ec2.calls == before
    assert len(blocks(record(scene))) == 1


def test_an_interface_attached_elsewhere_is_foreign_and_never_touched() -> None:
    scene = Scene()
    other = "i-0123456789abcdef1"
    scene.ec2.launch(state="pending", berth__minimum_addresses="150", berth__max_pods="200")
    scene.ec2.launch(other)
    look(scene)
    (mine,) = scene.ec2.ours()
    at = scene.ec2.primary(other).attachment
    assert at is not None
    scene.ec2.all_interfaces[mine.id] = replace(mine, attachment=replace(at, id="eni-attach-x", device_index=1))
    scene.ec2.calls.clear()
    scene.ec2.set_state("terminated")
    scene.machine.now += 700
    look(scene)
    assert not any(getattr(c, "interface_id", "") == mine.id for c in scene.ec2.calls)


# ------------------------------------------------------------------------------------------------ being killed


def grow_and_shrink(scene: Scene) -> None:
    """A node's whole life, as often as it takes."""
    look(scene)
    scene.ec2.set_state("running")
    look(scene)


@pytest.mark.parametrize("at", range(60))
def test_killed_between_any_two_steps_a_new_node_comes_to_the_same_end(at: int) -> None:
    scene = Scene()
    scene.ec2.launch(state="pending", berth__minimum_addresses="150", berth__max_pods="200")
    scene.machine.dies_at = at
    try:
        grow_and_shrink(scene)
    except Died:
        scene.machine.restart()
        scene.machine.now += 81  # the lease of the dead has run out
        grow_and_shrink(scene)
    assert len(scene.ec2.ours()) == 1
    assert sorted(map(type, scene.ec2.calls), key=str).count(SetDeleteOnTermination) >= 1
    assert blocks(record(scene)) == scene.ec2.assigned()
    assert len(scene.ec2.assigned()) == 10
    revisions = [r.revision for r in scene.store.history]
    assert revisions == sorted(revisions)
    assert scene.store.leases == {}


@pytest.mark.parametrize("at", range(40))
def test_killed_between_any_two_steps_a_release_never_frees_what_the_record_still_lists(at: int) -> None:
    scene, agent, cidr = shrunk()
    offer = agent.surrender(cidr)
    agent.send(in_use=1, surrendered=(offer,))
    scene.machine.dies_at = scene.machine.steps + at
    try:
        agent.send(in_use=1, surrendered=(offer,))
    except Died:
        assert blocks(record(scene)) <= scene.ec2.assigned()
        scene.machine.restart()
        scene.machine.now += 81
        agent.send(in_use=1, surrendered=(offer,), sequence=agent.sequence)  # SQS delivers the same message again
    assert blocks(record(scene)) == scene.ec2.assigned()
    assert cidr not in scene.ec2.assigned()


@pytest.mark.parametrize("at", range(40))
def test_killed_between_any_two_steps_a_death_leaves_nothing(at: int) -> None:
    scene = Scene()
    scene.ec2.launch(state="pending", berth__minimum_addresses="150", berth__max_pods="200")
    look(scene)
    scene.ec2.set_state("terminated")
    scene.machine.dies_at = scene.machine.steps + at
    try:
        look(scene)
    except Died:
        scene.machine.restart()
        scene.machine.now += 81
        look(scene)
    assert scene.ec2.all_interfaces == {}
    assert scene.store.items[ARN].expires_at is not None


def test_a_call_in_doubt_is_repeated_with_the_same_token_and_makes_one_interface() -> None:
    scene = Scene()
    scene.ec2.launch(berth__minimum_addresses="150", berth__max_pods="200")
    scene.ec2.refuse = {CreateInterface: [refusal("ReadTimeoutError", Trouble.IN_DOUBT)]}
    look(scene)
    assert scene.ec2.ours() == []
    assert len(scene.looks.asked) == 1
    look(scene)
    created = [c for c in scene.ec2.calls if isinstance(c, CreateInterface)]
    assert created[0] == created[1]
    assert len(scene.ec2.ours()) == 1


# ------------------------------------------------------------------------------------------------ one writer


def test_a_leased_node_is_not_looked_at_but_its_holder_is_told() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.store.take(ARN, "other", scene.machine.now, scene.machine.now + 80)
    result = look(scene)
    assert scene.ec2.calls == []
    assert scene.store.leases[ARN][2] == 1
    assert result.counts["LeasesBusy"] == 1


def test_a_holder_that_was_told_looks_again() -> None:
    scene = Scene()
    scene.ec2.launch()
    original, knocks = scene.ec2.network, iter([True])

    def network(vpcs: object) -> object:
        if next(knocks, False):
            scene.store.take(ARN, "other", scene.machine.now, 0)
        return original(vpcs)  # type: ignore[arg-type]

    scene.ec2.network = network  # type: ignore[method-assign,assignment]
    result = look(scene)
    assert result.counts["LooksRepeated"] == 1
    assert scene.store.leases == {}


def test_a_node_somebody_keeps_knocking_for_is_queued_again_after_three_rounds() -> None:
    scene = Scene()
    scene.ec2.launch()
    original = scene.ec2.network

    def network(vpcs: object) -> object:
        scene.store.take(ARN, "other", scene.machine.now, 0)
        return original(vpcs)  # type: ignore[arg-type]

    scene.ec2.network = network  # type: ignore[method-assign,assignment]
    look(scene)
    assert scene.looks.asked == [(NODE, "knocked while busy", 1)]
    assert scene.store.leases == {}


def test_a_lease_that_was_taken_without_an_answer_is_let_go_of() -> None:
    """Or the messages of the run that failed find the node busy when they come again, and are dropped."""
    scene = Scene()
    scene.ec2.launch()
    original = scene.store.take

    def unanswered(*asked: object) -> bool:
        original(*asked)  # type: ignore[arg-type]
        raise ConnectionError("no answer")

    scene.store.take = unanswered  # type: ignore[method-assign,assignment]
    with pytest.raises(ConnectionError):
        look(scene)
    assert scene.store.leases == {}


def test_an_expired_lease_can_be_taken() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.store.take(ARN, "dead", scene.machine.now, scene.machine.now + 80)
    scene.machine.now += 81
    look(scene)
    assert len(scene.ec2.assigned()) == 1


def test_a_revision_never_falls() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    scene.store.items[ARN].revision = 99
    scene.machine.now += 61
    scene.ec2.groups = frozenset()
    scene.ec2.all_instances[NODE] = replace(
        scene.ec2.all_instances[NODE],
        tags=(("berth:warm-addresses", "30"), ("kubernetes.io/cluster/demo", "owned")),
    )
    result = look(scene)
    assert isinstance(result.failed[NODE], RevisionConflictError)
