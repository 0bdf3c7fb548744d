"""The sweep: what it asks looks for, and that it changes nothing."""

from __future__ import annotations

from dataclasses import replace

from berth.events import Signal
from berth.reconcile import reconcile
from berth.sweep import sweep

from tests.unit.control.fakes import ARN, NODE, SUBNET, Scene

OTHER = "i-0123456789abcdef1"


def settled() -> Scene:
    scene = Scene()
    scene.ec2.launch(berth__minimum_addresses="150", berth__max_pods="200")
    reconcile(scene.edges, [Signal(NODE, "test")], 50)
    scene.ec2.calls.clear()
    return scene


def run(scene: Scene) -> list[str]:
    counts = sweep(scene.ec2, scene.store, scene.looks, scene.bus, scene.edges.settings, scene.machine.clock)
    assert scene.ec2.calls == []
    assert sum(v for k, v in counts.items() if k.startswith(("Nodes", "Records"))) >= len(scene.looks.asked)
    return [instance_id for instance_id, _, _ in scene.looks.asked]


def test_where_everything_agrees_nothing_is_asked() -> None:
    assert run(settled()) == []


def test_a_node_whose_events_were_lost_is_found() -> None:
    scene = settled()
    scene.ec2.launch(OTHER)
    assert run(scene) == [OTHER]


def test_an_instance_that_is_no_node_is_not() -> None:
    scene = settled()
    scene.ec2.launch(OTHER)
    scene.ec2.all_instances[OTHER] = replace(scene.ec2.all_instances[OTHER], tags=())
    assert run(scene) == []


def test_a_record_whose_node_is_gone_is_found() -> None:
    scene = settled()
    scene.ec2.set_state("terminated")
    assert NODE in run(scene)


def test_a_tombstone_is_left_in_peace() -> None:
    scene = settled()
    scene.ec2.set_state("terminated")
    reconcile(scene.edges, [Signal(NODE, "test")], 50)
    scene.ec2.forget()
    assert scene.store.items[ARN].expires_at is not None
    scene.looks.asked.clear()
    scene.ec2.calls.clear()
    assert run(scene) == []


def test_an_orphaned_interface_is_found_by_its_tag() -> None:
    scene = settled()
    (mine,) = scene.ec2.ours()
    scene.ec2.all_interfaces["eni-lost"] = replace(mine, id="eni-lost", node=OTHER, attachment=None)
    assert run(scene) == [OTHER]


def test_an_interface_of_another_stack_is_left_alone() -> None:
    scene = settled()
    (mine,) = scene.ec2.ours()
    lost = replace(mine, id="eni-lost", node=OTHER, attachment=None, cluster="elsewhere")
    scene.ec2.all_interfaces["eni-lost"] = lost
    assert run(scene) == []


def test_addresses_that_changed_behind_our_back_are_found() -> None:
    scene = settled()
    primary = scene.ec2.primary()
    scene.ec2.all_interfaces[primary.id] = replace(primary, prefixes=primary.prefixes[1:])
    assert run(scene) == [NODE]


def test_an_orphan_nobody_knows_is_deleted_once_it_is_old() -> None:
    scene = settled()
    (mine,) = scene.ec2.ours()
    scene.ec2.all_interfaces["eni-lost"] = replace(mine, id="eni-lost", node=OTHER, attachment=None)
    scene.ec2._free[SUBNET] = []
    reconcile(scene.edges, [Signal(OTHER, "sweep")], 50)
    assert "eni-lost" in scene.ec2.all_interfaces
    scene.machine.now += 700
    reconcile(scene.edges, [Signal(OTHER, "sweep")], 50)
    assert "eni-lost" not in scene.ec2.all_interfaces


def test_a_subnet_that_runs_low_is_told() -> None:
    scene = settled()
    scene.ec2.add_subnet("subnet-z", "10.0.9.0/28", zone="eu-west-1b")
    scene.ec2._free["subnet-z"] = []
    run(scene)
    assert [e.detail["subnet-id"] for e in scene.bus.named("Subnet Addresses Low")] == ["subnet-z"]


def test_a_node_that_wants_addresses_is_looked_at_again_since_there_may_be_some_by_now() -> None:
    scene = settled()
    item = scene.store.items[ARN]
    item.notes = replace(item.notes, unmet=3)
    assert run(scene) == [NODE]


def test_a_node_whose_delayed_look_never_came_is_looked_at() -> None:
    scene = settled()
    item = scene.store.items[ARN]
    item.notes = replace(item.notes, next_look=scene.machine.now + 10)
    assert run(scene) == []
    scene.machine.now += 600
    assert run(scene) == [NODE]


def test_an_unmanaged_node_is_not_asked_for_at_each_sweep() -> None:
    scene = settled()
    scene.ec2.launch(OTHER, berth__unmanaged="true")
    assert run(scene) == []
