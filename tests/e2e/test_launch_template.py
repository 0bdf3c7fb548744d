"""Nodes of a launch template that `berth launch-template` made boot with their addresses: no call changes anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import pytest
from berth.model import CLUSTER_TAG

from tests.e2e.scenes import assigned, blocks_shown, mutations, new_scene, settle
from tests.sandbox.account import wait_for
from tests.sandbox.demo.stages import Machine, Scene, add_pods, start_agents
from tests.sandbox.landscape import ADMIN_KEY, CLUSTER, REGION, NodeSpec
from tests.sandbox.node import Node
from tests.sandbox.runtime import Runtime

pytestmark = pytest.mark.long

STACK: Final = "berth"
TYPE: Final = "m5.large"
POLICY: Final = ("--mode", "prefixes", "--minimum-addresses", "30", "--warm-addresses", "2")


def _berth(scene: Scene, *arguments: str) -> dict[str, Any]:
    """The operator's command, with the administrator's credentials."""
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": scene.endpoint,
        "AWS_ACCESS_KEY_ID": ADMIN_KEY,
        "AWS_SECRET_ACCESS_KEY": ADMIN_KEY,
        "AWS_DEFAULT_REGION": REGION,
    }
    run = subprocess.run(
        [sys.executable, "-m", "berth.cli", *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with new_scene() as scene:
        yield scene


@pytest.fixture(scope="module")
def template(scene: Scene) -> dict[str, Any]:
    """An operator's template, with a version that Berth's command has added."""
    assert scene.landscape is not None
    own = {"ImageId": scene.landscape.image, "IamInstanceProfile": {"Name": scene.landscape.profile}}
    scene.stack.client("ec2").create_launch_template(LaunchTemplateName="nodes", LaunchTemplateData=own)
    return _berth(
        scene, "launch-template", "--create", "--set-default", "--json", "--name", "nodes", "--stack", STACK,
        "--cluster", CLUSTER, "--instance-type", TYPE, "--security-group", scene.landscape.security_group, *POLICY,
    )  # fmt: skip


@pytest.fixture(scope="module")
def node(scene: Scene, template: dict[str, Any]) -> Machine:
    """An instance that an Auto Scaling group has launched from the template."""
    assert scene.landscape is not None
    scene.stack.client("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName="nodes",
        LaunchTemplate={"LaunchTemplateId": template["id"]},
        MinSize=1,
        MaxSize=1,
        VPCZoneIdentifier=scene.landscape.subnets["b"],
    )
    groups = scene.stack.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=["nodes"])
    instance = groups["AutoScalingGroups"][0]["Instances"][0]["InstanceId"]
    node = Node(instance)
    machine = Machine(NodeSpec("ready", "b", TYPE, {}), instance, node, Runtime(node))
    scene.machines["ready"] = machine
    wait_for("the node's record", lambda: assigned(scene.stack.record(instance)) == 32, 60)
    return machine


def test_the_node_boots_with_its_addresses_and_nothing_is_changed(scene: Scene, node: Machine) -> None:
    settle(scene)
    (primary,) = scene.stack.interfaces(node.id)
    assert len(primary["Ipv4Prefixes"]) == 2
    assert {t["Key"]: t["Value"] for t in primary["TagSet"]} == {CLUSTER_TAG: CLUSTER}
    assert mutations(scene) == {}


def test_pods_are_served_without_any_call(scene: Scene, node: Machine) -> None:
    start_agents(scene, [node])
    pods = add_pods(scene, node, 30, "web")
    settle(scene)
    assert len({p.address for p in pods}) == 30
    assert mutations(scene) == {}


def test_once_outgrown_it_grows_like_any_other(scene: Scene, node: Machine) -> None:
    """By the permissions for Berth's own interfaces: the first one carries the cluster's tag."""
    add_pods(scene, node, 4, "more")
    wait_for("a third prefix", lambda: len(blocks_shown(scene, node)) == 3, 30)
    settle(scene)
    assert mutations(scene) == {"AssignPrivateIpAddresses": 1}


def test_the_same_command_again_changes_nothing(scene: Scene, template: dict[str, Any], node: Machine) -> None:
    assert scene.landscape is not None
    again = _berth(
        scene, "launch-template", "--create", "--json", "--name", "nodes", "--stack", STACK, "--cluster", CLUSTER,
        "--instance-type", TYPE, *POLICY,
    )  # fmt: skip
    assert (again["version"], again["unchanged"]) == (template["version"], True)


def test_a_dry_run_on_the_deployed_stack_finds_nothing_to_do(scene: Scene, node: Machine) -> None:
    before = mutations(scene)
    found = _berth(scene, "look", node.id, "--dry-run", "--json", "--stack", STACK)
    settle(scene)
    assert (found["outcome"], found["decision"]["plan"]) == ("as planned", {})
    assert mutations(scene) == before
