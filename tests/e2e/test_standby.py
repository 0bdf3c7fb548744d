"""A stack with a standby pool: a node serves after one attach, what follows it follows, and nothing is left."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.scenes import QUICK, FunctionLog, assigned, dead_letters, mutations, new_scene, settle, tell
from tests.sandbox.account import wait_for
from tests.sandbox.cloud.deploy import deploy, this_runtime
from tests.sandbox.demo.stages import REPOSITORY, Scene, launch
from tests.sandbox.landscape import CLUSTER, NodeSpec

TWO_LINKS = NodeSpec("node", "a", "t3.micro", {"mode": "prefixes", "max-pods": "32", "minimum-addresses": "20"})
"""A t3.micro has one prefix on each of two interfaces."""
COUNT = 2


@dataclass(slots=True)
class Site:
    scene: Scene

    @property
    def ec2(self) -> Any:
        return self.scene.stack.client("ec2")

    def pool(self, count: int | None) -> None:
        """The stack with a pool of so many (None: without), and the pool as it is to be."""
        landscape = self.scene.landscape
        assert landscape is not None
        entry = f"{landscape.subnets['a']}/{landscape.security_group}/prefixes=1/count={count}"
        parameters = {
            "ClusterNames": CLUSTER,
            "LambdaRuntime": this_runtime(),
            "Architecture": "arm64" if platform.machine() == "aarch64" else "x86_64",
            "ReconcileDelaySeconds": "1",
            "StandbyPools": entry if count is not None else "",
        }
        deploy(self.scene.endpoint, REPOSITORY / "template.yaml", "berth", parameters)
        tell(self.scene, "fire", {"rule": "FillRule"})
        wait_for("the pool to be at its level", lambda: len(self.ready()) == (count or 0))

    def standby(self) -> list[dict[str, Any]]:
        """Every interface that was made for a pool, wherever it is now."""
        found = self.ec2.describe_network_interfaces(Filters=[{"Name": "tag-key", "Values": ["berth:standby"]}])
        return list(found["NetworkInterfaces"])

    def ready(self) -> list[dict[str, Any]]:
        return [i for i in self.standby() if i["Status"] == "available" and "berth:instance" not in tags(i)]

    def items(self, kind: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Items of the table about standby interfaces."""
        table = self.scene.stack.outputs["TableName"]
        found = self.scene.stack.client("dynamodb").scan(TableName=table)["Items"]
        return [i for i in found if i["node"]["S"].startswith("standby#") and kind(i)]


def tags(interface: dict[str, Any]) -> dict[str, str]:
    return {t["Key"]: t["Value"] for t in interface.get("TagSet", ())}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_scene(settings=QUICK, parameters={"ReconcileDelaySeconds": "1"}) as scene:
        yield Site(scene)
        assert dead_letters(scene) == {}


def test_the_pool_is_filled_each_interface_with_its_prefixes_and_tags(site: Site) -> None:
    before = mutations(site.scene)
    site.pool(COUNT)
    assert mutations(site.scene) - before == {"CreateNetworkInterface": COUNT}
    for interface in site.ready():
        assert len(interface["Ipv4Prefixes"]) == 1
        assert tags(interface).keys() == {"berth:cluster", "berth:standby", "berth:created-at"}


def test_a_node_serves_after_one_attach_and_the_rest_follows(site: Site) -> None:
    before = mutations(site.scene)
    record = launch(site.scene, [TWO_LINKS])["node"]
    instance = site.scene.machines["node"].id
    assert assigned(record) == 32
    (mine,) = site.scene.stack.interfaces(instance)[1:]
    assert "berth:standby" in tags(mine)

    def settled() -> bool:
        (shown,) = site.scene.stack.interfaces(instance)[1:]
        return bool(shown["Attachment"]["DeleteOnTermination"]) and tags(shown).get("berth:instance") == instance

    wait_for("DeleteOnTermination and the tag", settled)
    settle(site.scene)
    made = mutations(site.scene) - before
    assert made == {
        "AssignPrivateIpAddresses": 1,
        "AttachNetworkInterface": 1,
        "ModifyNetworkInterfaceAttribute": 1,
        "CreateTags": 1,
    }
    assert assigned(site.scene.stack.record(instance)) == 32


def test_what_was_taken_is_made_again_once_it_is_the_nodes(site: Site) -> None:
    def full() -> bool:
        tell(site.scene, "fire", {"rule": "FillRule"})
        return len(site.ready()) == COUNT

    wait_for("the pool to be full", full, 60, every=1)


def test_a_node_that_ends_takes_it_along(site: Site) -> None:
    instance = site.scene.machines["node"].id
    site.ec2.terminate_instances(InstanceIds=[instance])
    wait_for("it to be deleted", lambda: site.scene.stack.interfaces_made_for(instance) == [])
    assert len(site.standby()) == COUNT


def test_a_claim_of_a_node_that_nobody_knows_is_looked_into_and_then_ended(site: Site) -> None:
    unknown, log = "i-00000000000beef00", FunctionLog(site.scene)
    (item, *_) = site.items(lambda i: "claimed_by" not in i and i["kind"]["S"].startswith("eni-"))

    def claimed(seconds: float) -> None:
        site.scene.stack.client("dynamodb").update_item(
            TableName=site.scene.stack.outputs["TableName"],
            Key={"node": item["node"], "kind": item["kind"]},
            UpdateExpression="SET claimed_by = :by, claimed_at = :at",
            ExpressionAttributeValues={":by": {"S": unknown}, ":at": {"N": str(time.time() - seconds)}},
        )
        tell(site.scene, "fire", {"rule": "FillRule"})

    claimed(700)
    wait_for("a look at the claimer", lambda: any(line.get("node") == unknown for line in log.lines()))
    claimed(4000)
    wait_for("it to be in its pool", lambda: not site.items(lambda i: i.get("claimed_by", {}).get("S") == unknown))


def test_without_the_parameter_nothing_is_left(site: Site) -> None:
    site.pool(None)
    assert site.standby() == []
    assert site.items(lambda i: "claimed_by" in i and "settled_at" not in i) == []


def test_a_bad_entry_stops_nothing(site: Site) -> None:
    parameters = {
        "ClusterNames": CLUSTER,
        "LambdaRuntime": this_runtime(),
        "Architecture": "arm64" if platform.machine() == "aarch64" else "x86_64",
        "StandbyPools": "rubbish",
    }
    deploy(site.scene.endpoint, REPOSITORY / "template.yaml", "berth", parameters)
    name = site.scene.stack.outputs["FillFunctionName"]
    answer = site.scene.stack.client("lambda").invoke(FunctionName=name)
    assert "FunctionError" not in answer
    assert b'"StandbyPoolsInvalid": 1' in answer["Payload"].read()
