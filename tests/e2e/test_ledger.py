"""Who had which address, asked with the operator's command: pods made, deleted, and lost with their node."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import pytest
from berth.contract import Order, PodLease, Report

from tests.e2e.scenes import FunctionLog, dead_letters, new_scene, node_client, refusal, send_report
from tests.sandbox.account import wait_for
from tests.sandbox.demo.asking import berth, found
from tests.sandbox.demo.stages import Machine, PlacedPod, Scene, add_pods, remove_pods, start_agents, terminate
from tests.sandbox.landscape import NodeSpec
from tests.sandbox.stack import NETWORK_ENDPOINT

pytestmark = pytest.mark.long

TAGS: Final = {"mode": "prefixes", "max-pods": "16", "warm-addresses": "8", "cooldown-seconds": "2"}
REFUSED: Final = {"AccessDenied", "AccessDeniedException"}


def leases(scene: Scene, pod: PlacedPod) -> list[dict[str, Any]]:
    """What ``berth where`` knows of a pod."""
    listed: list[dict[str, Any]] = found(scene, "where", f"{pod.pod.namespace}/{pod.pod.name}")["leases"]
    return listed


def one_that(scene: Scene, pod: PlacedPod, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The pod's only lease, once it is so."""

    def now() -> dict[str, Any] | None:
        known = leases(scene, pod)
        assert len(known) <= 1, known
        return known[0] if known and condition(known[0]) else None

    lease = wait_for(f"the lease of {pod.pod.name}", now, 60, every=0.5)
    assert lease is not None
    return lease


def moved(text: str, seconds: float) -> str:
    when = datetime.fromisoformat(text) + timedelta(seconds=seconds)
    return when.astimezone(UTC).isoformat()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    zones = {"alpha": "a", "beta": "b", "mallory": "a"}
    specs = [NodeSpec(name, zone, "t3.micro", TAGS) for name, zone in zones.items()]
    with new_scene(specs) as scene:
        start_agents(scene, [scene.machines[name] for name in ("alpha", "beta")])
        yield scene
        assert dead_letters(scene) == {}


@pytest.fixture(scope="module")
def pods(scene: Scene) -> list[PlacedPod]:
    return add_pods(scene, scene.machines["alpha"], 4, "web")


def test_a_running_pod_is_found_by_address_name_and_uid(scene: Scene, pods: list[PlacedPod]) -> None:
    for pod in pods:
        lease = one_that(scene, pod, lambda lease: bool(lease["goes_on"]))
        assert (lease["address"], lease["uid"], lease["to"]) == (pod.address, pod.pod.uid, None)
        assert (lease["node"], lease["interface"]) == (scene.machines["alpha"].id, pod.device)
        assert found(scene, "where", pod.pod.uid)["leases"][0]["address"] == pod.address
        answer = found(scene, "who", pod.address)
        assert (answer["state"], [v["name"] for v in answer["leases"]]) == ("held", [pod.pod.name])
    code, text = berth(scene, "who", pods[0].address)
    assert code == 0
    assert f"held by {pods[0].pod.namespace}/{pods[0].pod.name}" in text


def test_a_deleted_pod_had_its_address_until_then(scene: Scene, pods: list[PlacedPod]) -> None:
    pod = pods[0]
    one_that(scene, pod, lambda lease: bool(lease["goes_on"]))
    before = time.time()
    remove_pods(scene, scene.machines["alpha"], [pod])
    lease = one_that(scene, pod, lambda lease: bool(lease["to"]))
    assert before - 1 <= datetime.fromisoformat(lease["to"]).timestamp() <= time.time() + 1
    then = found(scene, "who", pod.address, "--at", moved(lease["to"], -0.001))
    assert (then["state"], then["leases"][0]["uid"]) == ("held", pod.pod.uid)
    after = found(scene, "who", pod.address, "--at", lease["to"])
    assert after["state"] == "none"
    code, text = berth(scene, "who", pod.address, "--at", moved(lease["from"], -1))
    assert (code, "no lease is recorded" in text) == (3, True)


