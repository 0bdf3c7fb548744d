"""The token buckets, the counts, the scripted faults and the lag, as clients meet them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError

from tests.sandbox.cloud import consistency
from tests.sandbox.cloud.faults import Fault
from tests.sandbox.cloud.throttle import Bucket, Limit, limit_of

from .conftest import Cloud, Network, refused


@pytest.fixture
def throttled(cloud: Cloud) -> Iterator[Cloud]:
    cloud.throttle.reset()
    cloud.throttle.enabled = True
    yield cloud
    cloud.throttle.enabled = False
    cloud.throttle.set_scale(1.0)
    cloud.throttle.reset()


@pytest.fixture
def faulty(cloud: Cloud) -> Iterator[Cloud]:
    yield cloud
    cloud.faults.clear()


@pytest.fixture
def lag() -> Iterator[list[float]]:
    """A clock that the test moves, with a lag of 10 s on it."""
    now = [0.0]
    consistency.set_lag(10.0, clock=lambda: now[0])
    yield now
    consistency.set_lag(0)


@pytest.mark.parametrize(
    ("action", "params", "capacity", "refill"),
    [
        ("AssignPrivateIpAddresses", {}, 100, 5),
        ("CreateNetworkInterface", {}, 100, 5),
        ("ModifyNetworkInterfaceAttribute", {}, 100, 5),
        ("AttachNetworkInterface", {}, 50, 5),
        ("DetachNetworkInterface", {}, 50, 5),
        ("CreateTags", {}, 100, 10),
        ("RunInstances", {}, 5, 2),
        ("DescribeInstances", {"Filter.1.Name": "tag-key"}, 100, 20),
        ("DescribeInstances", {"MaxResults": "100"}, 100, 20),
        ("DescribeInstances", {}, 50, 10),
        ("DescribeNetworkInterfaces", {"NetworkInterfaceId.1": "eni-1"}, 50, 10),
        ("DescribeSubnets", {}, 100, 20),
    ],
)
def test_each_action_has_the_documented_bucket(
    action: str, params: dict[str, str], capacity: float, refill: float
) -> None:
    limit = limit_of(action, params)
    assert (limit.capacity, limit.refill) == (capacity, refill)


def test_filtered_and_unfiltered_describes_draw_from_different_buckets() -> None:
    assert limit_of("DescribeInstances", {}).name != limit_of("DescribeInstances", {"Filter.1.Name": "x"}).name


def test_a_bucket_refills_up_to_its_capacity() -> None:
    bucket = Bucket(Limit("x", 2, 0.5), now=0)
    assert [bucket.take(0), bucket.take(0), bucket.take(0)] == [True, True, False]
    assert [bucket.take(1.9), bucket.take(2), bucket.take(2)] == [False, True, False]
    assert [bucket.take(100), bucket.take(100), bucket.take(100)] == [True, True, False]


def test_an_empty_bucket_answers_request_limit_exceeded(throttled: Cloud) -> None:
    throttled.throttle.set_scale(0.03)
    ec2 = throttled.client("ec2")
    for _ in range(3):
        ec2.describe_subnets()
    with refused("RequestLimitExceeded", "Request limit exceeded."):
        ec2.describe_subnets()
    ec2.describe_vpcs()
    assert throttled.throttle.calls() == {"DescribeSubnets": 3, "DescribeVpcs": 1}
    assert throttled.throttle.throttled() == {"DescribeSubnets": 1}


def test_calls_are_counted_by_action_and_outcome(throttled: Cloud, network: Network, ec2: Any) -> None:
    throttled.throttle.reset()
    with refused("InvalidNetworkInterfaceID.NotFound"):
        ec2.delete_network_interface(NetworkInterfaceId="eni-0123456789abcdef0")
    ec2.delete_network_interface(NetworkInterfaceId=network.interface(network.subnet("10.0.1.0/24")))
    outcomes = throttled.throttle.outcomes()
    assert outcomes["DeleteNetworkInterface", "ok"] == 1
    assert outcomes["DeleteNetworkInterface", "InvalidNetworkInterfaceID.NotFound"] == 1
    assert throttled.throttle.calls()["DeleteNetworkInterface"] == 2


def test_other_services_are_neither_throttled_nor_counted(throttled: Cloud) -> None:
    throttled.throttle.set_scale(0.0)
    throttled.client("sqs").list_queues()
    assert throttled.throttle.outcomes() == {}


def test_a_fault_before_the_call_leaves_no_effect(faulty: Cloud, network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    faulty.faults.add(Fault("CreateNetworkInterface", code="Unavailable", status=503))
    with refused("Unavailable"):
        network.interface(subnet)
    assert network.free(subnet) == 251
    network.interface(subnet)
    assert network.free(subnet) == 250


def test_a_lost_answer_leaves_its_effect_and_a_client_token_saves_the_retry(faulty: Cloud, network: Network) -> None:
    subnet = network.subnet("10.0.1.0/24")
    faulty.faults.add(Fault("CreateNetworkInterface", when="after"))
    made = faulty.client("ec2", attempts=3).create_network_interface(SubnetId=subnet, ClientToken="lost")
    assert faulty.faults.hits() == 1
    assert network.free(subnet) == 250
    assert network.shown(made["NetworkInterface"]["NetworkInterfaceId"])["SubnetId"] == subnet


def test_a_connection_that_is_cut_leaves_the_effect_and_no_answer(faulty: Cloud) -> None:
    sqs = faulty.client("sqs")
    faulty.faults.add(Fault("CreateQueue", when="cut", service="sqs"))
    with pytest.raises(ConnectionClosedError):
        sqs.create_queue(QueueName="cut-off")
    assert sqs.get_queue_url(QueueName="cut-off")["QueueUrl"].endswith("/cut-off")


def test_a_lost_answer_to_assign_by_count_and_a_retry_assign_twice(faulty: Cloud, network: Network) -> None:
    interface = network.interface(network.subnet("10.0.1.0/24"))
    faulty.faults.add(Fault("AssignPrivateIpAddresses", when="after"))
    faulty.client("ec2", attempts=3).assign_private_ip_addresses(
        NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=1
    )
    assert len(network.shown(interface)["PrivateIpAddresses"]) == 3


def test_a_fault_hits_the_calls_it_was_scripted_for(faulty: Cloud, network: Network, ec2: Any) -> None:
    mine, other = (network.interface(network.subnet(cidr)) for cidr in ("10.0.1.0/24", "10.0.2.0/24"))
    faulty.faults.add(
        Fault("AssignPrivateIpAddresses", skip=1, times=1, matches=lambda p: p["NetworkInterfaceId"] == mine)
    )

    def assign(interface: str) -> None:
        ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=1)

    assign(other)
    assign(mine)
    assign(other)
    with refused("InternalError"):
        assign(mine)
    assign(mine)
    assert faulty.faults.hits() == 1


def test_other_protocols_get_faults_in_their_own_form(faulty: Cloud) -> None:
    faulty.faults.add(Fault("ListTables", service="dynamodb", code="InternalServerError"))
    with refused("InternalServerError"):
        faulty.client("dynamodb").list_tables()


def test_describes_lag_behind_changes(network: Network, ec2: Any, lag: list[float]) -> None:
    subnet = network.subnet("10.0.1.0/24")
    lag[0] = 100.0
    interface = network.interface(subnet)
    with refused("InvalidNetworkInterfaceID.NotFound"):
        network.shown(interface)
    lag[0] = 111.0
    assert len(network.shown(interface)["PrivateIpAddresses"]) == 1
    ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=2)
    assert len(network.shown(interface)["PrivateIpAddresses"]) == 1
    lag[0] = 122.0
    assert len(network.shown(interface)["PrivateIpAddresses"]) == 3
    ec2.delete_network_interface(NetworkInterfaceId=interface)
    assert network.shown(interface)["NetworkInterfaceId"] == interface
    with refused("InvalidNetworkInterfaceID.NotFound"):
        ec2.delete_network_interface(NetworkInterfaceId=interface)
    lag[0] = 133.0
    with refused("InvalidNetworkInterfaceID.NotFound"):
        network.shown(interface)


def test_instances_lag_behind_too(network: Network, ec2: Any, lag: list[float]) -> None:
    subnet = network.subnet("10.0.1.0/24")
    lag[0] = 100.0
    instance = network.instance(subnet)
    with refused("InvalidInstanceID.NotFound"):
        network.state(instance)
    lag[0] = 111.0
    assert network.state(instance) == "running"
    ec2.stop_instances(InstanceIds=[instance])
    assert network.state(instance) == "running"
    lag[0] = 122.0
    assert network.state(instance) == "stopped"
