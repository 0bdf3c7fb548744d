"""Launch hooks of Auto Scaling groups, through the deployed function and its deployed permissions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.e2e.scenes import FunctionLog, assigned, dead_letters, faults, new_scene, settle, tell
from tests.sandbox.account import wait_for
from tests.sandbox.demo.stages import Scene
from tests.sandbox.landscape import CLUSTER

HOOK: Final = "berth-ready"
LAUNCHING: Final = "autoscaling:EC2_INSTANCE_LAUNCHING"
NODE_TAGS: Final = {f"kubernetes.io/cluster/{CLUSTER}": "owned", "berth:minimum-addresses": "20"}
"""On a t3.micro that is two interfaces of one prefix: one has to be made, attached and shown."""
SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class Group:
    """An Auto Scaling group whose instances are nodes; ``tagged``: the group itself carries the cluster's tag too."""

    scene: Scene
    name: str
    tagged: bool = True
    hooks: tuple[str, ...] = (HOOK,)

    @property
    def _api(self) -> Any:
        return self.scene.stack.client("autoscaling")

    def make(self) -> None:
        assert self.scene.landscape is not None
        ec2, here = self.scene.stack.client("ec2"), self.scene.landscape
        tags = [{"Key": k, "Value": v} for k, v in NODE_TAGS.items()]
        ec2.create_launch_template(
            LaunchTemplateName=self.name,
            LaunchTemplateData={
                "ImageId": here.image,
                "InstanceType": "t3.micro",
                "SecurityGroupIds": [here.security_group],
                "IamInstanceProfile": {"Name": here.profile},
                "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}],
            },
        )
        cluster = {"Key": f"kubernetes.io/cluster/{CLUSTER}", "Value": "owned", "PropagateAtLaunch": True}
        self._api.create_auto_scaling_group(
            AutoScalingGroupName=self.name,
            LaunchTemplate={"LaunchTemplateName": self.name, "Version": "$Latest"},
            MinSize=0,
            MaxSize=5,
            DesiredCapacity=1,
            VPCZoneIdentifier=here.subnets["a"],
            Tags=[cluster] if self.tagged else [],
            LifecycleHookSpecificationList=[
                {
                    "LifecycleHookName": hook,
                    "LifecycleTransition": LAUNCHING,
                    "HeartbeatTimeout": SECONDS,
                    "DefaultResult": "CONTINUE",
                }
                for hook in self.hooks
            ],
        )

    def instance(self) -> tuple[str, str]:
        """Id and lifecycle state of the one instance."""
        (group,) = self._api.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])["AutoScalingGroups"]
        (instance,) = group["Instances"]
        return instance["InstanceId"], instance["LifecycleState"]

    def serves(self) -> bool:
        return self.instance()[1] == "InService"

    def ready(self) -> bool:
        """Whether the node's record lists what its policy asks for."""
        return assigned(self.scene.stack.record(self.instance()[0])) >= 20

    def finish(self, hook: str) -> None:
        """As whoever put the hook there does."""
        self._api.complete_lifecycle_action(
            AutoScalingGroupName=self.name,
            LifecycleHookName=hook,
            InstanceId=self.instance()[0],
            LifecycleActionResult="CONTINUE",
        )


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with new_scene(parameters={"ReconcileDelaySeconds": "1"}) as scene:
        yield scene
        assert dead_letters(scene) == {}


@pytest.fixture
def hurry(scene: Scene) -> Iterator[None]:
    """Hooks that begin to wait during the test time out after 3 s."""
    tell(scene, "hooks", {"time_scale": 3 / SECONDS})
    yield
    tell(scene, "hooks", {"time_scale": 1})


def told(scene: Scene) -> dict[str, dict[str, int]]:
    """The function's calls to Auto Scaling: action → outcome → how often."""
    calls = scene.stack.sandbox("calls").get("function", {})
    return {action.partition(":")[2]: by for action, by in calls.items() if action.startswith("autoscaling:")}


def test_an_instance_comes_into_service_once_its_record_is_ready_and_not_before(scene: Scene) -> None:
    group = Group(scene, "waits")
    with faults(scene, {"action": "AttachNetworkInterface", "code": "IncorrectState", "status": 400, "times": None}):
        group.make()
        wait_for("the first look", lambda: scene.stack.record(group.instance()[0]))
        wait_for("a heartbeat", lambda: "RecordLifecycleActionHeartbeat" in told(scene))
        wait_for("it to run", lambda: scene.stack.state(group.instance()[0]) == "running")
        settle(scene)
        assert not group.ready()
        assert group.instance()[1] == "Pending:Wait"
    wait_for("it to serve", group.serves, 30)
    assert group.ready()
    assert set(told(scene)["CompleteLifecycleAction"]) == {"ok"}


def test_another_hook_of_the_same_group_is_left_to_its_owner(scene: Scene) -> None:
    group = Group(scene, "shared", hooks=(HOOK, "somebody-elses"))
    before = told(scene).get("CompleteLifecycleAction", {}).get("ok", 0)
    group.make()
    wait_for("ours to be completed", lambda: told(scene).get("CompleteLifecycleAction", {}).get("ok", 0) > before, 30)
    settle(scene)
    assert group.ready()
    assert group.instance()[1] == "Pending:Wait"
    group.finish("somebody-elses")
    wait_for("it to serve", group.serves)


def test_a_group_without_the_clusters_tag_is_refused_by_iam_and_its_instance_gets_its_addresses_all_the_same(
    scene: Scene,
) -> None:
    log, group = FunctionLog(scene), Group(scene, "untagged", tagged=False)
    group.make()
    wait_for("the refusal", lambda: "AccessDenied" in told(scene).get("CompleteLifecycleAction", {}), 30)
    settle(scene)
    assert group.ready()
    assert group.instance()[1] == "Pending:Wait"
    warned = [line for line in log.lines() if line.get("group") == "untagged"]
    assert {line["call"] for line in warned} <= {"complete_lifecycle_action", "record_lifecycle_action_heartbeat"}
    assert "autoscaling:CompleteLifecycleAction" in warned[-1]["error"]


@pytest.mark.usefixtures("hurry")
def test_while_the_function_fails_the_hooks_own_time_out_lets_the_instance_serve(scene: Scene) -> None:
    group = Group(scene, "unheard")
    broken = {"service": "dynamodb", "action": "BatchGetItem", "code": "AccessDeniedException", "status": 400}
    with faults(scene, {**broken, "times": None}):
        group.make()
        assert group.instance()[1] == "Pending:Wait"
        wait_for("the time-out", group.serves, 30)
        assert scene.stack.record(group.instance()[0]) is None
        assert scene.stack.sandbox("calls")["function"]["dynamodb:BatchGetItem"]["AccessDeniedException"]
    assert scene.stack.state(group.instance()[0]) == "running", "nothing was abandoned"
