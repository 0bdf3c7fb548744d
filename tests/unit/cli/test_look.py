"""`berth look`: a dry run shows what would be done and does nothing; without it the functions are asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
from berth.cli import look
from berth.cli.decoding import decode
from berth.cli.main import main
from berth.contract import Policy
from berth.decision import replan
from berth.settings import Settings
from moto import mock_aws

from tests.unit.dynamo import make_table

SETTINGS = Settings(("demo",), "nodes", "", "", "berth", "arn:aws:ec2:eu-west-1:123456789012:instance/", Policy())


@pytest.fixture(scope="module")
def account() -> Iterator[Any]:
    with mock_aws(), pytest.MonkeyPatch.context() as monkeypatch:
        session = boto3.Session("test", "test", region_name="eu-west-1")
        make_table(session.client("dynamodb"), "nodes")
        queue = session.client("sqs").create_queue(QueueName="events")["QueueUrl"]
        monkeypatch.setattr(look, "session", lambda _: session)
        monkeypatch.setattr(look, "stack_settings", lambda *_: replace(SETTINGS, events_queue_url=queue))
        yield session


@pytest.fixture
def instance(account: Any) -> str:
    tags = [{"Key": "kubernetes.io/cluster/demo", "Value": "owned"}, {"Key": "berth:warm-addresses", "Value": "many"}]
    launched = account.client("ec2").run_instances(
        ImageId="ami-12c6146b",
        InstanceType="m5.large",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )
    return str(launched["Instances"][0]["InstanceId"])


def test_a_dry_run_shows_the_node_the_plan_and_why(instance: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", instance, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"{instance} m5.large running" in said
    assert "berth:warm-addresses=many" in said
    assert "the node has not reported" in said
    assert "8 addresses" in said
    assert "AssignPrefixes(" in said
    assert "Outcome: " in said


def test_a_dry_run_changes_nothing(account: Any, instance: str, capsys: pytest.CaptureFixture[str]) -> None:
    ec2, sqs = account.client("ec2"), account.client("sqs")
    before = ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert main(["look", instance, "--dry-run"]) == 0
    assert ec2.describe_network_interfaces()["NetworkInterfaces"] == before
    assert account.client("dynamodb").scan(TableName="nodes")["Items"] == []
    assert not sqs.receive_message(QueueUrl=sqs.get_queue_url(QueueName="events")["QueueUrl"]).get("Messages")


def test_as_json_it_is_a_decision_that_can_be_replayed(instance: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", instance, "--dry-run", "--json"]) == 0
    decision, unknown = decode(json.loads(capsys.readouterr().out)["decision"])
    assert (replan(decision), unknown) == (decision.plan, ())


@pytest.mark.parametrize("tags", [[], [{"Key": "kubernetes.io/cluster/other", "Value": "owned"}]])
def test_an_instance_that_is_no_node_is_told_to_be_none(
    account: Any, instance: str, tags: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    ec2 = account.client("ec2")
    ec2.delete_tags(Resources=[instance], Tags=[{"Key": "kubernetes.io/cluster/demo"}])
    if tags:
        ec2.create_tags(Resources=[instance], Tags=tags)
    assert main(["look", instance, "--dry-run"]) == 0
    assert capsys.readouterr().out == "Outcome: not a node\n"


def test_without_dry_run_the_functions_are_asked(
    account: Any, instance: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["look", instance]) == 0
    sqs = account.client("sqs")
    url = sqs.get_queue_url(QueueName="events")["QueueUrl"]
    (message,) = sqs.receive_message(QueueUrl=url)["Messages"]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    assert instance in message["Body"]
    assert instance in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["look", "node-7"], ["look", "i-0123456789abcdef0", "--json"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("berth: ")
