"""The SQS edge: asks for another look at a node, at once or after a delay."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

from berth.events.node_look_requested import HookWait, body

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

__all__ = [
    "FRESH_SECONDS",
    "LOOKS_PER_SECOND",
    "MAX_DELAY_SECONDS",
    "ROUTES_CHANGED",
    "SPREAD_SECONDS",
    "LookQueue",
    "Looks",
    "backoff",
    "delay_until",
    "longest",
    "spread",
]

MAX_DELAY_SECONDS: Final = 900
"""The longest DelaySeconds of a message (SQS API reference)."""
ROUTES_CHANGED: Final = "routes changed"
"""The reason of looks whose nodes are to follow other routes."""
FRESH_SECONDS: Final = 5
"""Such a look is asked for with so much delay, and trusts no description of routes that is older: so it was made after
the change was seen, and looks that follow each other share one."""
LOOKS_PER_SECOND: Final = 20
SPREAD_SECONDS: Final = 240
"""Looks at many nodes are spread, so that what concerns thousands is no stampede; over less than the time between two
sweeps."""
_ENTRIES: Final = 10


def spread(before: int) -> int:
    """Seconds that a look is put off which so many others were asked for with."""
    return min(before // LOOKS_PER_SECOND, SPREAD_SECONDS)


def backoff(base: float, looks: int) -> int:
    """Seconds until the next look after ``looks`` in vain: doubling, with jitter so that nodes do not march in step.

    It also keeps the chain of messages short: Lambda stops a function that feeds its own queue after about 16 rounds.
    """
    return max(1, round(longest(base, looks) * random.uniform(0.8, 1.0)))  # noqa: S311 - jitter, not a secret


def longest(base: float, looks: int) -> float:
    """The most seconds that :func:`backoff` may give."""
    return min(base * 2.0 ** min(looks, 10), MAX_DELAY_SECONDS)


def delay_until(at: float, now: float) -> int:
    """Whole seconds (1 to 900) after which it is ``at``, and not before: a message's delay."""
    return min(max(1, math.ceil(at - now)), MAX_DELAY_SECONDS)


class Looks(Protocol):
    """Where looks are asked for."""

    def ask(
        self,
        instance_ids: Iterable[str],
        reason: str,
        delay: int = 0,
        hook: HookWait | None = None,
        due: float = 0.0,
    ) -> None:
        """Have somebody look at these nodes in ``delay`` seconds (0 to 900). ``hook`` is what they wait in.

        ``due`` is what the nodes' notes say of that look: once they say another time, or none, it is not needed.
        """


class LookQueue:
    """The queue ``node-events`` through boto3."""

    def __init__(self, client: SQSClient, url: str) -> None:
        self._client, self._url = client, url

    def ask(
        self,
        instance_ids: Iterable[str],
        reason: str,
        delay: int = 0,
        hook: HookWait | None = None,
        due: float = 0.0,
    ) -> None:
        waiting = list(instance_ids)
        for start in range(0, len(waiting), _ENTRIES):
            answer = self._client.send_message_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(n), "MessageBody": body(instance_id, reason, hook, due), "DelaySeconds": delay}
                    for n, instance_id in enumerate(waiting[start : start + _ENTRIES])
                ],
            )
            if answer.get("Failed"):
                first = answer["Failed"][0]
                raise RuntimeError(f"SQS did not take {len(answer['Failed'])} messages: {first.get('Message', '')}")
