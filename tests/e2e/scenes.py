"""Small scenes for tests that need a sandbox of their own, and what such tests ask of it.

One sandbox at a time runs in a world, so a module's scene ends with the module.
"""

from __future__ import annotations

import http.client
import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import boto3
from berth.contract import Record, Report, address_count, encode_report
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.sandbox import netns
from tests.sandbox.account import wait_for
from tests.sandbox.demo.asking import settle, tell, trail_tells
from tests.sandbox.demo.machine import QUICK, running_sandbox
from tests.sandbox.demo.report import Report as Said
from tests.sandbox.demo.stages import Machine, Scene, deploy_stack, launch
from tests.sandbox.landscape import REGION, NodeSpec
from tests.sandbox.stack import Settings
from tests.sandbox.world import ROOT

__all__ = [
    "QUICK",
    "BusListener",
    "FunctionLog",
    "ask_for_look",
    "assigned",
    "blocks_shown",
    "dead_letters",
    "faults",
    "instance_metadata",
    "mutations",
    "new_scene",
    "node_client",
    "refusal",
    "send_report",
    "settle",
    "tell",
    "trail_tells",
]

_READS: Final = ("Describe", "Get")


@contextmanager
def new_scene(
    specs: Sequence[NodeSpec] = (), settings: Settings = QUICK, parameters: Mapping[str, str] | None = None
) -> Iterator[Scene]:
    """A sandbox with the stack deployed and ``specs`` launched, without agents, for the length of a ``with`` block."""
    with running_sandbox(settings) as endpoint:
        scene = Scene(Said(out=io.StringIO()), endpoint)
        try:
            deploy_stack(scene, parameters)
            launch(scene, specs)
            yield scene
        finally:
            for machine in scene.machines.values():
                machine.node.stop_agent()


# ------------------------------------------------------------------------------------------------ the sandbox itself


@contextmanager
def faults(scene: Scene, *script: Mapping[str, Any]) -> Iterator[None]:
    """API calls fail as the script says (``tests.sandbox.cloud.faults.Fault``) until the block ends."""
    tell(scene, "faults", {"faults": list(script)})
    try:
        yield
    finally:
        tell(scene, "faults", {})


def ask_for_look(scene: Scene, instance_id: str) -> None:
    """Have a node looked at, as its agent's next report would, and wait until that is done."""
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))
    detail = {"instance-id": instance_id, "addresses": 1, "until": until}
    entry = {
        "EventBusName": scene.stack.outputs["BusName"],
        "Source": "berth.request",
        "DetailType": "Node Capacity Requested",
        "Detail": json.dumps(detail),
    }
    assert scene.stack.client("events").put_events(Entries=[entry])["FailedEntryCount"] == 0
    settle(scene)


def dead_letters(scene: Scene) -> dict[str, int]:
    """Queues of dead letters that are not empty, and how many each holds."""
    depths = scene.stack.sandbox("queues")
    return {name: sum(d.values()) for name, d in depths.items() if "DeadLetter" in name and sum(d.values())}


def mutations(scene: Scene) -> Counter[str]:
    """EC2 calls of Berth's functions that are no reads, by action, whatever their outcome."""
    calls = scene.stack.sandbox("calls").get("function", {})
    counts = {a.removeprefix("ec2:"): sum(o.values()) for a, o in calls.items() if a.startswith("ec2:")}
    return Counter({action: count for action, count in counts.items() if not action.startswith(_READS)})


class FunctionLog:
    """What ``reconcile_nodes`` prints from the making of this object on."""

    def __init__(self, scene: Scene) -> None:
        self._path = ROOT / "cloud" / "log" / f"{scene.stack.outputs['ReconcileFunctionName']}.log"
        self._from = self._path.stat().st_size if self._path.exists() else 0

    def lines(self) -> list[dict[str, Any]]:
        """Each printed JSON object."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._from)
            text = file.read().decode()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]

    def metric(self, name: str) -> int:
        """The sum of a metric, read from the embedded metric format as CloudWatch reads it."""
        documents = [line for line in self.lines() if "_aws" in line]
        names = [(d, m["Name"]) for d in documents for c in d["_aws"]["CloudWatchMetrics"] for m in c["Metrics"]]
        values = [d[n] for d, n in names if n == name]
        return int(sum(sum(v) if isinstance(v, list) else v for v in values))

    def about(self, message_id: str) -> list[dict[str, Any]]:
        """The log lines that carry a message's id."""
        return [line for line in self.lines() if line.get("message_id") == message_id]


