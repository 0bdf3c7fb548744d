"""What functions tell CloudWatch in embedded metric format; alarms and the dashboard ask for what is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools import Metrics
from berth.connect import count_calls
from berth.meters import Meters
from berth.metrics import publish
from botocore.exceptions import ClientError

from tests.unit.control.stack_template import load_template

ROOT = Path(__file__).parents[3]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Publishes through a function's own Metrics and returns the lines it wrote."""

    def tell(counts: dict[str, int], meters: Meters) -> list[dict[str, Any]]:
        metrics = Metrics(namespace="Berth", service="berth-reconcile-nodes")

        @metrics.log_metrics
        def handler(_event: dict[str, Any], _context: object) -> None:
            publish(metrics, counts, meters.take())

        handler({}, None)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return tell


def test_counts_and_times_share_the_functions_own_line(told: Any) -> None:
    meters = Meters()
    meters.aged("EventAge", 1000.0, [999.5, 0.0, 1000.4])
    meters.took("AllocationTime", 2.0)
    (line,) = told({"RecordsWritten": 3}, meters)
    assert line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service"]]
    assert (line["service"], line["RecordsWritten"]) == ("berth-reconcile-nodes", [3.0])
    assert line["EventAge"] == [500.0, 0.0]  # a clock that is behind makes nothing negative; an unknown time is no age
    assert line["AllocationTime"] == [2000.0]


def test_ec2_calls_are_told_by_action_and_outcome(told: Any) -> None:
    meters = Meters()
    for outcome in ("ok", "ok", "RequestLimitExceeded"):
        meters.called("AssignPrivateIpAddresses", outcome)
    lines = [line for line in told({"ReportsRead": 1}, meters) if "Ec2Calls" in line]
    assert {(li["action"], li["outcome"], *li["Ec2Calls"]) for li in lines} == {
        ("AssignPrivateIpAddresses", "ok", 2.0),
        ("AssignPrivateIpAddresses", "RequestLimitExceeded", 1.0),
    }
    assert lines[0]["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service", "action", "outcome"]]


def test_levels_are_told_once_with_their_last_value(told: Any) -> None:
    meters = Meters()
    for left in (40.0, 38.5):
        meters.stands("TokensLeft", left, action="AttachNetworkInterface")
    (line,) = [line for line in told({"ReportsRead": 1}, meters) if "TokensLeft" in line]
    assert (line["action"], line["TokensLeft"]) == ("AttachNetworkInterface", [38.5])


def test_what_was_taken_is_not_told_again() -> None:
    meters = Meters()
    meters.called("DescribeInstances", "ok")
    assert meters.take().calls
    assert not meters.take().calls


class FakeWire:
    """Answers what botocore would have sent."""

    def __init__(self, status: int, body: str) -> None:
        self.status, self.body = status, body

    def __call__(self, request: Any, **_: Any) -> Any:
        from botocore.awsrequest import AWSResponse, HeadersDict

        raw = type("Raw", (), {"stream": lambda _, **__: iter([self.body.encode()])})()
        return AWSResponse(request.url, self.status, HeadersDict(), raw)  # type: ignore[arg-type]


def test_every_attempt_at_a_call_is_counted() -> None:
    import boto3
    from botocore.config import Config

    client: Any = boto3.client(
        "ec2",
        region_name="eu-west-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": 2, "mode": "standard"}),
    )
    body = "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>m</Message></Error></Errors></Response>"
    client.meta.events.register("before-send.ec2", FakeWire(503, body))
    meters = Meters()
    count_calls(client, meters)
    with pytest.raises(ClientError):
        client.describe_instances()
    assert meters.take().calls == {("DescribeInstances", "RequestLimitExceeded"): 2}


def _asked_for(template: dict[str, Any]) -> set[str]:
    alarms = (r["Properties"] for r in template["Resources"].values() if r["Type"] == "AWS::CloudWatch::Alarm")
    names = {a["MetricName"] for a in alarms if a["Namespace"] == "Berth"}
    body = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    shown = json.loads(re.sub(r"\$\{[^}]*\}", "x", body))
    for widget in shown["widgets"]:
        for entry in widget["properties"].get("metrics", ()):
            if entry[0] == "Berth":
                names.add(entry[1])
            elif isinstance(entry[0], dict):
                names |= set(re.findall(r'MetricName="(\w+)"', entry[0]["expression"]))
    return names


def test_alarms_and_dashboard_ask_for_metrics_that_are_told_and_explained() -> None:
    names = _asked_for(load_template())
    assert len(names) >= 10
    code = "".join(
        p.read_text() for folder in ("layers/berth/berth", "functions") for p in (ROOT / folder).rglob("*.py")
    )
    operations = (ROOT / "docs" / "operations.md").read_text()
    for name in names:
        assert f'"{name}"' in code, f"nobody tells {name}"
        assert f"`{name}`" in operations, f"docs/operations.md does not explain {name}"
