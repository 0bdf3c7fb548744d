"""EventBridge: matches events against the deployed rules and delivers them to queues and functions.

Replaces moto's delivery, which fires disabled and scheduled rules on any event, knows no Lambda target, and lets a
missing target fail PutEvents.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from moto.events.exceptions import ValidationException
from moto.events.models import EventsBackend, Rule, events_backends
from moto.sqs.models import sqs_backends

from .asyncinvoke import AsyncInvoker
from .identity import ACCOUNT, CALLER, EVENTBRIDGE, REGION, Principal
from .lock import API_LOCK
from .patching import replace
from .sqs import find_queue
from .transforms import target_input
from .workers import find_function

__all__ = ["EventBridge", "MayInvoke", "MaySend", "UndeliverableError", "scheduled_event", "send_to_queue"]

MaySend = Callable[[Principal, str, str | None], str | None]
"""(sender, queue ARN, source ARN) → why not, or ``None``."""
MayInvoke = Callable[[str, str], str | None]
"""(function ARN, source ARN) → why EventBridge may not invoke it, or ``None``."""

_MAX_ENTRIES_BYTES: Final = 1024 * 1024


class UndeliverableError(LookupError):
    """A target that is not there, or not permitted. ``code`` is EventBridge's ERROR_CODE of the dead letter."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def send_to_queue(may_send: MaySend) -> Callable[..., None]:
    """A function that sends as a principal, if the queue exists and lets it."""

    def send(
        sender: Principal,
        queue_arn: str,
        body: str,
        *,
        source_arn: str | None = None,
        attributes: Mapping[str, str] | None = None,
        group_id: str | None = None,
    ) -> None:
        with API_LOCK:
            queue = find_queue(queue_arn)
            if queue is None:
                raise UndeliverableError("NO_RESOURCE", f"The queue {queue_arn} does not exist.")
            denial = may_send(sender, queue_arn, source_arn)
            if denial:
                raise UndeliverableError("NO_PERMISSIONS", denial)
            values = {k: {"DataType": "String", "StringValue": v} for k, v in (attributes or {}).items() if v}
            token = CALLER.set(sender)
            try:
                sqs_backends[ACCOUNT][REGION].send_message(
                    queue.name, body, message_attributes=values, group_id=group_id
                )
            finally:
                CALLER.reset(token)

    return send


