"""What somebody does by hand, and a launch hook of which no event told, is found by the deployed sweep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from berth.contract import KIND, NODE, Record

from tests.e2e.scenes import FunctionLog, dead_letters, new_scene, settle, tell, trail_tells
from tests.sandbox.account import wait_for
from tests.sandbox.demo.stages import Scene, launch
from tests.sandbox.landscape import CLUSTER, NodeSpec, launch_node

TWO_LINKS = {"mode": "prefixes", "max-pods": "32", "minimum-addresses": "20"}
"""On a t3.micro: one prefix on each of two interfaces."""
HOOK = "addresses"


@dataclass(slots=True)
class Site:
    scene: Scene
    node: str
    """A node with two interfaces, of which the second is ours."""

    @property
    def ec2(self) -> Any:
        return self.scene.stack.client("ec2")

    def record(self) -> Record:
        record = self.scene.stack.record(self.node)
        assert record is not None
        return record

    def listed(self) -> list[str]:
        """Interfaces in the node's record."""
        return [i.id for i in self.record().interfaces]

    def ours(self) -> dict[str, Any]:
        """The interface that Berth made for the node and that is attached to it."""
        (mine,) = self.scene.stack.interfaces(self.node)[1:]
        return mine

    def settled(self) -> None:
        """No look at the node is still to come, so that only the sweep can bring one."""
        wait_for("the last delayed look", lambda: self._delayed() == 0)
        settle(self.scene)

    def _delayed(self) -> int:
        depths = self.scene.stack.sandbox("queues")
        return int(depths[self.scene.stack.outputs["NodeEventsQueueUrl"].rpartition("/")[2]]["delayed"])

    def detach(self) -> str:
        """By hand, and long after Berth's last call: it then believes what EC2 shows."""
        self.settled()
        self._forget_calls()
        mine = self.ours()
        self.ec2.detach_network_interface(AttachmentId=mine["Attachment"]["AttachmentId"], Force=True)
        wait_for("it to be detached", lambda: len(self.scene.stack.interfaces(self.node)) == 1)
        return str(mine["NetworkInterfaceId"])

    def _forget_calls(self) -> None:
        """What Berth has done and listed holds over what EC2 shows for a minute, which a test need not wait for."""
        stack = self.scene.stack
        table, dynamodb = stack.outputs["TableName"], stack.client("dynamodb")
        node = {NODE: {"S": stack.arn(self.node)}}
        dynamodb.delete_item(TableName=table, Key={**node, KIND: {"S": "intents"}})
        dynamodb.update_item(TableName=table, Key={**node, KIND: {"S": "record"}}, UpdateExpression="REMOVE listed_at")

    def sweep(self, kind: str) -> None:
        """Run the deployed sweep, and wait until its finding has brought a look."""
        log = FunctionLog(self.scene)
        tell(self.scene, "fire", {"rule": "SweepRule"})
        reason = f"sweep: {kind}"
        wait_for(f"a look for {kind}", lambda: any(reason in line.get("reasons", ()) for line in log.lines()))

    @contextmanager
    def nothing_told(self, *resources: str) -> Iterator[None]:
        """These rules of the stack are off: the sweep is on its own."""
        events = self.scene.stack.client("events")
        rules = [r["Name"] for r in events.list_rules()["Rules"] if any(n in r["Name"] for n in resources)]
        assert len(rules) >= len(resources)
        for rule in rules:
            events.disable_rule(Name=rule)
        try:
            yield
        finally:
            for rule in rules:
                events.enable_rule(Name=rule)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_scene(
        parameters={"ReconcileDelaySeconds": "2", "LaunchHookName": HOOK, "WatchCloudTrail": "true"}
    ) as scene:
        launch(scene, [NodeSpec("node", "a", "t3.micro", TWO_LINKS)])
        found = Site(scene, scene.machines["node"].id)
        wait_for("both interfaces", lambda: len(found.listed()) == 2)
        yield found
        assert dead_letters(scene) == {}


def test_an_interface_detached_by_hand_is_attached_again(site: Site) -> None:
    detached = site.detach()
    assert detached in site.listed()
    site.sweep("NodesDrifted")
    wait_for("it to be back", lambda: [i["NetworkInterfaceId"] for i in site.scene.stack.interfaces(site.node)[1:]])
    settle(site.scene)
    assert site.ours()["NetworkInterfaceId"] == detached
    assert wait_for("the record", lambda: detached in site.listed())
    assert site.ours()["Attachment"]["DeleteOnTermination"] is True


