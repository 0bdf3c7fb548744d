"""What a function gets for a batch of SQS messages, and which of them its answer leaves undone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from moto.sqs.models import Message

from .environments import Outcome
from .identity import REGION

__all__ = ["sqs_event", "sqs_record", "undone"]


def sqs_event(messages: Sequence[Message], queue_arn: str) -> dict[str, Any]:
    """The event of an SQS batch (Lambda developer guide, "Using Lambda with Amazon SQS")."""
    return {"Records": [sqs_record(m, queue_arn) for m in messages]}


def sqs_record(message: Message, queue_arn: str) -> dict[str, Any]:
    """One record of it."""
    attributes = {
        "ApproximateReceiveCount": str(message.approximate_receive_count),
        "SentTimestamp": str(message.sent_timestamp),
        "SenderId": message.sender_id,
        "ApproximateFirstReceiveTimestamp": str(message.approximate_first_receive_timestamp),
    }
    return {
        "messageId": message.id,
        "receiptHandle": message.receipt_handle,
        "body": message.body,
        "attributes": attributes,
        "messageAttributes": {n: _attribute(v) for n, v in message.message_attributes.items()},
        "md5OfBody": message.body_md5,
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": REGION,
    }


def _attribute(value: dict[str, Any]) -> dict[str, Any]:
    text, binary = value.get("StringValue"), value.get("BinaryValue")
    result: dict[str, Any] = {"stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]}
    if text is not None:
        result["stringValue"] = text
    if binary is not None:
        result["binaryValue"] = binary.decode() if isinstance(binary, bytes) else binary
    return result


def undone(ids: Sequence[str], outcome: Outcome, *, partial: bool) -> set[str]:
    """The ids of the batch that must come back.

    All, after an error; with ``ReportBatchItemFailures`` those that the function named, and all again if what it
    returned is not a list of ids of the batch (same guide, "Implementing partial batch responses").
    """
    if not outcome.ok:
        return set(ids)
    if not partial:
        return set()
    try:
        answer = json.loads(outcome.payload or "null")
        failures = (answer or {}).get("batchItemFailures") or []
        named = {str(failure["itemIdentifier"]) for failure in failures}
    except (ValueError, TypeError, KeyError, AttributeError):
        return set(ids)
    return named if named <= set(ids) else set(ids)
