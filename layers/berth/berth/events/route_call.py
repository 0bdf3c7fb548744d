"""aws.ec2 "AWS API Call via CloudTrail": somebody changed a route, or what routes lead to.

Whoever made the call: stacks and pipelines change routes too, and Berth's own roles never do. The rule names the calls
and leaves out those that failed. What has changed is read from EC2, so only the call's name is kept, for the log.
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-service-event-cloudtrail.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from berth.events.signal import Envelope, read_envelope

__all__ = ["KEY", "RouteCall", "parse", "read_call"]

KEY: Final = ("aws.ec2", "AWS API Call via CloudTrail")


@dataclass(frozen=True, slots=True)
class RouteCall:
    """``action`` is EC2's name of the call."""

    action: str


def parse(event: Envelope) -> RouteCall:
    return RouteCall(event.text("eventName"))


def read_call(body: str) -> RouteCall:
    """Read one queued event. Raises :class:`~berth.events.MalformedEventError`."""
    return parse(read_envelope(body))
