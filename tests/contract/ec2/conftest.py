"""The simulated EC2 behind a real HTTP server, with every answer checked against botocore's model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.model import ServiceModel
from moto.core.base_backend import BackendDict

from tests.sandbox.cloud import ec2_additions
from tests.sandbox.cloud.callers import locked
from tests.sandbox.cloud.ec2_additions import Timing
from tests.sandbox.cloud.faults import Faults
from tests.sandbox.cloud.lock import API_LOCK
from tests.sandbox.cloud.server import Server, moto_app
from tests.sandbox.cloud.snapshot import REGION
from tests.sandbox.cloud.throttle import Throttle
from tests.sandbox.cloud.timers import TIMERS

from .shapes import violations

AT_ONCE = Timing(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Cloud:
    """A running server. ``client`` makes boto3 clients; EC2's check every answer against botocore's model."""

    port: int
    throttle: Throttle
    faults: Faults

    def client(self, service: str, attempts: int = 1) -> Any:
        made = boto3.client(
            service,  # type: ignore[call-overload]
            region_name=REGION,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"mode": "standard", "total_max_attempts": attempts}, max_pool_connections=32),
        )
        if service == "ec2":
            made.meta.events.register("response-received.ec2", _checker(made.meta.service_model))
        return made


def _checker(model: ServiceModel) -> Callable[..., None]:
    def check(response_dict: dict[str, Any], event_name: str, **_: Any) -> None:
        if response_dict["status_code"] < 300:
            name = event_name.rpartition(".")[2]
            wrong = violations(model.operation_model(name), response_dict["body"])
            assert not wrong, f"{name}: {wrong}"

    return check


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """An empty account for the tests of one module; changes take no time unless a test says otherwise."""
    ec2_additions.install(AT_ONCE)
    with API_LOCK:
        BackendDict.reset()
    faults = Faults(locked(moto_app()))
    throttle = Throttle(faults, enabled=False)
    server = Server(throttle)
    try:
        yield Cloud(server.listen(), throttle, faults)
    finally:
        server.close()
        TIMERS.close()
        with API_LOCK:
            BackendDict.reset()


@pytest.fixture(scope="module")
def ec2(cloud: Cloud) -> Any:
    return cloud.client("ec2")


@pytest.fixture
def timing() -> Iterator[Callable[..., None]]:
    """``timing(pending=0.2)`` gives transitions a duration until the test ends."""
    yield lambda **seconds: ec2_additions.install(Timing(**{**dict.fromkeys(AT_ONCE.__slots__, 0.0), **seconds}))
    ec2_additions.install(AT_ONCE)


@dataclass(frozen=True)
class Network:
    """A VPC of a test's own. ``subnet`` makes further subnets in it."""

    ec2: Any
    vpc: str

    def subnet(self, cidr: str, zone: str = "a") -> str:
        made = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=cidr, AvailabilityZone=REGION + zone)
        return str(made["Subnet"]["SubnetId"])

    def interface(self, subnet: str, **parameters: Any) -> str:
        made = self.ec2.create_network_interface(SubnetId=subnet, **parameters)
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    def instance(self, subnet: str, kind: str = "m5.large", **parameters: Any) -> str:
        asked = {"ImageId": "ami-1e749f67", "InstanceType": kind, "MinCount": 1, "MaxCount": 1, "SubnetId": subnet}
        launched = self.ec2.run_instances(**{k: v for k, v in (asked | parameters).items() if v is not None})
        return str(launched["Instances"][0]["InstanceId"])

    def shown(self, interface: str) -> dict[str, Any]:
        found = self.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])
        return dict(found["NetworkInterfaces"][0])

    def state(self, instance: str) -> str:
        found = self.ec2.describe_instances(InstanceIds=[instance])
        return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])

    def free(self, subnet: str) -> int:
        return int(self.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailableIpAddressCount"])


@pytest.fixture
def network(ec2: Any) -> Network:
    """A fresh VPC: its address range may be the same in each test."""
    return Network(ec2, ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"])


@contextmanager
def refused(code: str, text: str = "") -> Iterator[None]:
    """The call in the block fails with EC2's ``code`` and a message that contains ``text``."""
    with pytest.raises(ClientError) as caught:
        yield
    error = caught.value.response["Error"]
    assert (error["Code"], text in error["Message"]) == (code, True), error


@dataclass(frozen=True)
class Events:
    """What a rule on the default bus delivered to a queue of the test's own."""

    sqs: Any
    queue: str

    def take(self) -> list[dict[str, Any]]:
        """All events that are there now, in order of arrival, removed from the queue."""
        found: list[dict[str, Any]] = []
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return found


@pytest.fixture
def events(cloud: Cloud, request: pytest.FixtureRequest) -> Iterator[Events]:
    """Every event of ``aws.ec2`` and ``aws.autoscaling``, by way of a rule as a stack would deploy it."""
    sqs, bus = cloud.client("sqs"), cloud.client("events")
    queue = sqs.create_queue(QueueName=f"seen-{abs(hash(request.node.name))}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allowed = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage"}
    policy = {"Version": "2012-10-17", "Statement": [{**allowed, "Resource": arn}]}
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": json.dumps(policy)})
    bus.put_rule(
        Name="seen", EventPattern=json.dumps({"source": ["aws.ec2", "aws.autoscaling"], "account": ["123456789012"]})
    )
    bus.put_targets(Rule="seen", Targets=[{"Id": "queue", "Arn": arn}])
    yield Events(sqs, queue)
    bus.remove_targets(Rule="seen", Ids=["queue"])
    bus.delete_rule(Name="seen")
    sqs.delete_queue(QueueUrl=queue)
