"""The node queues over SQS: events as EventBridge would put them there, reports as nodes send them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from berth.contract import encode_report
from berth.events import Signal, parse
from berth.events.node_look_requested import HookWait
from berth.events.node_look_requested import body as look_body
from berth.ingest import SentReport, read_report
from botocore.exceptions import BotoCoreError, ClientError

from tests.sandbox.cloud.lock import API_LOCK
from tests.sandbox.cloud.sqs import depths, find_queue
from tests.simulator.kernel import Kernel
from tests.simulator.world import Message

from .account import QUEUES, Account

__all__ = ["Received", "WireQueues"]

_STATES = frozenset({"pending", "running", "stopping", "stopped", "shutting-down", "terminated"})
_SPOT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Received:
    """A message that a function has been given."""

    queue: str
    receipt: str
    content: Signal | SentReport

    @property
    def node(self) -> str:
        return self.content.instance_id


class WireQueues:
    """What the simulator asks of its queues. ``lost`` reports were not taken by SQS."""

    def __init__(self, kernel: Kernel, account: Account) -> None:
        self._kernel, self._account = kernel, account
        self._sqs = account.client("sqs")
        self._nodes: dict[str, Any] = {}
        self.lost = 0

    def put(self, content: Signal | SentReport, delay: float = 0.0) -> None:
        """An event is delivered, or a node sends a report."""
        if isinstance(content, SentReport):
            self._report(content, int(delay))
        else:
            url = self._account.queue_url("events")
            self._sqs.send_message(QueueUrl=url, MessageBody=self._event(content), DelaySeconds=int(delay))

    def _report(self, sent: SentReport, delay: int) -> None:
        if sent.instance_id not in self._nodes:
            self._nodes[sent.instance_id] = self._account.node_sqs(sent.instance_id)
        try:
            self._nodes[sent.instance_id].send_message(
                QueueUrl=self._account.queue_url("reports"), MessageBody=encode_report(sent.report), DelaySeconds=delay
            )
        except (BotoCoreError, ClientError):
            self.lost += 1  # the next report says it again

    def _event(self, signal: Signal) -> str:
        name, detail = signal.instance_id, {"instance-id": signal.instance_id}
        source, kind = "aws.ec2", "EC2 Instance State-change Notification"
        if signal.requested_until:
            until = datetime.fromtimestamp(signal.requested_until, UTC).isoformat()
            source, kind = "berth.request", "Node Capacity Requested"
            asked = {**detail, "addresses": signal.requested, "until": until}
        elif signal.draining_until:
            kind, asked = "EC2 Spot Instance Interruption Warning", {**detail, "instance-action": "terminate"}
        elif signal.reason in _STATES:
            asked = {**detail, "state": signal.reason}
        else:
            return look_body(name, signal.reason)
        # a Spot sign lasts for ten minutes: it is as old as makes it end when the schedule says so
        sent = signal.requested_at or signal.draining_until - _SPOT_SECONDS
        time = datetime.fromtimestamp(sent if sent > 0 else self._kernel.now, UTC).isoformat()
        event = {"version": "0", "id": name, "detail-type": kind, "source": source, "time": time, "detail": asked}
        return json.dumps(event)

    def ask(
        self, instance_ids: Iterable[str], reason: str, delay: int = 0, hook: HookWait | None = None, due: float = 0.0
    ) -> None:
        """The driver asks for a look."""
        for instance_id in instance_ids:
            body = look_body(instance_id, reason, hook, due)
            self._sqs.send_message(QueueUrl=self._account.queue_url("events"), MessageBody=body, DelaySeconds=delay)

    # ------------------------------------------------------------------------------------------- Lambda's poller

    def receive(self, most: int) -> list[Received]:
        """Up to ``most`` messages of each queue, as the event source mappings take them."""
        found = []
        for name in QUEUES:
            answer = self._sqs.receive_message(
                QueueUrl=self._account.queue_url(name), MaxNumberOfMessages=most, AttributeNames=["All"]
            )
            for message in answer.get("Messages", ()):
                sender = message["Attributes"]["SenderId"]
                content = parse(message["Body"]) if name == "events" else read_report(sender, message["Body"])
                found.append(Received(name, message["ReceiptHandle"], content))
        return found

    def done(self, message: Received) -> None:
        """Lambda deletes it, unless it has come back meanwhile and gone."""
        url = self._account.queue_url(message.queue)
        with contextlib.suppress(self._sqs.exceptions.ReceiptHandleIsInvalid):
            self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message.receipt)

    def due(self) -> list[str]:
        """The queues that have something to give now."""
        now = depths()
        return [name for name in QUEUES if now[name]["visible"]]

    @property
    def messages(self) -> list[Message]:
        """Everything that is on the queues, delayed or in flight too."""
        depths()  # what is older than the queue keeps is dropped
        found = []
        with API_LOCK:
            for name in QUEUES:
                queue: Any = find_queue(name)
                for m in queue._messages:
                    content = parse(m.body) if name == "events" else read_report(m.sender_id, m.body)
                    found.append(Message(content, m.delayed_until / 1000, m.sent_timestamp / 1000))
        return found
