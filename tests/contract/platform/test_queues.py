"""Queues and the pollers behind event source mappings."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from .conftest import Stack, wait_for


@pytest.fixture
def queue(stack: Stack, request: pytest.FixtureRequest) -> str:
    name = request.node.name.replace("test_", "")[:60]
    return str(stack.client("sqs").create_queue(QueueName=name)["QueueUrl"])


def dead_letters(stack: Stack, order: str) -> dict[str, Any] | None:
    url = stack.outputs["FailedUrl"]
    found = stack.client("sqs").receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0, MessageSystemAttributeNames=["All"]
    )
    return next((m for m in found.get("Messages", ()) if json.loads(m["Body"]).get("order") == order), None)


def test_only_the_failed_message_of_a_batch_comes_back(stack: Stack) -> None:
    entries = [
        {"Id": "1", "MessageBody": json.dumps({"order": "good"})},
        {"Id": "2", "MessageBody": json.dumps({"order": "bad-once", "fail": 1})},
    ]
    stack.client("sqs").send_message_batch(QueueUrl=stack.outputs["WorkUrl"], Entries=entries)

    assert stack.row("good")["received"] == "1"
    assert stack.row("bad-once")["received"] == "2"
    assert stack.row("good")["received"] == "1"


def test_a_poison_message_reaches_the_dead_letter_queue(stack: Stack) -> None:
    body = json.dumps({"order": "poison", "fail": 99})
    stack.client("sqs").send_message(QueueUrl=stack.outputs["WorkUrl"], MessageBody=body)
    wait_for(lambda: dead_letters(stack, "poison"))
    assert not [r for r in stack.rows() if r["node"] == "poison"]


def test_messages_are_batched_up_to_the_batch_size(stack: Stack) -> None:
    functions = stack.client("lambda")
    mapping = functions.list_event_source_mappings()["EventSourceMappings"][0]["UUID"]
    functions.update_event_source_mapping(UUID=mapping, Enabled=False)
    wait_for(lambda: stack.platform.pollers.state() == {})
    for part in range(2):
        entries = [{"Id": str(i), "MessageBody": json.dumps({"order": f"batch-{part}-{i}"})} for i in range(10)]
        stack.client("sqs").send_message_batch(QueueUrl=stack.outputs["WorkUrl"], Entries=entries)
    functions.update_event_source_mapping(UUID=mapping, Enabled=True)
    for part in range(2):
        assert stack.row(f"batch-{part}-9")["batch"] == "10"


def test_a_delayed_message_is_processed_when_its_delay_is_over(stack: Stack) -> None:
    sent = time.monotonic()
    body = json.dumps({"order": "later"})
    stack.client("sqs").send_message(QueueUrl=stack.outputs["WorkUrl"], MessageBody=body, DelaySeconds=1)
    stack.row("later")
    assert time.monotonic() - sent >= 1


def test_a_functions_sender_id_names_the_function(stack: Stack, queue: str) -> None:
    stack.role("sender", allow="sqs:SendMessage")
    session = stack.platform.identity.credentials_for_function("fn", "arn:aws:iam::123456789012:role/sender")
    stack.client("sqs", session).send_message(QueueUrl=queue, MessageBody="x")
    message = stack.client("sqs").receive_message(QueueUrl=queue, AttributeNames=["SenderId"])["Messages"][0]
    assert message["Attributes"]["SenderId"].startswith("AROA")
    assert message["Attributes"]["SenderId"].endswith(":fn")


def test_a_long_poll_holds_up_nobody_else_and_wakes_at_once(stack: Stack, queue: str) -> None:
    got: list[Any] = []
    receiver = stack.client("sqs")
    poll = threading.Thread(target=lambda: got.append(receiver.receive_message(QueueUrl=queue, WaitTimeSeconds=20)))
    poll.start()
    stack.client("sqs").list_queues()  # would wait for the poll if it held the lock
    stack.client("sqs").send_message(QueueUrl=queue, MessageBody="wake up")
    poll.join(timeout=10)
    assert got[0]["Messages"][0]["Body"] == "wake up"


def test_a_message_ends_with_its_retention(stack: Stack, queue: str) -> None:
    sqs = stack.client("sqs")
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"MessageRetentionPeriod": "60"})
    sqs.send_message(QueueUrl=queue, MessageBody="old")
    from moto.sqs.models import sqs_backends

    found = sqs_backends["123456789012"]["eu-west-1"].queues[queue.rpartition("/")[2]]
    assert found._messages[0].sent_timestamp
    found._messages[0].sent_timestamp -= 61_000
    sqs.send_message(QueueUrl=queue, MessageBody="new")
    bodies = [m["Body"] for m in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]]
    assert bodies == ["new"]


def test_setting_an_attribute_leaves_the_queues_policy_alone(stack: Stack, queue: str) -> None:
    sqs = stack.client("sqs")
    policy = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "*"}]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "7"})
    kept = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert json.loads(kept["Policy"])["Statement"][0]["Effect"] == "Deny"
    assert kept["VisibilityTimeout"] == "7"


def test_a_disabled_mapping_takes_nothing_until_it_is_enabled(stack: Stack) -> None:
    functions = stack.client("lambda")
    mapping = functions.list_event_source_mappings()["EventSourceMappings"][0]["UUID"]
    functions.update_event_source_mapping(UUID=mapping, Enabled=False)
    body = json.dumps({"order": "held"})
    stack.client("sqs").send_message(QueueUrl=stack.outputs["WorkUrl"], MessageBody=body)
    queue = stack.outputs["WorkUrl"].rpartition("/")[2]
    wait_for(lambda: stack.platform.pollers.state() == {})
    assert sum(stack.platform.control._handlers["queues"]({})[queue].values()) >= 1
    functions.update_event_source_mapping(UUID=mapping, Enabled=True)
    stack.row("held")
