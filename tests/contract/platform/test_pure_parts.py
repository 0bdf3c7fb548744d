"""Input transformers, schedule expressions, answers of batches: what needs no platform."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.sandbox.cloud.batches import undone
from tests.sandbox.cloud.environments import Outcome
from tests.sandbox.cloud.expressions import ExpressionError, next_time
from tests.sandbox.cloud.transforms import target_input

EVENT: dict[str, Any] = {
    "id": "1",
    "source": "aws.ec2",
    "time": "2026-11-01T10:00:00Z",
    "resources": ["arn:1", "arn:2"],
    "detail": {"instance-id": "i-1", "state": "running", "count": 3, "quote": 'a "b"'},
}


def given(**target: Any) -> str:
    return target_input(EVENT, target, "arn:rule", "name")


def test_a_target_gets_the_whole_event() -> None:
    assert json.loads(given()) == EVENT


def test_input_replaces_the_event() -> None:
    assert given(Input='{"fixed": true}') == '{"fixed": true}'


def test_input_path_takes_a_part() -> None:
    assert json.loads(given(InputPath="$.detail.state")) == "running"
    assert json.loads(given(InputPath="$.resources[1]")) == "arn:2"
    assert json.loads(given(InputPath="$.nothing")) is None


def test_an_input_transformer_fills_a_template() -> None:
    paths = {"instance": "$.detail.instance-id", "n": "$.detail.count", "q": "$.detail.quote", "none": "$.x"}
    template = (
        '{"i": <instance>, "text": "on <instance>: <q>", "n": <n>, "none": "<none>", "rule": <aws.events.rule-arn>}'
    )
    found = json.loads(given(InputTransformer={"InputPathsMap": paths, "InputTemplate": template}))
    assert found == {"i": "i-1", "text": 'on i-1: a "b"', "n": 3, "none": "", "rule": "arn:rule"}


def test_an_input_transformer_may_give_the_event_itself() -> None:
    found = given(InputTransformer={"InputTemplate": '{"all": <aws.events.event.json>}'})
    assert json.loads(found) == {"all": EVENT}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("rate(5 minutes)", "2026-11-22T12:05:30"),
        ("rate(1 day)", "2026-11-23T12:00:30"),
        ("cron(0 10 * * ? *)", "2026-11-23T10:00:00"),
        ("cron(0/15 * * * ? *)", "2026-11-22T12:15:00"),
        ("cron(0 18 ? * MON-FRI *)", "2026-11-23T18:00:00"),
        ("cron(30 9 L * ? *)", "2026-11-30T09:30:00"),
        ("cron(0 9 ? * 2#1 *)", "2026-12-07T09:00:00"),
        ("cron(0 9 ? * 6L *)", "2026-11-27T09:00:00"),
        ("cron(0 0 1 JAN ? 2028)", "2028-01-01T00:00:00"),
        ("at(2026-12-24T18:00:00)", "2026-12-24T18:00:00"),
    ],
)
def test_schedule_expressions(expression: str, expected: str) -> None:
    now = datetime(2026, 11, 22, 12, 0, 30, tzinfo=UTC)  # a Sunday
    assert next_time(expression, now) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_a_schedule_may_have_a_time_zone_and_may_be_over() -> None:
    now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    assert next_time("cron(0 20 * * ? *)", now, "America/New_York") == datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
    assert next_time("at(2020-01-01T00:00:00)", now) is None


@pytest.mark.parametrize(
    "expression", ["rate(1 week)", "cron(* * * *)", "cron(0 1 * * * *)", "cron(99 1 * * ? *)", "x"]
)
def test_what_is_no_schedule_expression_is_refused(expression: str) -> None:
    with pytest.raises(ExpressionError):
        next_time(expression, datetime(2026, 11, 22, tzinfo=UTC))


@pytest.mark.parametrize(
    ("outcome", "partial", "expected"),
    [
        (Outcome(True, "null"), True, set()),
        (Outcome(True, '{"batchItemFailures": []}'), True, set()),
        (Outcome(True, '{"batchItemFailures": [{"itemIdentifier": "b"}]}'), True, {"b"}),
        (Outcome(True, '{"batchItemFailures": [{"itemIdentifier": "b"}]}'), False, set()),
        (Outcome(True, '{"batchItemFailures": [{"itemIdentifier": "unknown"}]}'), True, {"a", "b"}),
        (Outcome(True, '{"batchItemFailures": [{"id": "b"}]}'), True, {"a", "b"}),
        (Outcome(True, "[1]"), True, {"a", "b"}),
        (Outcome(False, "{}"), True, {"a", "b"}),
    ],
)
def test_which_messages_of_a_batch_come_back(outcome: Outcome, partial: bool, expected: set[str]) -> None:
    assert undone(["a", "b"], outcome, partial=partial) == expected