def test_an_interface_deleted_by_hand_is_made_again(site: Site) -> None:
    deleted = site.detach()
    site.ec2.delete_network_interface(NetworkInterfaceId=deleted)
    site.sweep("NodesDrifted")
    made = wait_for("another", lambda: [i for i in site.listed() if i != deleted][1:])
    assert deleted not in site.listed()
    assert [site.ours()["NetworkInterfaceId"]] == made


def test_where_a_trail_tells_of_it_no_sweep_is_needed(site: Site) -> None:
    """The trail's events are put by hand, as EventBridge has them; the account here has no trail."""
    functions = site.scene.stack.client("lambda")
    (mapping,) = (
        m for m in functions.list_event_source_mappings()["EventSourceMappings"] if "Drift" in m["EventSourceArn"]
    )
    functions.update_event_source_mapping(UUID=mapping["UUID"], MaximumBatchingWindowInSeconds=1)
    tell_of(site, "AssignPrivateIpAddresses", site.ours()["NetworkInterfaceId"])
    deleted = site.detach()
    site.ec2.delete_network_interface(NetworkInterfaceId=deleted)
    tell_of(site, "DeleteNetworkInterface", deleted)
    made = wait_for("another", lambda: [i for i in site.listed() if i != deleted][1:])
    assert [site.ours()["NetworkInterfaceId"]] == made


def tell_of(site: Site, call: str, interface: str) -> None:
    """What a trail says of a call that somebody made, and a wait for the look that it leads to."""
    log = FunctionLog(site.scene)
    trail_tells(site.scene, call, {"networkInterfaceId": interface})
    reason = "an interface was changed by hand"
    wait_for(f"a look after {call}", lambda: any(reason in line.get("reasons", ()) for line in log.lines()))


def test_an_interface_moved_by_hand_is_foreign_from_then_on_and_another_is_made(site: Site) -> None:
    assert site.scene.landscape is not None
    spec = NodeSpec("stranger", "a", "t3.micro", {})
    stranger = launch_node(site.scene.endpoint, site.scene.landscape, spec, cluster="elsewhere")
    wait_for("it to run", lambda: site.scene.stack.state(stranger) == "running")
    moved = site.detach()
    attached = site.ec2.attach_network_interface(NetworkInterfaceId=moved, InstanceId=stranger, DeviceIndex=1)
    site.sweep("NodesDrifted")
    made = wait_for("another", lambda: [i for i in site.listed() if i != moved][1:])
    settle(site.scene)
    assert moved not in site.listed()
    assert [site.ours()["NetworkInterfaceId"]] == made
    (there,) = site.scene.stack.interfaces(stranger)[1:]
    assert (there["NetworkInterfaceId"], there["Attachment"]["AttachmentId"]) == (moved, attached["AttachmentId"])


def test_a_ready_node_whose_launch_hook_nobody_told_of_is_let_go_by_the_sweep(site: Site) -> None:
    landscape, groups = site.scene.landscape, site.scene.stack.client("autoscaling")
    assert landscape is not None
    tags = [{"Key": f"kubernetes.io/cluster/{CLUSTER}", "Value": "owned"}]
    site.ec2.create_launch_template(
        LaunchTemplateName="nodes",
        LaunchTemplateData={
            "ImageId": landscape.image,
            "InstanceType": "t3.micro",
            "SecurityGroupIds": [landscape.security_group],
            "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}],
        },
    )
    with site.nothing_told("LifecycleActionRule"):
        groups.create_auto_scaling_group(
            AutoScalingGroupName="nodes",
            LaunchTemplate={"LaunchTemplateName": "nodes"},
            MinSize=1,
            MaxSize=1,
            VPCZoneIdentifier=landscape.subnets["b"],
            Tags=[{**tag, "PropagateAtLaunch": True} for tag in tags],
            LifecycleHookSpecificationList=[
                {
                    "LifecycleHookName": HOOK,
                    "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
                    "HeartbeatTimeout": 300,
                    "DefaultResult": "CONTINUE",
                }
            ],
        )

        def member() -> dict[str, Any]:
            described = groups.describe_auto_scaling_groups(AutoScalingGroupNames=["nodes"])["AutoScalingGroups"]
            found = [i for g in described for i in g["Instances"]]
            return dict(found[0]) if found else {}

        instance = str(wait_for("an instance", member)["InstanceId"])
        wait_for("it to be ready", lambda: site.scene.stack.record(instance))
        settle(site.scene)
        assert member()["LifecycleState"] == "Pending:Wait"
        site.sweep("NodesInHook")
        wait_for("its group to let it go", lambda: member()["LifecycleState"] == "InService")
