"""What moto's queues lack: who sent a message, retention, long polls that do not hold the API lock, and wake-ups."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from moto.sqs.models import Message, Queue, SQSBackend, sqs_backends

from .awserrors import Answer
from .callers import Request
from .calls import Call
from .identity import ACCOUNT, CALLER, REGION, Principal, arn
from .lock import API_LOCK
from .patching import replace

__all__ = [
    "ACTIVITY",
    "Activity",
    "depths",
    "find_queue",
    "install",
    "next_visible",
    "queue_arn_of",
    "wait_for_long_poll",
]

_MILLIS: Final = 1000


class Activity:
    """Tells waiters that some queue changed, so that nobody polls on a clock."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._generation = 0

    @property
    def generation(self) -> int:
        return self._generation

    def notify(self) -> None:
        with self._condition:
            self._generation += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout: float | None) -> None:
        """Return when the generation is no longer ``seen``, or after ``timeout`` seconds (``None``: no limit)."""
        with self._condition:
            self._condition.wait_for(lambda: self._generation != seen, timeout)


ACTIVITY: Final = Activity()


def find_queue(name_or_arn_or_url: str) -> Queue | None:
    """A queue by name, ARN or URL. The API lock must be held."""
    name = name_or_arn_or_url.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return sqs_backends[ACCOUNT][REGION].queues.get(name)


def queue_arn_of(call: Call) -> str | None:
    """The ARN of the queue that a call names, whether or not there is such a queue."""
    url = call.params.get("QueueUrl")
    name = str(url).rstrip("/").rpartition("/")[2] if url else call.params.get("QueueName")
    return arn("sqs", str(name)) if name else None


def depths() -> dict[str, dict[str, int]]:
    """Each queue's messages by state: ``visible``, ``in_flight``, ``delayed``."""
    with API_LOCK:
        result = {}
        for queue in sqs_backends[ACCOUNT][REGION].queues.values():
            _drop_expired(queue)
            delayed = queue.approximate_number_of_messages_delayed
            in_flight = queue.approximate_number_of_messages_not_visible
            result[queue.name] = {"visible": len(queue.messages), "in_flight": in_flight, "delayed": delayed}
        return result


def next_visible(queue: Queue) -> float | None:
    """Seconds until a message of the queue can be received: 0 for now, ``None`` if there is no message at all."""
    now = time.time() * _MILLIS
    due = [max(m.visible_at, m.delayed_until, now) for m in queue._messages]
    return (min(due) - now) / _MILLIS if due else None


def wait_for_long_poll(_principal: Principal, call: Call, _request: Request) -> Answer | None:
    """Hold a ReceiveMessage back until a message can be received or its WaitTimeSeconds are over."""
    with API_LOCK:
        queue = find_queue(str(call.params.get("QueueUrl", "")))
        default = queue.receive_message_wait_time_seconds if queue else 0  # type: ignore[attr-defined]
    end = time.monotonic() + float(call.params.get("WaitTimeSeconds", default) or 0)
    while queue is not None and (left := end - time.monotonic()) > 0:
        seen = ACTIVITY.generation
        with API_LOCK:
            due = next_visible(queue)
        if due == 0:
            break
        # a hair more than the due time: moto calls a message visible strictly after it
        ACTIVITY.wait(seen, left if due is None else min(left, due + 0.005))
    return None


def _drop_expired(queue: Queue) -> None:
    """Retention counts from when a message was sent (SQS developer guide, "Message retention period")."""
    oldest = (time.time() - queue.message_retention_period) * _MILLIS  # type: ignore[attr-defined]
    queue._messages = [m for m in queue._messages if m.sent_timestamp is None or m.sent_timestamp > oldest]


def _send_message(original: Callable[..., Message]) -> Callable[..., Message]:
    def send_message(self: SQSBackend, *args: Any, **kwargs: Any) -> Message:
        message = original(self, *args, **kwargs)
        message.sender_id = CALLER.get().user_id
        ACTIVITY.notify()
        return message

    return send_message


def _receive_message(original: Callable[..., list[Message]]) -> Callable[..., list[Message]]:
    def receive_message(
        self: SQSBackend, queue_name: str, count: int, wait_seconds_timeout: int, *args: Any, **kwargs: Any
    ) -> list[Message]:
        # the wait happened before the lock was taken
        queue = self.get_queue(queue_name)
        _drop_expired(queue)
        before = len(queue._messages)
        received = original(self, queue_name, count, 0, *args, **kwargs)
        if len(queue._messages) < before:  # moved to the dead-letter queue
            ACTIVITY.notify()
        return received

    return receive_message


def _notifying(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        ACTIVITY.notify()
        return result

    return call


def _set_attributes(original: Callable[..., None]) -> Callable[..., None]:
    def set_attributes(self: Queue, attributes: dict[str, Any], now: float | None = None) -> None:
        # moto would drop the queue's policy with each change of something else
        kept = {"Policy": self.policy} if "Policy" not in attributes and hasattr(self, "_policy_json") else {}
        original(self, {**attributes, **kept}, now)

    return set_attributes


_installed = False


def install() -> None:
    """Put the additions into moto, once in a process."""
    global _installed
    if _installed:
        return
    _installed = True
    replace(SQSBackend, "send_message", _send_message(SQSBackend.send_message))
    replace(SQSBackend, "receive_message", _receive_message(SQSBackend.receive_message))
    replace(Queue, "_set_attributes", _set_attributes(Queue._set_attributes))
    for name in ("change_message_visibility", "delete_message", "purge_queue", "delete_queue"):
        replace(SQSBackend, name, _notifying(getattr(SQSBackend, name)))
