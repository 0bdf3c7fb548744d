"""The handlers, imported as Lambda imports them, against an emulated account without instances."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from berth.buckets import Level
from berth.calls import AssignPrefixes
from berth.ec2_wire import Trouble
from berth.reconcile import RunResult
from moto import mock_aws

from tests.unit.control.fake_budget import FakeBudget
from tests.unit.control.fakes import Scene, refusal, settings
from tests.unit.dynamo import make_table

ROOT = Path(__file__).parents[3]
NODE = "i-0123456789abcdef0"
REPORTS = "arn:aws:sqs:eu-west-1:123456789012:berth-NodeReportsQueue"
SENT_AT = 1_793_599_200.0
"""When the samples happened and were sent, in Unix seconds."""
AGES = [("instance-state-change", "EventAge", "ReportAge"), ("node-report", "ReportAge", "EventAge")]


@dataclass
class Context:
    function_name: str = "function"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:eu-west-1:123456789012:function:function"
    aws_request_id: str = "request"

    def get_remaining_time_in_millis(self) -> int:
        return 50_000


@pytest.fixture(scope="module")
def account() -> Iterator[None]:
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "CLUSTER_NAMES": "demo",
        "TABLE_NAME": "nodes",
        "NODE_REPORTS_QUEUE_ARN": REPORTS,
        "BUS_NAME": "berth",
        "INSTANCE_ARN_PREFIX": "arn:aws:ec2:eu-west-1:123456789012:instance/",
        "NO_SNAT_CIDRS": "",
        "DEFAULT_MODE": "prefixes",
        "DEFAULT_WARM_ADDRESSES": "8",
        "DEFAULT_MINIMUM_ADDRESSES": "0",
        "DEFAULT_MAX_PODS": "110",
        "DEFAULT_COOLDOWN_SECONDS": "120",
        "POWERTOOLS_METRICS_NAMESPACE": "Berth",
        "POWERTOOLS_SERVICE_NAME": "test",
    }
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("NODE_EVENTS_QUEUE_URL", boto3.client("sqs").create_queue(QueueName="events")["QueueUrl"])
        make_table(boto3.client("dynamodb"), "nodes")
        yield


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_app", ROOT / "functions" / name / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def app(account: None) -> ModuleType:
    return load("reconcile_nodes")


def sample(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((ROOT / "events" / f"{name}.json").read_text())
    return event


def message(body: str, arn: str = "arn:aws:sqs:eu-west-1:123456789012:events", sender: str = "AIDA") -> dict[str, Any]:
    event = sample("instance-state-change")
    event["Records"][0] |= {"body": body, "eventSourceARN": arn}
    event["Records"][0]["attributes"]["SenderId"] = sender
    return event


def emf(output: str) -> list[dict[str, Any]]:
    """The lines of embedded metric format among what was printed."""
    return [json.loads(line) for line in output.splitlines() if "_aws" in line]


def metrics(output: str) -> dict[str, float]:
    return {k: v[0] if isinstance(v, list) else v for line in emf(output) for k, v in line.items() if k != "_aws"}


@pytest.mark.parametrize("name", [p.stem for p in sorted((ROOT / "events").glob("*.json")) if p.stem[:5] != "sched"])
def test_a_sample_can_be_invoked_and_is_done_with(app: ModuleType, name: str) -> None:
    assert app.handler(sample(name), Context()) == {"batchItemFailures": []}


@pytest.mark.parametrize(
    ("event", "metric"),
    [
        (message("{"), "MalformedEvents"),
        (message('{"source": "x", "detail-type": "y", "detail": {}}'), "UnknownEvents"),
        (message("{}", REPORTS, "AROAX:session"), "ReportsRefused"),
        (message("{}", REPORTS, f"AROAX:{NODE}"), "ReportsRefused"),
    ],
)
def test_what_cannot_be_read_is_counted_logged_with_its_id_and_acknowledged(
    app: ModuleType,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    event: dict[str, Any],
    metric: str,
) -> None:
    assert app.handler(event, Context()) == {"batchItemFailures": []}
    assert metrics(capsys.readouterr().out)[metric] == 1
    assert event["Records"][0]["messageId"] in {getattr(r, "message_id", "") for r in caplog.records}


def test_only_the_messages_of_a_failed_node_come_again(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = sample("instance-state-change"), sample("launch-lifecycle-action")
    other = bad["Records"][0]["body"].replace(NODE, "i-0123456789abcdef1")
    bad["Records"][0]["body"] = other
    broken = RunResult(failed={"i-0123456789abcdef1": RuntimeError("broken")})
    monkeypatch.setattr(app, "reconcile", lambda *_: broken)
    event = {"Records": good["Records"] + bad["Records"]}
    failed = app.handler(event, Context())["batchItemFailures"]
    assert failed == [{"itemIdentifier": bad["Records"][0]["messageId"]}]


def test_when_all_messages_of_a_batch_fail_all_come_again_and_nothing_is_raised(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised, Lambda's own retries would bring them back, and its metric of errors would say that the function fails.

    EC2 refuses what each node needs, as it does without a permission.
    """
    scene, batch = Scene(), list[dict[str, Any]]()
    nodes = [NODE, "i-0123456789abcdef1", "i-0123456789abcdef2"]
    for instance_id, name in zip(
        nodes, ("instance-state-change", "launch-lifecycle-action", "node-report"), strict=True
    ):
        scene.ec2.launch(instance_id)
        (record,) = sample(name)["Records"]
        record["body"] = record["body"].replace(NODE, instance_id)
        record["attributes"]["SenderId"] = record["attributes"]["SenderId"].replace(NODE, instance_id)
        batch.append(record)
    scene.ec2.refuse[AssignPrefixes] = [refusal("UnauthorizedOperation", Trouble.REFUSED) for _ in nodes]
    report_arn = batch[-1]["eventSourceARN"]
    monkeypatch.setattr(app, "edges", replace(scene.edges, settings=settings(reports_queue_arn=report_arn)))
    failed = app.handler({"Records": batch}, Context())["batchItemFailures"]
    assert failed == [{"itemIdentifier": record["messageId"]} for record in batch]
    assert len({record["messageId"] for record in batch}) == len(nodes)


