"""Asynchronous invocation: Lambda's own queue with its retries, then the function's failure destination.

Two more attempts, one and two minutes later, unless the function's event invoke configuration says otherwise (Lambda
developer guide, "How Lambda handles errors and retries with asynchronous invocation").
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from moto.awslambda.models import LambdaFunction

from .environments import Outcome
from .identity import Principal, arn
from .lock import API_LOCK
from .timers import TIMERS
from .workers import NoSuchFunctionError, ThrottledError, Workers, find_function

__all__ = ["AsyncInvoker", "SendToQueue"]

LOG: Final = logging.getLogger(__name__)

RETRY_SECONDS: Final = (60.0, 120.0)
SendToQueue = Callable[..., None]
"""``send(principal, queue_arn, body, *, source_arn, attributes)``; raises ``UndeliverableError``."""


@dataclass(frozen=True, slots=True)
class _Job:
    function: str
    event: bytes
    request_id: str
    attempt: int = 1


class AsyncInvoker:
    """Runs events of type ``Event``. ``acceleration`` shortens the waits between attempts."""

    def __init__(self, workers: Workers, send: SendToQueue, acceleration: float = 1.0) -> None:
        self._workers = workers
        self._send = send
        self._acceleration = acceleration
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="lambda-async")
        self._closed = False

    def submit(self, function: str, event: bytes) -> str:
        """Queue an event for a function (name or ARN). Returns the request id."""
        job = _Job(function, event, str(uuid.uuid4()))
        self._pool.submit(self._run, job)
        return job.request_id

    def close(self) -> None:
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, job: _Job) -> None:
        try:
            outcome = self._workers.invoke(job.function, job.event)
        except (NoSuchFunctionError, ThrottledError) as error:
            outcome = Outcome(False, json.dumps({"errorType": type(error).__name__, "errorMessage": str(error)}))
        except Exception:
            LOG.exception("asynchronous invocation of %s", job.function)
            return
        if not outcome.ok and not self._closed:
            self._retry(job, outcome)

    def _retry(self, job: _Job, outcome: Outcome) -> None:
        with API_LOCK:
            function = find_function(job.function)
        if function is None:
            return
        config = function.event_invoke_config[-1].config if function.event_invoke_config else {}
        if job.attempt <= int(config.get("MaximumRetryAttempts", len(RETRY_SECONDS))):
            again = _Job(job.function, job.event, job.request_id, job.attempt + 1)
            delay = RETRY_SECONDS[job.attempt - 1] / self._acceleration
            TIMERS.call_later(max(delay, 0.01), lambda: None if self._closed else self._submit(again))
            return
        self._give_up(function, job, outcome, config)

    def _submit(self, job: _Job) -> None:
        self._pool.submit(self._run, job)

    def _give_up(self, function: LambdaFunction, job: _Job, outcome: Outcome, config: dict[str, Any]) -> None:
        role = function.role.rpartition("/")[2]
        sender = Principal("function", function.role, f":{function.function_name}", role=role)
        message = json.loads(outcome.payload).get("errorMessage", "")
        dead_letters = (getattr(function, "dead_letter_config", None) or {}).get("TargetArn")
        destination = config.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
        if dead_letters:
            attributes = {"RequestID": job.request_id, "ErrorCode": "200", "ErrorMessage": message[:1024]}
            self._deliver(sender, dead_letters, job.event.decode(), attributes)
        if destination:
            self._deliver(sender, destination, _envelope(function, job, outcome), {})
        if not (dead_letters or destination):
            LOG.warning("%s failed %d times, event dropped: %s", function.function_name, job.attempt, message)

    def _deliver(self, sender: Principal, queue: str, body: str, attributes: dict[str, str]) -> None:
        try:
            self._send(sender, queue, body, source_arn=None, attributes=attributes)
        except LookupError as error:
            LOG.warning("failed event could not be sent to %s: %s", queue, error)


def _envelope(function: LambdaFunction, job: _Job, outcome: Outcome) -> str:
    record = {
        "version": "1.0",
        "requestContext": {
            "requestId": job.request_id,
            "functionArn": arn("lambda", f"function:{function.function_name}:$LATEST"),
            "condition": "RetriesExhausted",
            "approximateInvokeCount": job.attempt,
        },
        "requestPayload": json.loads(job.event),
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "responsePayload": json.loads(outcome.payload),
    }
    return json.dumps(record)
