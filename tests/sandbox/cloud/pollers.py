"""SQS event source mappings: reads deployed mappings, invokes their functions with batches, deletes what was done."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from moto.awslambda.models import EventSourceMapping, LambdaBackend, lambda_backends
from moto.core.exceptions import JsonRESTError
from moto.events.models import EventPattern
from moto.sqs.models import Message, Queue, sqs_backends

from .batches import sqs_event, sqs_record, undone
from .identity import ACCOUNT, REGION
from .lock import API_LOCK
from .patching import replace
from .sqs import ACTIVITY, find_queue, next_visible
from .workers import RoleMay, Workers, find_function

__all__ = ["Pollers"]

LOG: Final = logging.getLogger(__name__)

DEFAULT_CONCURRENCY: Final = 5
"""Concurrent batches of a standard queue at first (Lambda developer guide, "Configuring scaling behavior")."""


class _Poller:
    """One event source mapping. Sleeps until a message can be received and a slot is free."""

    def __init__(self, mapping: EventSourceMapping, workers: Workers) -> None:
        name = f"sqs-poller-{mapping.uuid[:8]}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._mapping = mapping
        self._workers = workers
        self._ended = threading.Event()
        limit = int((mapping.scaling_config or {}).get("MaximumConcurrency") or DEFAULT_CONCURRENCY)
        self._slots = threading.Semaphore(limit)
        self._pool = ThreadPoolExecutor(max_workers=limit, thread_name_prefix=name)
        self.processing = 0

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(timeout=5)

    def end(self) -> None:
        self._ended.set()
        ACTIVITY.notify()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while not self._ended.is_set():
            if not self._slots.acquire(timeout=0.2):
                continue
            batch = self._next_batch()
            if batch is None:
                self._slots.release()
                return
            try:
                self._pool.submit(self._process, *batch)
            except RuntimeError:  # ended meanwhile: let another poller have the messages
                queue, messages = batch
                with API_LOCK:
                    for message in messages:
                        backend = sqs_backends[ACCOUNT][REGION]
                        backend.change_message_visibility(queue.name, str(message.receipt_handle), 0)
                return

    def _next_batch(self) -> tuple[Queue, list[Message]] | None:
        """Block until there is one; ``None`` when the poller ends."""
        while not self._ended.is_set():
            seen = ACTIVITY.generation
            due: float | None = None
            if self._workers_have_room():
                with API_LOCK:
                    queue = find_queue(self._mapping.event_source_arn)
                    if queue is not None and not self._ended.is_set():
                        due = self._due(queue)
                        messages = self._receive(queue) if due == 0 else []
                        if messages:
                            return queue, messages
                if due == 0:
                    due = 0.005  # visible only from the next millisecond on, by moto's reckoning
            else:
                due = 0.05
            ACTIVITY.wait(seen, None if due is None else max(due, 0.001))
        return None

    def _workers_have_room(self) -> bool:
        try:
            return self._workers.has_room(self._mapping.function_arn)
        except LookupError:
            return False

    def _due(self, queue: Queue) -> float | None:
        """Seconds until a batch should be read: the batching window holds an incomplete one back."""
        due = next_visible(queue)
        window = float(self._mapping.max_batch_window or 0)
        if due != 0 or not window or len(queue.messages) >= self._mapping.batch_size:
            return due
        oldest = min(max(m.sent_timestamp or 0, m.delayed_until, m.visible_at) for m in queue.messages)
        return max(0.0, oldest / 1000 + window - time.time())

    def _receive(self, queue: Queue) -> list[Message]:
        backend = sqs_backends[ACCOUNT][REGION]
        timeout = int(queue.visibility_timeout)  # type: ignore[attr-defined]
        received = backend.receive_message(queue.name, self._mapping.batch_size, 0, timeout, ["All"])
        wanted = [m for m in received if self._matches(m)]
        self._delete(queue, [m for m in received if m not in wanted])
        self.processing += 1 if wanted else 0
        return wanted

    def _matches(self, message: Message) -> bool:
        """Filters see the body as JSON; what does not match is deleted (same guide, "Event filtering")."""
        filters = (self._mapping.filter_criteria or {}).get("Filters") or []
        if not filters:
            return True
        try:
            body = json.loads(message.body)
        except (ValueError, RecursionError):
            body = message.body
        event: Any = {**sqs_record(message, self._mapping.event_source_arn), "body": body}
        return any(EventPattern.load(f["Pattern"]).matches_event(event) for f in filters)

    def _process(self, queue: Queue, messages: list[Message]) -> None:
        try:
            event = json.dumps(sqs_event(messages, queue.queue_arn)).encode()
            outcome = self._workers.invoke(self._mapping.function_arn, event)
            partial = "ReportBatchItemFailures" in (self._mapping.function_response_types or [])
            failed = undone([m.id for m in messages], outcome, partial=partial)
            with API_LOCK:
                self._delete(queue, [m for m in messages if m.id not in failed])
            # the failed ones come back when their visibility timeout ends
        except Exception:
            if not self._ended.is_set():
                LOG.exception("batch of %s", queue.name)
        finally:
            self.processing -= 1
            self._slots.release()
            ACTIVITY.notify()

    def _delete(self, queue: Queue, messages: Sequence[Message]) -> None:
        for message in messages:
            if any(message.receipt_handle in m.all_receipt_handles for m in queue._messages):
                queue.delete_message(str(message.receipt_handle))


class Pollers:
    """Keeps one poller for each enabled SQS mapping that is deployed."""

    def __init__(self, workers: Workers, role_may: RoleMay) -> None:
        self._workers = workers
        self.role_may = role_may
        self._pollers: dict[str, tuple[str, _Poller]] = {}

    def install(self) -> None:
        """Follow moto's mappings from now on, until ``close``."""
        global _current
        _patch()
        _current = self
        self.sync()

    def sync(self) -> None:
        """Make the pollers match what is deployed."""
        with API_LOCK:
            mappings = dict(lambda_backends[ACCOUNT][REGION]._event_source_mappings)
            for uuid, (config, poller) in list(self._pollers.items()):
                mapping = mappings.get(uuid)
                if mapping is None or not mapping.enabled or _config(mapping) != config:
                    poller.end()
                    del self._pollers[uuid]
            for uuid, mapping in mappings.items():
                if mapping.enabled and uuid not in self._pollers:
                    poller = _Poller(mapping, self._workers)
                    self._pollers[uuid] = (_config(mapping), poller)
                    poller.start()

    def state(self) -> dict[str, int]:
        """Batches being processed, by queue."""
        with API_LOCK:
            pollers = [p for _, p in self._pollers.values()]
            return {p._mapping.event_source_arn.rpartition(":")[2]: p.processing for p in pollers}

    def close(self) -> None:
        global _current
        with API_LOCK:
            _current = None if _current is self else _current
            pollers = [p for _, p in self._pollers.values()]
            self._pollers.clear()
        for poller in pollers:
            poller.end()
        for poller in pollers:
            poller.join()