def test_an_agent_that_is_killed_forgets_no_lease_and_tells_none_twice(scene: Scene, pods: list[PlacedPod]) -> None:
    alpha = scene.machines["alpha"]
    (late,) = add_pods(scene, alpha, 1, "late")
    alpha.node.stop_agent(signal.SIGKILL)  # most likely before its report of that pod
    host, port = NETWORK_ENDPOINT
    alpha.node.start_agent({"AWS_ENDPOINT_URL": f"http://{host}:{port}"})
    for pod in (late, *pods[1:]):
        one_that(scene, pod, lambda lease: bool(lease["goes_on"]))


class TestMallory:
    """A node that lies. No agent runs there; its credentials come from the instance's own metadata."""

    def report(self, sequence: int, *rows: PodLease) -> Report:
        told, now = len(rows), time.time()
        return Report(Order(5, sequence), 0, 0, epoch="mallory-1", leases=rows, leases_told=told, leases_until=now)

    def test_it_cannot_claim_the_address_of_another_node(self, scene: Scene, pods: list[PlacedPod]) -> None:
        victim, log = pods[2], FunctionLog(scene)
        one_that(scene, victim, lambda lease: bool(lease["goes_on"]))
        now = time.time()
        rows = (
            PodLease(1, victim.address, now - 1, namespace="kube-system", name="innocent"),
            PodLease(2, victim.address, now - 500, ended=now - 400, namespace="kube-system", name="innocent"),
        )
        sqs = node_client(scene, scene.machines["mallory"].id, "sqs")
        send_report(sqs, scene, self.report(1, *rows))
        wait_for("the refusals to be counted", lambda: log.metric("LeasesRefused") == 2)
        answer = found(scene, "who", victim.address)
        assert [v["name"] for v in answer["leases"]] == [victim.pod.name]
        assert found(scene, "where", "kube-system/innocent")["leases"] == []

    def test_it_is_believed_of_its_own(self, scene: Scene) -> None:
        """So the reports above were refused for the right reason."""
        record = scene.stack.record(scene.machines["mallory"].id)
        assert record is not None
        own = record.interfaces[0].assignments[0].cidr.partition("/")[0]
        row = PodLease(3, own, time.time() - 1, namespace="default", name="own")
        send_report(node_client(scene, scene.machines["mallory"].id, "sqs"), scene, self.report(2, row))
        (lease,) = wait_for("the lease", lambda: found(scene, "where", "default/own")["leases"])
        assert lease["address"] == own

    def test_it_can_neither_read_nor_write_the_ledger(self, scene: Scene, pods: list[PlacedPod]) -> None:
        table = node_client(scene, scene.machines["mallory"].id, "dynamodb")
        name = scene.stack.outputs["LedgerTableName"]
        key = {"address": {"S": pods[2].address}, "lease": {"S": "0"}}
        query = {"KeyConditionExpression": "address = :a", "ExpressionAttributeValues": {":a": key["address"]}}
        assert refusal(table.get_item, TableName=name, Key=key) in REFUSED
        assert refusal(table.query, TableName=name, **query) in REFUSED
        assert refusal(table.scan, TableName=name) in REFUSED
        assert refusal(table.put_item, TableName=name, Item=key) in REFUSED
        assert refusal(table.batch_write_item, RequestItems={name: [{"PutRequest": {"Item": key}}]}) in REFUSED


def test_what_a_node_held_when_it_was_terminated_ended_between_its_last_report_and_that(scene: Scene) -> None:
    beta: Machine = scene.machines["beta"]
    pods = add_pods(scene, beta, 2, "lost")
    for pod in pods:
        one_that(scene, pod, lambda lease: bool(lease["goes_on"]))
    terminate(scene, beta)
    for pod in pods:
        lease = one_that(scene, pod, lambda lease: bool(lease["over_by"]))
        assert (lease["goes_on"], lease["to"]) == (False, None)
        assert lease["why"] == "the node was terminated"
        who = partial(found, scene, "who", pod.address, "--at")
        assert who(lease["held_until"])["state"] == "held"
        between = who(moved(lease["held_until"], 0.01))
        assert (between["state"], "the node was terminated" in between["reason"]) == ("unknown", True)
        assert who(lease["over_by"])["state"] == "none"
