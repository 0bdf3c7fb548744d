"""What a batch costs of EC2's API, counted where the requests leave; and in which order it asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
from berth.contract import Policy
from berth.ec2 import Boto3Ec2
from berth.events import Signal
from berth.reconcile import reconcile
from moto import mock_aws

from tests.unit.control.fakes import ARN_PREFIX, Scene, settings

NODES = 10


@pytest.fixture
def sent() -> Iterator[tuple[Any, list[tuple[str, dict[str, Any]]]]]:
    """A client of an emulated EC2 with a VPC whose subnet and group are allowed, and every request it sends."""
    with mock_aws():
        client = boto3.client("ec2", region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test")
        vpc = client.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = client.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/20", AvailabilityZone="eu-west-1a")["Subnet"]
        client.create_tags(Resources=[subnet["SubnetId"]], Tags=[{"Key": "berth:allowed", "Value": ""}])
        tags: list[Any] = [{"Key": "kubernetes.io/cluster/demo", "Value": "owned"}]
        image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        client.run_instances(
            ImageId=image,
            InstanceType="m5.large",
            MinCount=NODES,
            MaxCount=NODES,
            SubnetId=subnet["SubnetId"],
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )
        requests: list[tuple[str, dict[str, Any]]] = []

        def leaves(params: dict[str, Any], model: Any, **_: Any) -> None:
            requests.append((model.name, params["body"]))

        client.meta.events.register("before-call.ec2", leaves)
        yield client, requests


def test_a_steady_batch_costs_one_describe_of_instances_by_filter_and_one_of_interfaces(
    sent: tuple[Any, list[tuple[str, dict[str, Any]]]],
) -> None:
    client, requests = sent
    ids = [i["InstanceId"] for r in client.describe_instances()["Reservations"] for i in r["Instances"]]
    scene = Scene()
    edges = replace(
        scene.edges,
        ec2=Boto3Ec2(client, client, ARN_PREFIX),
        settings=settings(defaults=Policy(mode="addresses", warm_addresses=4)),
    )
    batch = [Signal(i, "test") for i in ids]
    assert not reconcile(edges, batch, 50.0).failed
    first = Counter(action for action, _ in requests)
    assert first["AssignPrivateIpAddresses"] == NODES
    requests.clear()
    assert not reconcile(edges, batch, 50.0).failed
    assert Counter(action for action, _ in requests) == {"DescribeInstances": 1, "DescribeNetworkInterfaces": 1}
    for _, body in requests:
        assert body["Filter.1.Name"] in ("instance-id", "tag:berth:instance")
        assert len([k for k in body if k.startswith("Filter.1.Value")]) == NODES
        assert not any(k.startswith("InstanceId") for k in body)


class Logged:
    """An edge that notes in ``log`` what is asked of it: the method's name and its first argument."""

    def __init__(self, edge: object, log: list[tuple[str, Any]]) -> None:
        self._edge, self._log = edge, log

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._edge, name)

        def call(first: Any, *others: Any) -> Any:
            self._log.append((name, first))
            return method(first, *others)

        return call


def test_the_leases_of_a_batch_are_taken_before_it_is_described_and_only_those_nodes_are() -> None:
    """What was described before a lease was had may be older than what its last holder has done."""
    scene, log = Scene(), list[tuple[str, Any]]()
    ids = [f"i-0123456789abcdef{n}" for n in range(4)]
    *mine, busy = ids
    for instance_id in ids:
        scene.ec2.launch(instance_id)
    assert scene.store.take(ARN_PREFIX + busy, "somebody else", scene.machine.now, scene.machine.now + 80)
    ec2: Any = Logged(scene.ec2, log)
    store: Any = Logged(scene.store, log)
    result = reconcile(replace(scene.edges, ec2=ec2, store=store), [Signal(i, "test") for i in reversed(ids)], 50.0)
    assert not result.failed
    leases, described = log[: len(ids)], log[len(ids) : len(ids) + 3]
    assert leases == [("take", ARN_PREFIX + i) for i in ids]
    assert sorted(described) == [("instances", mine), ("interfaces", mine), ("load", [ARN_PREFIX + i for i in mine])]
    assert [first for name, first in log if name == "release"] == [ARN_PREFIX + i for i in mine]
    assert [name for name, _ in log].count("instances") == 1