def _config(mapping: EventSourceMapping) -> str:
    return json.dumps(mapping.get_configuration(), sort_keys=True, default=str)


_current: Pollers | None = None
_patched = False


def _patch() -> None:
    """Learn of each change of a mapping, and keep moto from invoking functions inside SendMessage."""
    global _patched
    if _patched:
        return
    _patched = True
    create = LambdaBackend.create_event_source_mapping

    def create_event_source_mapping(self: LambdaBackend, spec: dict[str, Any]) -> EventSourceMapping:
        if ":sqs:" not in str(spec.get("EventSourceArn")):
            raise JsonRESTError("InvalidParameterValueException", "The sandbox polls SQS event sources alone.")
        _check_role(spec)
        mapping = create(self, spec)
        queue = find_queue(mapping.event_source_arn)
        if queue is not None:
            queue.lambda_event_source_mappings.clear()
        _sync()
        return mapping

    replace(LambdaBackend, "create_event_source_mapping", create_event_source_mapping)
    for name in ("update_event_source_mapping", "delete_event_source_mapping"):
        replace(LambdaBackend, name, _then_sync(getattr(LambdaBackend, name)))


def _check_role(spec: dict[str, Any]) -> None:
    """Lambda reads the queue with the function's role, and looks at once whether it may (CreateEventSourceMapping)."""
    function = find_function(str(spec.get("FunctionName")))
    for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes"):
        if function and _current and not _current.role_may(function.role, f"sqs:{action}", spec["EventSourceArn"]):
            message = f"The provided execution role does not have permissions to call {action} on SQS"
            raise JsonRESTError("InvalidParameterValueException", message)


def _sync() -> None:
    if _current:
        _current.sync()


def _then_sync(method: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        _sync()
        return result

    return call