def test_the_sweep_runs_in_an_empty_account(account: None) -> None:
    counts = load("sweep").handler(sample("scheduled-sweep"), Context())
    assert counts["NodesDrifted"] == 0


@pytest.mark.parametrize("name", ["scheduled-sweep", "network-change"])
def test_the_flat_network_check_runs_in_an_empty_account_whatever_it_is_called_for(account: None, name: str) -> None:
    counts = load("check_flat_network").handler(sample(name), Context())
    assert set(counts) == {"FlatCells", "FlatCellsFailing", "FlatCellsUnknown", "FlatChecksPutOff"}
    assert not any(counts.values())


@pytest.mark.parametrize("name", ["scheduled-sweep", "route-change"])
def test_routes_are_followed_in_an_empty_account_whatever_the_function_is_called_for(account: None, name: str) -> None:
    counts = load("follow_routes").handler(sample(name), Context())
    assert counts == {"RoutesCompared": 0, "NodesRoutesChanged": 0, "RouteLooksPutOff": 0, "PrefixListsUnread": 0}


def test_handlers_are_thin() -> None:
    for path in (ROOT / "functions").glob("*/app.py"):
        assert len(path.read_text().splitlines()) < 80
    assert not any("AKIA" in v for v in os.environ.values())


def test_each_look_leaves_one_line_that_says_why_what_and_what_came_of_it(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written to the function's own log, as JSON, by a module of the layer."""
    scene = Scene()
    scene.ec2.launch()
    monkeypatch.setattr(app, "edges", scene.edges)
    log = io.StringIO()
    (handler,) = (h for h in logging.getLogger("berth").handlers if isinstance(h.formatter, LambdaPowertoolsFormatter))
    assert handler in app.logger.handlers
    monkeypatch.setattr(handler, "stream", log)
    app.handler(sample("instance-state-change"), Context())
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (look,) = [line for line in lines if line["message"] == "look"]
    event = json.loads(sample("instance-state-change")["Records"][0]["body"])
    call = f"AssignPrefixes(interface_id='{scene.ec2.primary().id}', count=1)"
    assert (look["level"], look["node"], look["state"]) == ("INFO", NODE, "running")
    assert (look["reasons"], look["events"]) == ([f"state {event['detail']['state']}"], [event["id"]])
    assert (look["plan"], look["outcome"]) == ([call], "as planned")
    assert look["calls"] == [f"{call}: {scene.ec2.primary().prefixes[0]}"]


@pytest.mark.parametrize(("name", "metric", "other"), AGES)
def test_the_handler_tells_how_old_its_messages_were(
    app: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    metric: str,
    other: str,
) -> None:
    """In milliseconds, with the dimension ``service`` alone, which the alarm on ``EventAge`` has too."""
    scene, event = Scene(), sample(name)
    scene.machine.now = SENT_AT + 12.5
    reports = settings(reports_queue_arn=sample("node-report")["Records"][0]["eventSourceARN"])
    monkeypatch.setattr(app, "edges", replace(scene.edges, settings=reports))
    app.handler(event, Context())
    (line,) = [line for line in emf(capsys.readouterr().out) if metric in line or other in line]
    (told,) = line["_aws"]["CloudWatchMetrics"]
    assert (told["Namespace"], told["Dimensions"]) == ("Berth", [["service"]])
    assert {"Name": metric, "Unit": "Milliseconds"} in told["Metrics"]
    assert line["service"] == "test"
    (age,) = line[metric]
    assert 12_500 <= age < 12_600
    assert other not in line


def test_the_handler_tells_the_tokens_left_of_each_action_it_drew_on(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the dimensions that the dashboard searches for."""
    scene, budget = Scene(), FakeBudget()
    scene.ec2.launch()
    monkeypatch.setattr(app, "edges", replace(scene.edges, budget=budget))
    app.handler(sample("instance-state-change"), Context())
    lines = [line for line in emf(capsys.readouterr().out) if "TokensLeft" in line]
    for line in lines:
        (told,) = line["_aws"]["CloudWatchMetrics"]
        assert (told["Namespace"], told["Dimensions"]) == ("Berth", [["service", "action"]])
        assert line["service"] == "test"
    left = {line["action"]: line["TokensLeft"] for line in lines}
    assert len(lines) == len(left)
    assert left == {
        action: [pytest.approx(budget.buckets.of(action).left(Level(), scene.machine.now) - 1)]
        for action in ("DescribeInstances", "DescribeNetworkInterfaces", "AssignPrivateIpAddresses")
    }
