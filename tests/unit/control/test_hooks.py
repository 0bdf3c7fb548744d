"""Launch hooks: completed once the node has its addresses, kept while it is worked upon, and nobody else's touched."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import boto3
import pytest
from berth.calls import AssignAddresses, AssignPrefixes, CreateInterface
from berth.ec2_wire import Trouble
from berth.events import Signal, parse
from berth.events.node_look_requested import body
from berth.hooks import WORKING_SECONDS, AutoScalingHooks, Hook
from berth.reconcile import RunResult, reconcile
from berth.records import usable_addresses
from botocore.exceptions import ReadTimeoutError
from botocore.stub import Stubber

from tests.unit.control.fakes import ARN, NODE, Died, Scene, refusal, settings

OURS = Hook("nodes", "berth-ready")
TWO = {"berth__minimum_addresses": "150", "berth__max_pods": "200"}
"""More than the primary interface holds: a second one has to be made and attached."""


@dataclass
class Group:
    """An Auto Scaling group in which instances wait; ``broken`` answers nothing."""

    scene: Scene
    waiting: set[tuple[Hook, str]] = field(default_factory=set)
    completed: list[str] = field(default_factory=list)
    beats: int = 0
    broken: bool = False

    def complete(self, hook: Hook, instance_id: str) -> bool:
        self.scene.machine.step()
        if self.broken:
            return False
        if (hook, instance_id) in self.waiting:
            record = self.scene.store.record()
            assert usable_addresses(record) > 0, "told on before the table said that it is ready"
            self.waiting.discard((hook, instance_id))
            self.completed.append(instance_id)
        self.scene.machine.step()
        return True

    def heartbeat(self, hook: Hook, instance_id: str) -> bool:
        self.scene.machine.step()
        if (hook, instance_id) not in self.waiting:
            return False
        self.beats += 1
        return True


def waiting(**tags: str) -> tuple[Scene, Group]:
    """A pending node, which waits in our hook."""
    scene = Scene()
    group = Group(scene, {(OURS, NODE)})
    scene.edges = replace(scene.edges, hooks=group, settings=settings(launch_hook=OURS.name))
    scene.ec2.launch(state="pending", **tags)
    return scene, group


def told(scene: Scene, name: str = OURS.name) -> Signal:
    return Signal(NODE, "hook", hook_group=OURS.group, hook_name=name, hook_at=scene.machine.now)


def look(scene: Scene, *signals: Signal) -> RunResult:
    return reconcile(scene.edges, signals or (Signal(NODE, "test"),), 50.0)


def noted(scene: Scene) -> str:
    return scene.store.items[ARN].notes.hook_name


def test_a_node_whose_primary_interface_holds_all_it_needs_is_told_on_while_it_is_pending() -> None:
    scene, group = waiting()
    result = look(scene, told(scene))
    assert group.completed == [NODE]
    assert result.counts["HooksCompleted"] == 1
    look(scene)
    assert group.completed == [NODE]
    assert noted(scene) == ""


def test_a_node_with_an_interface_to_attach_is_told_on_when_that_is_done_and_kept_waiting_until_then() -> None:
    scene, group = waiting(**TWO)
    look(scene, told(scene))
    look(scene)
    assert (group.completed, group.beats) == ([], 2)
    assert noted(scene) == OURS.name
    scene.ec2.set_state("running")
    look(scene, Signal(NODE, "running"))
    assert group.completed == [NODE]
    assert noted(scene) == ""


def test_a_hook_that_is_told_of_after_the_node_is_ready_is_completed_at_once() -> None:
    scene, group = waiting()
    look(scene)
    before = len(scene.ec2.calls)
    look(scene, told(scene))
    assert (group.completed, len(scene.ec2.calls)) == ([NODE], before)


def test_a_hook_that_the_sweep_has_found_is_completed_too() -> None:
    scene, group = waiting()
    look(scene)
    look(scene, parse(body(NODE, "sweep", (OURS.group, OURS.name, scene.machine.now))))
    assert group.completed == [NODE]


def test_a_refused_call_keeps_the_node_waiting() -> None:
    scene, group = waiting()
    scene.ec2.refuse = {AssignPrefixes: [refusal("IncorrectState", Trouble.STATE)]}
    look(scene, told(scene))
    assert (group.completed, group.beats) == ([], 1)
    scene.ec2.set_state("running")
    look(scene)
    assert group.completed == [NODE]


def test_a_node_that_gets_less_than_it_wants_is_told_on_with_what_it_has() -> None:
    scene, group = waiting(**TWO)
    scene.ec2.groups = frozenset()  # no further interface may be made
    look(scene, told(scene))
    assert scene.store.items[ARN].notes.unmet
    assert group.completed == [NODE]


def test_a_node_that_can_have_no_address_is_left_to_the_time_out() -> None:
    scene, group = waiting()
    full = [refusal("InsufficientFreeAddressesInSubnet", Trouble.EXHAUSTED)] * 9
    scene.ec2.refuse = {AssignPrefixes: list(full), AssignAddresses: list(full), CreateInterface: list(full)}
    look(scene, told(scene))
    scene.ec2.refuse = {AssignPrefixes: list(full), AssignAddresses: list(full), CreateInterface: list(full)}
    scene.ec2.set_state("running")
    look(scene)
    assert (group.completed, group.beats) == ([], 1)  # the one while it was pending
    scene.ec2.refuse = {}
    look(scene)
    assert group.completed == [NODE]


def test_heartbeats_end_so_that_a_node_that_never_gets_ready_does_not_hold_its_group_up() -> None:
    scene, group = waiting(**TWO)
    look(scene, told(scene))
    scene.machine.now += WORKING_SECONDS + 1
    look(scene)
    assert group.beats == 1


def test_a_warm_pool_fires_the_hook_twice_and_the_stopped_node_between_keeps_everything() -> None:
    scene, group = waiting(**TWO)
    look(scene, told(scene))
    scene.ec2.set_state("running")
    look(scene)
    scene.ec2.set_state("stopping")
    look(scene)
    scene.ec2.set_state("stopped")
    look(scene)
    kept, calls = dict(scene.ec2.all_interfaces), len(scene.ec2.calls)
    scene.machine.now += 3600
    group.waiting.add((OURS, NODE))
    scene.ec2.set_state("pending")
    look(scene, told(scene))
    assert group.completed == [NODE, NODE]
    assert scene.ec2.all_interfaces == kept
    assert len(scene.ec2.calls) == calls


@pytest.mark.parametrize(("name", "served"), [("somebody-elses", "berth-ready"), ("berth-ready", ""), ("x", "")])
def test_a_hook_of_another_name_is_left_alone(name: str, served: str) -> None:
    scene, group = waiting()
    scene.edges = replace(scene.edges, settings=settings(launch_hook=served))
    group.waiting = {(Hook(OURS.group, name), NODE)}
    look(scene, told(scene, name))
    look(scene)
    assert (group.completed, group.beats, noted(scene)) == ([], 0, "")
    assert usable_addresses(scene.store.record()) > 0


@pytest.mark.parametrize("tags", [(), (("berth:unmanaged", "true"), ("kubernetes.io/cluster/demo", "owned"))])
def test_the_hook_of_an_instance_that_is_no_node_of_ours_is_left_alone(tags: tuple[tuple[str, str], ...]) -> None:
    scene, group = waiting()
    scene.ec2.all_instances[NODE] = replace(scene.ec2.all_instances[NODE], tags=tags)
    result = look(scene, told(scene))
    assert (group.completed, group.beats, result.failed, scene.store.items) == ([], 0, {}, {})


def test_a_group_that_does_not_answer_is_told_at_another_look() -> None:
    scene, group = waiting()
    group.broken = True
    result = look(scene, told(scene))
    assert not result.failed
    assert [i for i, _, _ in scene.looks.asked] == [NODE]
    group.broken = False
    look(scene)
    assert group.completed == [NODE]


def test_an_event_that_comes_again_when_nobody_waits_any_more_is_done_with() -> None:
    scene, group = waiting()
    signal = told(scene)
    look(scene, signal)
    look(scene, signal)
    look(scene)
    assert group.completed == [NODE]
    assert noted(scene) == ""


def test_a_hook_that_is_told_of_while_another_function_has_its_first_look_is_asked_about_again_soon() -> None:
    """There is no record to note it in yet, and the message itself would come again after two minutes."""
    scene, group = waiting()
    scene.store.take(ARN, "other", scene.machine.now, scene.machine.now + 80)
    signal = told(scene)
    assert not look(scene, signal).failed
    assert scene.looks.hooks == {NODE: (OURS.group, OURS.name, signal.hook_at)}
    scene.store.leases.clear()
    look(scene, parse(body(NODE, "again", scene.looks.hooks[NODE])))
    assert group.completed == [NODE]


def test_a_node_that_dies_in_its_hook_is_not_told_on() -> None:
    scene, group = waiting(**TWO)
    look(scene, told(scene))
    scene.ec2.set_state("terminated")
    look(scene)
    assert group.completed == []
    assert noted(scene) == ""


@pytest.mark.parametrize("at", range(50))
def test_killed_between_any_two_steps_the_node_is_told_on_once_it_is_ready_and_not_before(at: int) -> None:
    scene, group = waiting(**TWO)
    signal = told(scene)

    def life() -> None:
        look(scene, signal)
        scene.ec2.set_state("running")
        look(scene, Signal(NODE, "running"))

    scene.machine.dies_at = at
    try:
        life()
    except Died:
        scene.machine.restart()
        scene.machine.now += 81
        life()  # both messages come again
    scene.machine.restart()
    assert group.completed == [NODE]
    look(scene)
    assert noted(scene) == ""
    assert group.completed == [NODE]


# ------------------------------------------------------------------------------------------------ the edge


@pytest.fixture
def stubbed() -> tuple[AutoScalingHooks, Stubber, list[int]]:
    client = boto3.client(
        "autoscaling", region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    made: list[int] = []

    def connect() -> Any:
        made.append(1)
        return client

    return AutoScalingHooks(connect), Stubber(client), made


WHO = {"AutoScalingGroupName": "nodes", "LifecycleHookName": "berth-ready", "InstanceId": NODE}


def test_the_client_is_made_when_the_first_hook_wants_it(
    stubbed: tuple[AutoScalingHooks, Stubber, list[int]],
) -> None:
    hooks, stub, made = stubbed
    assert made == []
    stub.add_response("complete_lifecycle_action", {}, {**WHO, "LifecycleActionResult": "CONTINUE"})
    stub.add_response("record_lifecycle_action_heartbeat", {}, WHO)
    with stub:
        assert hooks.complete(OURS, NODE)
        assert hooks.heartbeat(OURS, NODE)
    assert made == [1]


@pytest.mark.parametrize(
    ("code", "done", "warned"),
    [("ValidationError", True, False), ("AccessDenied", True, True), ("Throttling", False, True)],
)
def test_only_what_may_get_better_is_tried_again(
    stubbed: tuple[AutoScalingHooks, Stubber, list[int]],
    caplog: pytest.LogCaptureFixture,
    code: str,
    done: bool,
    warned: bool,
) -> None:
    """Nobody waits there any more; a group that is not tagged as ours; a group that cannot be asked now."""
    hooks, stub, _ = stubbed
    caplog.set_level(logging.WARNING, "berth")
    for action in ("complete_lifecycle_action", "record_lifecycle_action_heartbeat"):
        stub.add_client_error(action, code, f"No active Lifecycle Action found with instance ID {NODE}")
    with stub:
        assert hooks.complete(OURS, NODE) is done
        assert not hooks.heartbeat(OURS, NODE)
    assert bool(caplog.records) is warned
    assert all(getattr(r, "group", "") == "nodes" for r in caplog.records)


def test_a_lost_answer_is_no_error() -> None:
    def connect() -> Any:
        raise ReadTimeoutError(endpoint_url="https://autoscaling")

    made: Callable[[], Any] = connect
    assert not AutoScalingHooks(made).complete(OURS, NODE)