class BusListener:
    """A rule and a queue that a user would add to hear what Berth tells on its bus."""

    def __init__(self, scene: Scene) -> None:
        self._sqs, events, bus = scene.stack.client("sqs"), scene.stack.client("events"), scene.stack.outputs["BusName"]
        self._url = self._sqs.create_queue(QueueName="heard")["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])["Attributes"]
        queue, pattern = attributes["QueueArn"], json.dumps({"source": ["berth"]})
        rule = events.put_rule(Name="hear", EventBusName=bus, EventPattern=pattern)["RuleArn"]
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": queue,
            "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self._sqs.set_queue_attributes(QueueUrl=self._url, Attributes={"Policy": policy})
        events.put_targets(Rule="hear", EventBusName=bus, Targets=[{"Id": "heard", "Arn": queue}])
        self.heard: list[dict[str, Any]] = []

    def all(self) -> list[dict[str, Any]]:
        """Every event so far."""
        while messages := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages", []):
            for message in messages:
                self.heard.append(json.loads(message["Body"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return self.heard

    def of(self, instance_id: str, detail_type: str) -> list[dict[str, Any]]:
        """The details of the events of a kind about an instance."""
        told = [e for e in self.all() if e["detail-type"] == detail_type]
        return [e["detail"] for e in told if e["detail"].get("instance-id") == instance_id]

    def wait_for(self, instance_id: str, detail_type: str) -> dict[str, Any]:
        """The first such event's detail."""
        return wait_for(f"{detail_type} about {instance_id}", partial(self.of, instance_id, detail_type), 60)[0]


# --------------------------------------------------------------------------------------------------- a node's own


@dataclass(frozen=True, slots=True)
class Metadata:
    """Instance metadata as a process in a network namespace gets it. ``netns`` is an instance id or a pod's."""

    netns: str
    timeout: float = 5.0

    def token(self) -> str:
        """A session token. ``TimeoutError`` where its answer does not arrive."""
        return self._ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "300"})

    def get(self, path: str) -> str:
        return self._ask("GET", path, {"X-aws-ec2-metadata-token": self.token()})

    def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        connection = http.client.HTTPConnection("169.254.169.254", timeout=self.timeout)
        try:
            with netns.inside(self.netns):
                connection.connect()
            connection.request(method, path, headers=dict(headers))
            answer = connection.getresponse()
            body = answer.read().decode()
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise PermissionError(f"{method} {path}: {answer.status}")
        return body


def instance_metadata(netns_name: str, timeout: float = 5.0) -> Metadata:
    """Metadata as it answers in a namespace."""
    return Metadata(netns_name, timeout)


def node_client(scene: Scene, instance_id: str, service: str) -> Any:
    """A boto3 client with the credentials that the instance's own metadata hands out."""
    metadata = instance_metadata(instance_id)
    roles = "/latest/meta-data/iam/security-credentials/"
    role = wait_for(f"the role of {instance_id}", lambda: _quietly(metadata, roles))
    found = json.loads(metadata.get(roles + role))
    return boto3.client(
        service,  # type: ignore[call-overload]
        region_name=REGION,
        endpoint_url=scene.endpoint,
        aws_access_key_id=found["AccessKeyId"],
        aws_secret_access_key=found["SecretAccessKey"],
        aws_session_token=found["Token"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def _quietly(metadata: Metadata, path: str) -> str:
    """Empty while the instance's network comes up."""
    try:
        return metadata.get(path)
    except OSError:
        return ""


def refusal(call: Any, **parameters: Any) -> str:
    """The error code that a boto3 call ends with, or "" if it is granted."""
    try:
        call(**parameters)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def send_report(client: Any, scene: Scene, report: Report | str) -> str:
    """Put a report (or any text) on node-reports and wait until it has been dealt with. Returns the message's id."""
    body = report if isinstance(report, str) else encode_report(report)
    sent = client.send_message(QueueUrl=scene.stack.outputs["NodeReportsQueueUrl"], MessageBody=body)
    settle(scene)
    return str(sent["MessageId"])


# ---------------------------------------------------------------------------------------------------- what nodes have


def assigned(record: Record | None) -> int:
    """How many addresses a record lists."""
    return sum(address_count(a.cidr) for i in record.interfaces for a in i.assignments) if record else 0


def blocks_shown(scene: Scene, machine: Machine | str) -> set[str]:
    """Every block that EC2 shows on the instance's interfaces, primary addresses left out."""
    instance_id = machine if isinstance(machine, str) else machine.id
    return set(_blocks(scene.stack.interfaces(instance_id)))


def _blocks(interfaces: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for interface in interfaces:
        yield from (a["PrivateIpAddress"] + "/32" for a in interface["PrivateIpAddresses"] if not a["Primary"])
        yield from (p["Ipv4Prefix"] for p in interface.get("Ipv4Prefixes", []))
