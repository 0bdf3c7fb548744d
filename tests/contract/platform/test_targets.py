"""EventBridge: what is delivered to whom, and what becomes of what cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Stack, wait_for


def put(stack: Stack, source: str, detail: Any, kind: str = "Kind", bus: str = "shop") -> dict[str, Any]:
    entry = {"Source": source, "DetailType": kind, "Detail": json.dumps(detail), "EventBusName": bus}
    return dict(stack.client("events").put_events(Entries=[entry])["Entries"][0])


def dead_letter(stack: Stack, event_id: str) -> dict[str, Any]:
    def find() -> dict[str, Any] | None:
        found = stack.client("sqs").receive_message(
            QueueUrl=stack.outputs["FailedUrl"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=0,
            MessageAttributeNames=["All"],
        )
        return next((m for m in found.get("Messages", ()) if json.loads(m["Body"]).get("id") == event_id), None)

    return wait_for(find)


def attributes(message: dict[str, Any]) -> dict[str, str]:
    return {k: v["StringValue"] for k, v in message["MessageAttributes"].items()}


def make_rule(stack: Stack, name: str, target: dict[str, Any], **rule: Any) -> str:
    """A rule to a queue of its own, whose policy lets it. Returns the queue's URL."""
    url = stack.client("sqs").create_queue(QueueName=name)["QueueUrl"]
    queue = f"arn:aws:sqs:eu-west-1:123456789012:{name}"
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:*",
        "Resource": queue,
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    stack.client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    events = stack.client("events")
    events.put_rule(Name=name, **rule)
    events.put_targets(Rule=name, Targets=[{"Id": "t", "Arn": queue, **target}])
    return str(url)


def bodies(stack: Stack, url: str, wait: int = 0) -> list[Any]:
    found = stack.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=wait)
    return [json.loads(m["Body"]) for m in found.get("Messages", ())]


def test_a_missing_target_sends_the_event_to_the_dead_letter_queue(stack: Stack) -> None:
    answer = put(stack, "missing", {"a": 1})
    message = dead_letter(stack, answer["EventId"])
    found = attributes(message)
    assert found["ERROR_CODE"] == "NO_RESOURCE"
    assert found["TARGET_ARN"].endswith(":gone")
    assert ":rule/shop/" in found["RULE_ARN"]


def test_a_queue_whose_policy_does_not_name_the_rule_gets_nothing(stack: Stack) -> None:
    answer = put(stack, "unpermitted", {"a": 1})
    assert attributes(dead_letter(stack, answer["EventId"]))["ERROR_CODE"] == "NO_PERMISSIONS"
    assert bodies(stack, stack.outputs["ReportsUrl"]) == []


def test_a_disabled_rule_and_a_scheduled_rule_take_no_events(stack: Stack) -> None:
    url = make_rule(stack, "off", {}, EventPattern='{"source": ["own"]}', State="DISABLED")
    scheduled = make_rule(stack, "clock", {}, ScheduleExpression="rate(300 days)")
    put(stack, "own", {}, bus="default")
    assert bodies(stack, url) == []
    assert bodies(stack, scheduled) == []
    stack.client("events").enable_rule(Name="off")
    put(stack, "own", {}, bus="default")
    assert len(bodies(stack, url, 5)) == 1


def test_the_parts_of_a_target_shape_what_it_gets(stack: Stack) -> None:
    url = make_rule(stack, "shaped", {"InputPath": "$.detail"}, EventPattern='{"source": ["shape"]}')
    put(stack, "shape", {"n": 1}, bus="default")
    assert bodies(stack, url, 5) == [{"n": 1}]


def test_a_rule_invokes_a_function(stack: Stack) -> None:
    put(stack, "told", {"do": "answer", "mark": "from a rule"})
    log = stack.platform.calls  # the function asks who it is
    wait_for(lambda: log.counts().get("function", {}).get("sts:GetCallerIdentity"))


