"""Auto Scaling groups: lifecycle hooks hold instances, and say so on the bus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.sandbox.cloud.autoscaling_actions import LAUNCHING, TERMINATING, set_time_scale

from .conftest import Cloud, Events, Network, refused
from .waiting import eventually


class Group:
    """A group in two zones with one hook for launching and one for terminating, 30 s heartbeats."""

    def __init__(self, cloud: Cloud, network: Network, name: str) -> None:
        self.asg, self.ec2, self.name = cloud.client("autoscaling"), network.ec2, name
        self.subnets = [network.subnet("10.0.1.0/24", "a"), network.subnet("10.0.2.0/24", "b")]
        template = self.ec2.create_launch_template(
            LaunchTemplateName=name, LaunchTemplateData={"ImageId": "ami-1e749f67", "InstanceType": "t3.small"}
        )["LaunchTemplate"]["LaunchTemplateId"]
        self.asg.create_auto_scaling_group(
            AutoScalingGroupName=name,
            LaunchTemplate={"LaunchTemplateId": template},
            MinSize=0,
            MaxSize=9,
            DesiredCapacity=0,
            VPCZoneIdentifier=",".join(self.subnets),
        )
        for hook, transition in (("launch", LAUNCHING), ("terminate", TERMINATING)):
            self.asg.put_lifecycle_hook(
                AutoScalingGroupName=name,
                LifecycleHookName=hook,
                LifecycleTransition=transition,
                HeartbeatTimeout=30,
                DefaultResult="CONTINUE",
                NotificationMetadata=f"{hook} it",
            )

    def size(self, count: int) -> None:
        self.asg.set_desired_capacity(AutoScalingGroupName=self.name, DesiredCapacity=count)

    def instances(self) -> dict[str, str]:
        """Instance id → lifecycle state."""
        found = self.asg.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])["AutoScalingGroups"]
        return {i["InstanceId"]: i["LifecycleState"] for i in found[0]["Instances"]}

    def complete(self, hook: str, result: str, **which: str) -> None:
        self.asg.complete_lifecycle_action(
            AutoScalingGroupName=self.name, LifecycleHookName=hook, LifecycleActionResult=result, **which
        )


@pytest.fixture
def group(cloud: Cloud, network: Network, request: pytest.FixtureRequest) -> Iterator[Group]:
    made = Group(cloud, network, request.node.name)
    yield made
    set_time_scale(1.0)
    made.asg.delete_auto_scaling_group(AutoScalingGroupName=made.name, ForceDelete=True)


def _lifecycle(events: Events) -> list[dict[str, Any]]:
    return [e for e in events.take() if e["detail-type"].endswith("Lifecycle Action")]


def test_a_launch_waits_for_its_hook_and_tells_who_may_complete_it(group: Group, events: Events) -> None:
    group.size(1)
    ((instance, state),) = group.instances().items()
    assert state == "Pending:Wait"
    (event,) = _lifecycle(events)
    token = event["detail"].pop("LifecycleActionToken")
    assert event["source"] == "aws.autoscaling"
    assert event["detail-type"] == "EC2 Instance-launch Lifecycle Action"
    assert event["resources"][0].endswith(f"autoScalingGroupName/{group.name}")
    assert event["detail"] == {
        "AutoScalingGroupName": group.name,
        "LifecycleHookName": "launch",
        "EC2InstanceId": instance,
        "LifecycleTransition": LAUNCHING,
        "NotificationMetadata": "launch it",
        "Origin": "EC2",
        "Destination": "AutoScalingGroup",
    }
    group.complete("launch", "CONTINUE", LifecycleActionToken=token)
    assert group.instances() == {instance: "InService"}
    assert [e["detail-type"] for e in events.take()] == ["EC2 Instance Launch Successful"]
    with refused("ValidationError", "No active Lifecycle Action found"):
        group.complete("launch", "CONTINUE", LifecycleActionToken=token)


def test_an_action_is_also_completed_by_instance(group: Group) -> None:
    group.size(1)
    (instance,) = group.instances()
    group.complete("launch", "CONTINUE", InstanceId=instance)
    assert group.instances() == {instance: "InService"}


def test_instances_are_spread_over_the_zones(group: Group) -> None:
    group.size(4)
    found = group.ec2.describe_instances(InstanceIds=list(group.instances()))["Reservations"]
    zones = [i["Placement"]["AvailabilityZone"] for r in found for i in r["Instances"]]
    assert sorted(zones) == ["eu-west-1a", "eu-west-1a", "eu-west-1b", "eu-west-1b"]


def test_an_abandoned_launch_ends_the_instance(group: Group, network: Network, events: Events) -> None:
    group.size(1)
    (instance,) = group.instances()
    group.complete("launch", "ABANDON", InstanceId=instance)
    assert network.state(instance) == "terminated"
    assert instance not in group.instances()
    assert "EC2 Instance Launch Unsuccessful" in [e["detail-type"] for e in events.take()]


def test_scaling_in_waits_for_the_terminate_hook(group: Group, network: Network, events: Events) -> None:
    group.size(1)
    (instance,) = group.instances()
    group.complete("launch", "CONTINUE", InstanceId=instance)
    events.take()
    group.size(0)
    assert group.instances() == {instance: "Terminating:Wait"}
    assert network.state(instance) == "running"
    (event,) = _lifecycle(events)
    assert event["detail-type"] == "EC2 Instance-terminate Lifecycle Action"
    assert (event["detail"]["Origin"], event["detail"]["Destination"]) == ("AutoScalingGroup", "EC2")
    group.complete("terminate", "ABANDON", LifecycleActionToken=event["detail"]["LifecycleActionToken"])
    assert network.state(instance) == "terminated"
    assert group.instances() == {}


def test_terminating_in_the_group_waits_too_and_replaces(group: Group, network: Network) -> None:
    group.size(1)
    (instance,) = group.instances()
    group.complete("launch", "CONTINUE", InstanceId=instance)
    group.asg.terminate_instance_in_auto_scaling_group(InstanceId=instance, ShouldDecrementDesiredCapacity=False)
    states = group.instances()
    assert states.pop(instance) == "Terminating:Wait"
    assert list(states.values()) == ["Pending:Wait"]
    group.complete("terminate", "CONTINUE", InstanceId=instance)
    assert network.state(instance) == "terminated"


def test_a_hook_times_out_with_its_default_result(group: Group) -> None:
    set_time_scale(0.005)
    group.size(1)
    (instance,) = group.instances()
    eventually(lambda: group.instances() == {instance: "InService"})


def test_a_heartbeat_extends_the_wait(group: Group) -> None:
    set_time_scale(0.02)  # 0.6 s
    group.size(1)
    (instance,) = group.instances()
    for _ in range(3):
        group.asg.record_lifecycle_action_heartbeat(
            AutoScalingGroupName=group.name, LifecycleHookName="launch", InstanceId=instance
        )
        assert group.instances() == {instance: "Pending:Wait"}
    eventually(lambda: group.instances() == {instance: "InService"})
    with refused("ValidationError", "No active Lifecycle Action found"):
        group.asg.record_lifecycle_action_heartbeat(
            AutoScalingGroupName=group.name, LifecycleHookName="launch", InstanceId=instance
        )


def test_hooks_are_described_as_they_were_put(group: Group) -> None:
    (hook,) = group.asg.describe_lifecycle_hooks(AutoScalingGroupName=group.name, LifecycleHookNames=["launch"])[
        "LifecycleHooks"
    ]
    assert hook["NotificationMetadata"] == "launch it"
    assert (hook["HeartbeatTimeout"], hook["GlobalTimeout"], hook["DefaultResult"]) == (30, 3000, "CONTINUE")
    assert "NotificationTargetARN" not in hook
    with refused("ValidationError"):
        group.complete("launch", "MAYBE", InstanceId="i-0")
