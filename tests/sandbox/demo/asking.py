"""What the demos and the end-to-end tests ask and tell: the sandbox itself, the operator's command, a VPC's owner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from tests.sandbox.account import wait_for
from tests.sandbox.demo.stages import Machine, PlacedPod, Scene, place
from tests.sandbox.landscape import ADMIN_KEY, REGION
from tests.sandbox.runtime import Pod, Runtime

__all__ = [
    "add_annotated",
    "berth",
    "found",
    "pings_stopped",
    "primary",
    "settle",
    "tell",
    "trail_tells",
    "use_public_subnet",
]

ANNOTATIONS: Final = "io.kubernetes.cri.pod-annotations"
"""The capability by which containerd hands a pod's annotations to plugins."""


def tell(scene: Scene, path: str, body: Mapping[str, Any]) -> Any:
    """Tell the sandbox itself something (``/_sandbox/…``)."""
    request = urllib.request.Request(  # noqa: S310 - loopback, made by us
        f"{scene.endpoint}/_sandbox/{path}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {ADMIN_KEY}"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


def settle(scene: Scene) -> None:
    """Wait until every message that can be received has been dealt with; delayed ones may wait on."""

    outputs = scene.stack.outputs
    names = {outputs[name].rpartition("/")[2] for name in ("NodeEventsQueueUrl", "NodeReportsQueueUrl")}

    def quiet() -> bool:
        depths = scene.stack.sandbox("queues")
        return not any(depths[name]["visible"] or depths[name]["in_flight"] for name in names)

    wait_for("the queues to be worked off", quiet, 60, every=0.05)


def trail_tells(scene: Scene, call: str, parameters: Mapping[str, Any]) -> None:
    """What a trail says of a call that somebody made, put by hand as EventBridge has it: the account has no trail."""
    detail = {
        "eventSource": "ec2.amazonaws.com",
        "eventName": call,
        "userIdentity": {"type": "IAMUser", "userName": "alice"},
        "requestParameters": dict(parameters),
        "responseElements": {"_return": True},
    }
    tell(scene, "events", {"source": "aws.ec2", "detail-type": "AWS API Call via CloudTrail", "detail": detail})


def berth(scene: Scene, *arguments: str, codes: tuple[int, ...] = (0, 3)) -> tuple[int, str]:
    """The operator's command, with the administrator's credentials: its exit code, one of ``codes``, and output."""
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": scene.endpoint,
        "AWS_ACCESS_KEY_ID": ADMIN_KEY,
        "AWS_SECRET_ACCESS_KEY": ADMIN_KEY,
        "AWS_DEFAULT_REGION": REGION,
    }
    command = [sys.executable, "-m", "berth.cli", *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode in codes, run.stderr
    return run.returncode, run.stdout


def found(scene: Scene, *arguments: str, codes: tuple[int, ...] = (0, 3)) -> dict[str, Any]:
    """What the operator's command answers with ``--json``."""
    answer: dict[str, Any] = json.loads(berth(scene, *arguments, "--json", codes=codes)[1])
    return answer


def primary(scene: Scene, machine: str) -> str:
    """The primary private address of a node, by its name."""
    return str(scene.stack.interfaces(scene.machines[machine].id)[0]["PrivateIpAddress"])


def use_public_subnet(scene: Scene) -> None:
    """Nodes may be launched in the public subnet, as zone "p", and get public addresses of their own there."""
    assert scene.landscape is not None
    public, ec2 = scene.landscape.public_subnet, scene.stack.client("ec2")
    scene.landscape = replace(scene.landscape, subnets={**scene.landscape.subnets, "p": public})
    scene.free_before["p"] = scene.stack.free_addresses(public)
    ec2.create_tags(Resources=[public], Tags=[{"Key": "berth:allowed", "Value": "true"}])
    ec2.modify_subnet_attribute(SubnetId=public, MapPublicIpOnLaunch={"Value": True})


@contextmanager
def pings_stopped(scene: Scene) -> Iterator[str]:
    """The subnet in zone b lets no ICMP in; gives the ACL's id."""
    assert scene.landscape is not None
    ec2, subnet = scene.stack.client("ec2"), scene.landscape.subnets["b"]
    shown = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])
    acl = str(shown["NetworkAcls"][0]["NetworkAclId"])
    ec2.create_network_acl_entry(
        NetworkAclId=acl, RuleNumber=50, Protocol="1", RuleAction="deny", Egress=False, CidrBlock="0.0.0.0/0",
        IcmpTypeCode={"Type": -1, "Code": -1},
    )  # fmt: skip
    try:
        yield acl
    finally:
        ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=50, Egress=False)


def add_annotated(
    scene: Scene, machine: Machine, name: str, annotations: Mapping[str, str], namespace: str = "default"
) -> PlacedPod:
    """ADD one pod that has annotations. Raises :class:`tests.sandbox.cni.CniError`."""
    pod = Pod.new(name, namespace)
    result = Runtime(machine.node, capabilities={ANNOTATIONS: dict(annotations)}).add(pod)
    (placed,) = place(scene, machine, [(pod, result)])
    scene.pods.append(placed)
    return placed