def test_a_function_that_does_not_permit_the_rule_is_not_invoked(stack: Stack) -> None:
    function = stack.client("lambda").get_function(FunctionName=stack.outputs["BehaveName"])["Configuration"]
    events = stack.client("events")
    events.put_rule(Name="stranger", EventPattern='{"source": ["stranger"]}')
    failed = (
        "arn:aws:sqs:eu-west-1:123456789012:"
        + make_rule(stack, "letters", {}, EventPattern='{"source": ["x"]}').rpartition("/")[2]
    )
    events.put_targets(
        Rule="stranger", Targets=[{"Id": "f", "Arn": function["FunctionArn"], "DeadLetterConfig": {"Arn": failed}}]
    )
    answer = put(stack, "stranger", {"do": "answer"}, bus="default")
    url = stack.client("sqs").get_queue_url(QueueName="letters")["QueueUrl"]
    assert [b["id"] for b in bodies(stack, url, 5)] == [answer["EventId"]]


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"Source": "aws.ec2", "DetailType": "d", "Detail": "{}"}, "NotAuthorizedForSourceException"),
        ({"Source": "s", "DetailType": "d", "Detail": "{"}, "MalformedDetail"),
        ({"Source": "s", "DetailType": "d", "Detail": "[]"}, "MalformedDetail"),
        ({"Source": "s", "Detail": "{}"}, "InvalidArgument"),
    ],
)
def test_a_bad_entry_fails_alone(stack: Stack, entry: dict[str, str], code: str) -> None:
    good = {"Source": "s", "DetailType": "d", "Detail": "{}"}
    answer = stack.client("events").put_events(Entries=[entry, good])
    assert answer["FailedEntryCount"] == 1
    assert answer["Entries"][0]["ErrorCode"] == code
    assert answer["Entries"][1]["EventId"]


def test_putting_to_a_bus_that_is_not_there_succeeds(stack: Stack) -> None:
    assert put(stack, "s", {}, bus="nowhere")["EventId"]


def test_a_simulated_service_puts_events_that_users_may_not(stack: Stack) -> None:
    url = make_rule(stack, "states", {}, EventPattern='{"source": ["aws.ec2"], "detail": {"state": ["running"]}}')
    stack.platform.events.emit(
        "aws.ec2", "EC2 Instance State-change Notification", {"instance-id": "i-1", "state": "running"}
    )
    stack.platform.events.emit(
        "aws.ec2", "EC2 Instance State-change Notification", {"instance-id": "i-1", "state": "stopped"}
    )
    found = bodies(stack, url, 5)
    assert [(b["detail"]["state"], b["account"], b["region"]) for b in found] == [
        ("running", "123456789012", "eu-west-1")
    ]


def test_messages_of_eventbridge_have_its_sender_id(stack: Stack) -> None:
    url = make_rule(stack, "sender-of-events", {}, EventPattern='{"source": ["who"]}')
    put(stack, "who", {}, bus="default")
    found = stack.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=5, AttributeNames=["SenderId"])[
        "Messages"
    ]
    assert found[0]["Attributes"]["SenderId"].startswith("AIDA")


def test_a_rate_rule_fires_in_its_own_time(stack: Stack) -> None:
    url = make_rule(stack, "often", {}, ScheduleExpression="rate(5 minutes)")  # half a second here
    (event, *_) = bodies(stack, url, 20)
    assert event["detail-type"] == "Scheduled Event"
    assert event["source"] == "aws.events"
    assert event["resources"] == ["arn:aws:events:eu-west-1:123456789012:rule/often"]
    stack.client("events").disable_rule(Name="often")


def test_a_scheduled_rule_can_be_fired_at_once(stack: Stack) -> None:
    url = make_rule(stack, "on-demand", {"Input": '{"do": "it"}'}, ScheduleExpression="cron(0 0 1 1 ? 2199)")
    stack.platform.schedules.fire("on-demand")
    assert bodies(stack, url, 5) == [{"do": "it"}]
    with pytest.raises(LookupError, match="no rule nothing-like-it"):
        stack.platform.schedules.fire("nothing-like-it")


def test_a_schedule_needs_a_role_that_allows_its_target(stack: Stack) -> None:
    sqs, scheduler = stack.client("sqs"), stack.client("scheduler")
    url = sqs.create_queue(QueueName="scheduled")["QueueUrl"]
    stack.role("may", allow="sqs:SendMessage")
    stack.role("may-not")
    for role in ("may", "may-not"):
        scheduler.create_schedule(
            Name=f"by-{role}",
            ScheduleExpression="rate(5 minutes)",
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={
                "Arn": "arn:aws:sqs:eu-west-1:123456789012:scheduled",
                "RoleArn": f"arn:aws:iam::123456789012:role/{role}",
                "Input": json.dumps({"by": role}),
            },
        )
    found = bodies(stack, url, 20) + bodies(stack, url, 2)
    assert {b["by"] for b in found} == {"may"}
    for role in ("may", "may-not"):
        scheduler.delete_schedule(Name=f"by-{role}")
