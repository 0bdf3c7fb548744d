"""EC2's request limits: a token bucket per action (docs: EC2 developer guide, "Request throttling for the EC2 API").

One account and Region here, so one set of buckets. Also counts what was called, since the number of calls is what a
control plane must be judged by.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from .awserrors import error_answer, error_code_of
from .callers import WsgiApp, call_app
from .calls import Call
from .middleware import StartResponse, call_of, respond

__all__ = ["Bucket", "Limit", "Throttle", "limit_of"]


@dataclass(frozen=True, slots=True)
class Limit:
    """``capacity`` tokens at most, ``refill`` more each second. A call takes one of ``name``'s."""

    name: str
    capacity: float
    refill: float


_OWN: Final[dict[str, tuple[float, float]]] = {
    "AssignPrivateIpAddresses": (100, 5),
    "UnassignPrivateIpAddresses": (100, 5),
    "AssignIpv6Addresses": (100, 5),
    "CreateNetworkInterface": (100, 5),
    "DeleteNetworkInterface": (100, 5),
    "ModifyNetworkInterfaceAttribute": (100, 5),
    "CreateTags": (100, 10),
    "DeleteTags": (100, 10),
    "RunInstances": (5, 2),
    "StartInstances": (5, 2),
    "TerminateInstances": (100, 5),
    "CreateSubnetCidrReservation": (5, 1),
    "DescribeInstanceTopology": (1, 1),
    "ModifyInstanceMetadataOptions": (100, 5),
}
"""Actions with figures of their own. AttachNetworkInterface and DetachNetworkInterface are not among them."""

_UNFILTERED: Final = frozenset(
    {
        "DescribeInstances",
        "DescribeInstanceStatus",
        "DescribeNetworkInterfaces",
        "DescribeSecurityGroups",
        "DescribeSnapshots",
        "DescribeSpotInstanceRequests",
        "DescribeVolumes",
    }
)
"""These cost more when called without filter and without pagination. Ids alone are neither."""

_READING: Final = ("Describe", "Get", "List", "Search")
_NON_MUTATING, _UNFILTERED_LIMIT, _MUTATING = (100.0, 20.0), (50.0, 10.0), (50.0, 5.0)


def limit_of(action: str, params: Mapping[str, Any]) -> Limit:
    """The bucket that a call draws from. ``params`` are the flat fields of the query protocol."""
    if action in _OWN:
        return Limit(action, *_OWN[action])
    if not action.startswith(_READING):
        return Limit(action, *_MUTATING)
    if action in _UNFILTERED and not any(name.startswith(("Filter.", "MaxResults")) for name in params):
        return Limit(f"{action} (unfiltered)", *_UNFILTERED_LIMIT)
    return Limit(action, *_NON_MUTATING)


class Bucket:
    """Tokens of one limit. ``now`` is in seconds on any clock that does not go back."""

    def __init__(self, limit: Limit, now: float) -> None:
        self._limit, self._tokens, self._then = limit, limit.capacity, now

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        grown = self._tokens + (now - self._then) * self._limit.refill
        self._tokens, self._then = min(self._limit.capacity, grown), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Throttle:
    """Answers ``RequestLimitExceeded`` when a bucket is empty, and counts all EC2 calls.

    ``scale`` multiplies capacities and refills (0.1: a tenth of AWS's); ``enabled`` may be switched at any time.
    """

    def __init__(
        self,
        app: WsgiApp,
        *,
        enabled: bool = True,
        scale: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._scale, self._clock = app, scale, clock
        self.enabled = enabled
        self._buckets: dict[str, Bucket] = {}
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        call = call_of(environ)
        if call is None or call.service != "ec2":
            return self._app(environ, start_response)
        if not self._take(call):
            refusal = error_answer("ec2", "RequestLimitExceeded", "Request limit exceeded.")
            self._count(call, "RequestLimitExceeded")
            return respond(replace(refusal, status=503), start_response)
        answer = call_app(self._app, environ)
        self._count(call, "ok" if answer.status < 400 else error_code_of(answer.body, answer.headers))
        return respond(answer, start_response)

    def calls(self) -> dict[str, int]:
        """Action → how often it was called and not throttled."""
        found: Counter[str] = Counter()
        for (action, outcome), count in self.outcomes().items():
            if outcome != "RequestLimitExceeded":
                found[action] += count
        return dict(sorted(found.items()))

    def throttled(self) -> dict[str, int]:
        """Action → how often it was refused for want of tokens."""
        found = {a: n for (a, outcome), n in self.outcomes().items() if outcome == "RequestLimitExceeded"}
        return dict(sorted(found.items()))

    def outcomes(self) -> dict[tuple[str, str], int]:
        """(action, ``ok`` or the error code) → count."""
        with self._lock:
            return dict(self._outcomes)

    def set_scale(self, scale: float) -> None:
        """Change the scale and start with full buckets."""
        with self._lock:
            self._scale = scale
            self._buckets.clear()

    def reset(self) -> None:
        """Full buckets, counts at zero."""
        with self._lock:
            self._buckets.clear()
            self._outcomes.clear()

    def _take(self, call: Call) -> bool:
        if not self.enabled:
            return True
        limit = limit_of(call.action, call.params)
        with self._lock:
            now = self._clock()
            bucket = self._buckets.get(limit.name)
            if bucket is None:
                scaled = replace(limit, capacity=limit.capacity * self._scale, refill=limit.refill * self._scale)
                bucket = self._buckets[limit.name] = Bucket(scaled, now)
            return bucket.take(now)

    def _count(self, call: Call, outcome: str) -> None:
        with self._lock:
            self._outcomes[call.action, outcome] += 1
