"""aws.ec2 "AWS API Call via CloudTrail": somebody attached, detached, deleted or changed a network interface.

Or gave it an Elastic IP address, or took one off.

A rule leaves out what Berth's own roles do, and calls that failed. The event names whatever the call named: an
instance, an interface or an attachment, in lower camel case, somewhere in the call's parameters or answer.
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-service-event-cloudtrail.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from berth.events.signal import Envelope, read_envelope

__all__ = ["KEY", "InterfaceCall", "parse", "read_call"]

KEY: Final = ("aws.ec2", "AWS API Call via CloudTrail")
_IDS: Final = {
    "instanceId": re.compile(r"i-[0-9a-f]{8}(?:[0-9a-f]{9})?"),
    "networkInterfaceId": re.compile(r"eni-[0-9a-f]{8}(?:[0-9a-f]{9})?"),
    "attachmentId": re.compile(r"eni-attach-[0-9a-f]{8}(?:[0-9a-f]{9})?"),
}


@dataclass(frozen=True, slots=True)
class InterfaceCall:
    """What a call named. ``action`` is EC2's name of it."""

    action: str
    instances: frozenset[str] = frozenset()
    interfaces: frozenset[str] = frozenset()
    attachments: frozenset[str] = frozenset()


def parse(event: Envelope) -> InterfaceCall:
    """Ids of another form are left out: they name nothing that could be ours."""
    named: dict[str, set[str]] = {name: set() for name in _IDS}
    for part in ("requestParameters", "responseElements"):
        for name, value in _leaves(event.detail.get(part)):
            if name in _IDS and _IDS[name].fullmatch(value):
                named[name].add(value)
    return InterfaceCall(
        action=event.text("eventName"),
        instances=frozenset(named["instanceId"]),
        interfaces=frozenset(named["networkInterfaceId"]),
        attachments=frozenset(named["attachmentId"]),
    )


def read_call(body: str) -> InterfaceCall:
    """Read one queued event. Raises :class:`~berth.events.MalformedEventError`."""
    return parse(read_envelope(body))


def _leaves(value: Any) -> Iterator[tuple[str, str]]:
    """(name, text) of every text in a JSON value, however deep."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend((str(k), v) for k, v in item.items())
        elif isinstance(item, list):
            waiting.extend((name, v) for v in item)
        elif isinstance(item, str):
            yield name, item
