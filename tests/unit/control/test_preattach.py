"""Pre-attach in two phases: all that can be made before the instance runs is made while it is pending."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth.calls import AssignPrefixes, Attach, CreateInterface, SetDeleteOnTermination
from berth.ec2_wire import request
from berth.events import Signal
from berth.model import Intent
from berth.reconcile import reconcile

from tests.unit.control.fakes import ARN, GROUP, NODE, SUBNET, Died, Scene

TWO = {"berth__minimum_addresses": "150", "berth__max_pods": "200"}


def look(scene: Scene, reason: str = "test") -> None:
    assert not reconcile(scene.edges, [Signal(NODE, reason)], 50.0).failed


def kinds(scene: Scene) -> list[type]:
    return [type(c) for c in scene.ec2.calls]


def test_one_call_makes_an_interface_with_its_blocks_groups_tags_and_token() -> None:
    scene = Scene()
    scene.ec2.launch(state="pending", **TWO)
    look(scene, "pending")
    assert kinds(scene) == [AssignPrefixes, CreateInterface]
    created = scene.ec2.calls[1]
    assert created == CreateInterface(SUBNET, (GROUP,), prefixes=1)
    action, asked = request(Intent("token", created, 1_000_000.0), NODE, "demo")
    tags = {t["Key"]: t["Value"] for t in asked["TagSpecifications"][0]["Tags"]}
    assert action == "create_network_interface"
    assert (asked["Ipv4PrefixCount"], asked["Groups"], asked["ClientToken"]) == (1, [GROUP], "token")
    assert tags == {"berth:cluster": "demo", "berth:instance": NODE, "berth:created-at": "1970-01-12T13:46:40Z"}


def test_attached_and_then_protected_once_it_runs() -> None:
    scene = Scene()
    scene.ec2.launch(state="pending", **TWO)
    look(scene, "pending")
    scene.ec2.set_state("running")
    look(scene, "running")
    assert kinds(scene)[2:] == [Attach, SetDeleteOnTermination]
    (mine,) = scene.ec2.ours()
    assert mine.attachment is not None
    assert mine.attachment.delete_on_termination


@pytest.mark.parametrize("forgotten", [False, True], ids=["with its notes", "with the table lost"])
@pytest.mark.parametrize("at", range(40))
def test_whatever_a_killed_run_left_is_adopted_and_nothing_is_made_twice(at: int, forgotten: bool) -> None:
    """Even without a note of it: the interface itself says whose it is."""
    scene = Scene()
    scene.ec2.launch(state="pending", **TWO)
    scene.machine.dies_at = at
    try:
        look(scene, "pending")
        scene.ec2.set_state("running")
        look(scene, "running")
    except Died:
        scene.machine.now += 81
    scene.machine.restart()
    if forgotten:
        scene.store.items.clear()
    scene.ec2.set_state("running")
    look(scene, "running")
    (mine,) = scene.ec2.ours()
    assert mine.attachment is not None
    assert mine.attachment.delete_on_termination
    assert len(scene.ec2.assigned()) == 10
    record = scene.store.record()
    assert record is not None
    assert {a.cidr for i in record.interfaces for a in i.assignments} == scene.ec2.assigned()


def test_an_interface_that_was_left_unattached_for_a_day_is_adopted_too() -> None:
    scene = Scene()
    scene.ec2.launch(**TWO)
    look(scene)
    (mine,) = scene.ec2.ours()
    scene.ec2.all_interfaces[mine.id] = replace(mine, attachment=None)
    scene.machine.now += 86_400
    before = len(scene.ec2.calls)
    look(scene)
    assert kinds(scene)[before:] == [Attach, SetDeleteOnTermination]
    assert not scene.store.items[ARN].notes.unwanted
