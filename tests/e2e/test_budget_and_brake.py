"""What holds Berth back, on the deployed stack: a token budget that has run out, and the kill switch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from berth.brake import FRESH_SECONDS
from berth.buckets import Bucket
from berth.contract import address_count

from tests.e2e.scenes import dead_letters, mutations, new_scene, settle
from tests.sandbox.account import wait_for
from tests.sandbox.demo.stages import Scene
from tests.sandbox.landscape import NodeSpec, launch_node

ASSIGN: Final = "AssignPrivateIpAddresses"
TAGS: Final = {"mode": "prefixes", "max-pods": "16", "warm-addresses": "8"}


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with new_scene(parameters={"ReconcileDelaySeconds": "2"}) as made:
        yield made
        assert dead_letters(made) == {}


def brake(scene: Scene, level: str) -> None:
    name = scene.stack.outputs["BrakeParameterName"]
    scene.stack.client("ssm").put_parameter(Name=name, Value=level, Overwrite=True)


def launched(scene: Scene, name: str) -> str:
    assert scene.landscape is not None
    return launch_node(scene.endpoint, scene.landscape, NodeSpec(name, "a", "t3.micro", TAGS))


def served(scene: Scene, instance_id: str) -> bool:
    record = scene.stack.record(instance_id)
    return record is not None and sum(address_count(a.cidr) for i in record.interfaces for a in i.assignments) > 0


def budget_items(scene: Scene) -> dict[str, dict[str, Any]]:
    items = scene.stack.client("dynamodb").scan(TableName=scene.stack.outputs["BudgetTable"])["Items"]
    return {item["kind"]["S"]: item for item in items}


def test_every_call_and_describe_is_counted_in_the_budgets_table(scene: Scene) -> None:
    node = launched(scene, "counted")
    wait_for("the node to be served", lambda: served(scene, node))
    items = budget_items(scene)
    called = scene.stack.sandbox("calls")["function"]
    assert {a.removeprefix("ec2:") for a in called if a.startswith("ec2:")} <= set(items)
    assert {ASSIGN, "DescribeSubnets", "DescribeInstanceTypes"} <= set(items)
    assert {item["node"]["S"] for item in items.values()} == {"budget#123456789012#eu-west-1"}


def test_out_of_tokens_a_node_is_served_at_its_slot_and_not_before(scene: Scene) -> None:
    """As if another stack had taken all that there is for the next five seconds."""
    slot = time.time() + 5
    key = {k: v for k, v in budget_items(scene)[ASSIGN].items() if k in ("node", "kind")}
    tat = slot + Bucket(100, 5).tolerance - 0.2
    scene.stack.client("dynamodb").put_item(
        TableName=scene.stack.outputs["BudgetTable"], Item={**key, "tat": {"N": str(tat)}}
    )
    before = mutations(scene)
    node = launched(scene, "late")
    wait_for("the node's slot to come up and be used", lambda: served(scene, node))
    assert time.time() >= slot
    assert mutations(scene) - before == {ASSIGN: 1}


def test_at_read_only_nothing_is_changed_and_what_was_held_is_done_once_it_is_over(scene: Scene) -> None:
    brake(scene, "read-only")
    time.sleep(FRESH_SECONDS)  # so long they may go on with what they read last
    before = mutations(scene)
    node = launched(scene, "held")
    wait_for("the node to have a record", lambda: scene.stack.record(node) is not None)
    wait_for("the node to run", lambda: scene.stack.state(node) == "running")
    settle(scene)
    assert mutations(scene) == before
    assert not served(scene, node)
    brake(scene, "normal")
    wait_for("the held node to be served", lambda: served(scene, node), 60)


def test_at_no_release_nodes_grow_and_what_the_dead_leave_stays_until_it_is_over(scene: Scene) -> None:
    assert scene.landscape is not None
    ec2 = scene.stack.client("ec2")
    two_links = NodeSpec("leaver", "a", "t3.micro", {"mode": "prefixes", "max-pods": "32", "minimum-addresses": "20"})
    leaver = launch_node(scene.endpoint, scene.landscape, two_links)
    wait_for("its second interface", lambda: len(scene.stack.interfaces(leaver)) == 2)
    settle(scene)
    brake(scene, "no-release")
    time.sleep(FRESH_SECONDS)
    left = scene.stack.interfaces(leaver)[1]
    attachment = {"AttachmentId": left["Attachment"]["AttachmentId"], "DeleteOnTermination": False}
    ec2.modify_network_interface_attribute(NetworkInterfaceId=left["NetworkInterfaceId"], Attachment=attachment)
    before = mutations(scene)
    ec2.terminate_instances(InstanceIds=[leaver])
    grows = launched(scene, "grows")
    wait_for("a new node to be served", lambda: served(scene, grows))
    wait_for("the old one's end", lambda: scene.stack.state(leaver) == "terminated")
    settle(scene)
    assert mutations(scene) - before == {ASSIGN: 1}
    mine = [{"Name": "network-interface-id", "Values": [left["NetworkInterfaceId"]]}]
    assert ec2.describe_network_interfaces(Filters=mine)["NetworkInterfaces"]
    brake(scene, "normal")
    wait_for("it to be deleted", lambda: not ec2.describe_network_interfaces(Filters=mine)["NetworkInterfaces"], 60)
