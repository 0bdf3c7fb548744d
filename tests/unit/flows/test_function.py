"""The function on S3, DynamoDB and EC2 as moto has them: its event in, its file and metrics out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
from berth.events import MalformedEventError
from berth.events.flow_log_object import FlowObject, read_flow_object
from berth.ledger import DynamoLedger
from moto import mock_aws

from tests.unit.control.stack_template import ROOT
from tests.unit.control.test_functions import Context, load
from tests.unit.dynamo import make_ledger, make_table
from tests.unit.flows.flow_world import START, fact, line, text_object

KEY = "AWSLogs/123456789012/vpcflowlogs/eu-west-1/2026/11/25/x.log.gz"
ENVIRONMENT = {
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "CLUSTER_NAMES": "demo",
    "TABLE_NAME": "nodes",
    "NODE_EVENTS_QUEUE_URL": "https://sqs/events",
    "NODE_REPORTS_QUEUE_ARN": "arn:aws:sqs:eu-west-1:123456789012:reports",
    "BUS_NAME": "berth",
    "INSTANCE_ARN_PREFIX": "arn:aws:ec2:eu-west-1:123456789012:instance/",
    "NO_SNAT_CIDRS": "",
    "DEFAULT_MODE": "prefixes",
    "DEFAULT_WARM_ADDRESSES": "8",
    "DEFAULT_MINIMUM_ADDRESSES": "0",
    "DEFAULT_MAX_PODS": "110",
    "DEFAULT_COOLDOWN_SECONDS": "120",
    "RECONCILE_DELAY_SECONDS": "15",
    "SUBNET_LOW_PERCENT": "10",
    "LEDGER_TABLE_NAME": "ledger",
    "LEDGER_RETENTION_DAYS": "90",
    "FLOWS_BUCKET": "pods",
    "POWERTOOLS_METRICS_NAMESPACE": "Berth",
    "POWERTOOLS_SERVICE_NAME": "berth-attribute-flows",
}


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with mock_aws():
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        ec2: Any
        s3: Any
        dynamo: Any
        ec2, s3, dynamo = (boto3.client(s, region_name="eu-west-1") for s in ("ec2", "s3", "dynamodb"))
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        monkeypatch.setenv("FLOWS_VPC", vpc)
        for bucket in ("flow-logs", "pods"):
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        make_table(dynamo, "nodes")
        make_ledger(dynamo, "ledger")
        lease = fact("web", "10.0.1.20", START - 500.0, START + 500.0, subnet_id=subnet)
        DynamoLedger(dynamo, "ledger", 9000).write([lease])
        s3.put_object(Bucket="flow-logs", Key=KEY, Body=text_object(line(vpc_id=vpc)))
        yield load("attribute_flows")


def event(key: str = KEY, etag: str | None = None) -> dict[str, Any]:
    (record,) = json.loads((ROOT / "events" / "flow-log-object.json").read_text())["Records"]
    body = json.loads(record["body"])
    known = boto3.client("s3").head_object(Bucket="flow-logs", Key=KEY)["ETag"].strip('"')
    body["detail"] |= {"bucket": {"name": "flow-logs"}, "object": {"key": key, "size": 99, "etag": etag or known}}
    return {"Records": [{**record, "body": json.dumps(body)}]}


def told(output: str) -> dict[str, float]:
    lines = [json.loads(one) for one in output.splitlines() if "_aws" in one]
    return {k: v[0] if isinstance(v, list) else v for one in lines for k, v in one.items() if k != "_aws"}


def test_an_object_is_attributed_and_counted(app: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.handler(event(), Context()) == {"batchItemFailures": []}
    s3 = boto3.client("s3")
    (written,) = s3.list_objects_v2(Bucket="pods")["Contents"]
    assert written["Key"].startswith("flows/hour=2026-11-25-10/")
    (row,) = pq.read_table(io.BytesIO(s3.get_object(Bucket="pods", Key=written["Key"])["Body"].read())).to_pylist()
    assert (row["src_pod_name"], row["src_pod_state"]) == ("web", "held")
    metrics = told(capsys.readouterr().out)
    assert (metrics["FlowObjects"], metrics["FlowRows"], metrics["FlowEndsHeld"]) == (1, 1, 1)
    assert metrics["FlowLedgerQueries"] == 1


def test_a_broken_object_fails_its_message_and_is_counted(app: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    boto3.client("s3").put_object(Bucket="flow-logs", Key=KEY, Body=text_object(line())[:30])
    failed = app.handler(event(), Context())["batchItemFailures"]
    assert failed == [{"itemIdentifier": event()["Records"][0]["messageId"]}]
    assert told(capsys.readouterr().out)["FlowObjectsBroken"] == 1
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="pods")


def test_an_object_that_was_replaced_or_deleted_is_done_with(app: ModuleType) -> None:
    assert app.handler(event(etag="0" * 32), Context()) == {"batchItemFailures": []}
    assert app.handler(event(key=KEY.replace("x.", "y.")), Context()) == {"batchItemFailures": []}
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="pods")


def test_what_is_no_such_event_is_counted_and_done_with(app: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    record = event()["Records"][0]
    assert app.handler({"Records": [{**record, "body": "{"}]}, Context()) == {"batchItemFailures": []}
    assert told(capsys.readouterr().out)["MalformedEvents"] == 1


def test_the_sample_names_its_object() -> None:
    (record,) = json.loads((ROOT / "events" / "flow-log-object.json").read_text())["Records"]
    found = read_flow_object(record["body"])
    assert (found.bucket, found.size, found.is_flow_log) == ("berth-flowlogbucket-0abc1def", 48231, True)
    assert not FlowObject("b", "AWSLogs/1/vpcflowlogs/empty", "e", 0).is_flow_log


@pytest.mark.parametrize(
    "detail",
    [
        {},
        {"bucket": "b"},
        {"bucket": {"name": "b"}, "object": {"key": "k", "etag": "e"}},
        {"bucket": {"name": ""}, "object": {}},
    ],
)
def test_an_event_that_lacks_a_part_says_which(detail: dict[str, Any]) -> None:
    body = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}
    with pytest.raises(MalformedEventError, match=r"detail\."):
        read_flow_object(json.dumps(body))