class EventBridge:
    """Delivers events. ``emit`` is how the simulated services put theirs."""

    def __init__(self, send: Callable[..., None], may_invoke: MayInvoke, invoker: AsyncInvoker) -> None:
        self._send = send
        self._may_invoke = may_invoke
        self._invoker = invoker

    def install(self) -> None:
        """Take over moto's PutEvents, and its delivery of the events that simulated services put."""
        delivery = self

        def put_events(_backend: EventsBackend, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return delivery.put_events(events)

        def send_to_targets(rule: Rule, original_event: dict[str, Any], transform_input: bool = True) -> None:
            delivery.offer(rule, original_event)

        replace(EventsBackend, "put_events", put_events)
        replace(Rule, "send_to_targets", send_to_targets)

    def emit(
        self,
        source: str,
        detail_type: str,
        detail: Mapping[str, Any],
        resources: Sequence[str] = (),
        bus: str = "default",
    ) -> str:
        """Put an event as an AWS service does (``source`` may be ``aws.ec2``). Returns its id."""
        event = _event(source, detail_type, dict(detail), list(resources), time.time())
        self._match(bus, event)
        return str(event["id"])

    def put_events(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """PutEvents. A bad entry fails alone (API reference, PutEventsResultEntry)."""
        if len(entries) > 10 or sum(len(json.dumps(e, default=str)) for e in entries) > _MAX_ENTRIES_BYTES:
            raise ValidationException("Total size of the entries in the request is over the limit, or more than 10.")
        return [self._put(entry) for entry in entries]

    def _put(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        for name in ("Source", "DetailType", "Detail"):
            if not entry.get(name):
                return _failed(
                    "InvalidArgument", f"Parameter {name} is not valid. Reason: {name} is a required argument."
                )
        source = str(entry["Source"])
        if source.startswith("aws."):
            return _failed("NotAuthorizedForSourceException", "Not authorized for the source.")
        try:
            detail = json.loads(entry["Detail"])
        except ValueError:
            return _failed("MalformedDetail", "Detail is malformed.")
        if not isinstance(detail, dict):
            return _failed("MalformedDetail", "Detail is malformed.")
        bus = str(entry.get("EventBusName") or "default").rpartition("/")[2]
        when = float(entry.get("Time") or time.time())
        event = _event(source, str(entry["DetailType"]), detail, list(entry.get("Resources") or []), when)
        self._match(bus, event)
        return {"EventId": event["id"]}

    def _match(self, bus_name: str, event: dict[str, Any]) -> None:
        with API_LOCK:
            bus = events_backends[ACCOUNT][REGION].event_buses.get(bus_name)
            for rule in list(bus.rules.values()) if bus else []:  # no such bus: PutEvents succeeds all the same
                self.offer(rule, event)

    def offer(self, rule: Rule, event: Mapping[str, Any]) -> None:
        """Deliver ``event`` if the rule is enabled and has a pattern that matches. ``time`` may be epoch seconds."""
        when = event["time"]
        public: Any = {k: v for k, v in event.items() if k != "ingestion-time"}
        public["time"] = when if isinstance(when, str) else _iso(float(when))
        pattern = rule.event_pattern
        if rule.state == "ENABLED" and pattern.dump() and pattern.matches_event(public):
            self.deliver(rule, public)

    def deliver(self, rule: Rule, event: Mapping[str, Any]) -> None:
        """Give ``event`` to each target of the rule, whatever its pattern."""
        for target in list(rule.targets):
            self.deliver_to(target, target_input(event, target, rule.arn, rule.name), rule.arn)

    def deliver_to(
        self, target: Mapping[str, Any], body: str, source_arn: str, sender: Principal = EVENTBRIDGE
    ) -> None:
        """Give ``body`` to one target. What cannot be delivered goes to the target's dead-letter queue."""
        target_arn = str(target["Arn"])
        try:
            service = target_arn.split(":")[2]
            if service == "sqs":
                group = (target.get("SqsParameters") or {}).get("MessageGroupId")
                self._send(sender, target_arn, body, source_arn=source_arn, group_id=group)
            elif service == "lambda":
                self._invoke(target_arn, body, source_arn, sender)
            else:
                raise UndeliverableError("NO_RESOURCE", f"The sandbox delivers to SQS and Lambda, not to {target_arn}.")
        except UndeliverableError as error:
            self._dead_letter(target, body, source_arn, error)

    def _invoke(self, function_arn: str, body: str, source_arn: str, sender: Principal) -> None:
        with API_LOCK:
            if find_function(function_arn) is None:
                raise UndeliverableError("NO_RESOURCE", f"The function {function_arn} does not exist.")
            # a session of a role was checked by its own policies already
            denial = self._may_invoke(function_arn, source_arn) if sender is EVENTBRIDGE else None
        if denial:
            raise UndeliverableError("NO_PERMISSIONS", denial)
        self._invoker.submit(function_arn, body.encode())

    def _dead_letter(self, target: Mapping[str, Any], body: str, source: str, error: UndeliverableError) -> None:
        queue = (target.get("DeadLetterConfig") or {}).get("Arn")
        if not queue:
            return
        attributes = {
            "RULE_ARN": source,
            "TARGET_ARN": str(target["Arn"]),
            "ERROR_CODE": error.code,
            "ERROR_MESSAGE": str(error),
        }
        try:
            self._send(EVENTBRIDGE, queue, body, source_arn=source, attributes=attributes)
        except UndeliverableError:
            return  # lost, as on AWS: a dead-letter queue has no dead-letter queue


def _failed(code: str, message: str) -> dict[str, Any]:
    return {"ErrorCode": code, "ErrorMessage": message}


def _event(source: str, detail_type: str, detail: dict[str, Any], resources: list[str], when: float) -> dict[str, Any]:
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": detail_type,
        "source": source,
        "account": ACCOUNT,
        "time": _iso(when),
        "region": REGION,
        "resources": resources,
        "detail": detail,
    }


def scheduled_event(detail_type: str, source_arn: str, source: str, when: float) -> dict[str, Any]:
    """What a schedule's target gets (EventBridge user guide, "Scheduled Event")."""
    return _event(source, detail_type, {}, [source_arn], when)


def _iso(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
