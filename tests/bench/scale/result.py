"""What a run comes to, and the arithmetic of its bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.sandbox.cloud.throttle import limit_of

__all__ = ["Result", "bound_by_action", "percentile"]


@dataclass(frozen=True, slots=True)
class Result:
    """One run. Seconds count from the first launch; None: not all nodes came so far. ``calls`` are by action."""

    nodes: int
    pods_per_node: int
    system: str
    mutating_calls_per_node: float
    describe_calls_per_node: float
    throttled_calls: int
    seconds_p50: float | None
    seconds_p99: float | None
    seconds_all: float | None
    bound_seconds: float
    latency_floor_seconds: float
    bound_action: str
    addresses_per_node: int
    calls: dict[str, int] = field(default_factory=dict)
    throttled: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    observed_seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def percentile(values: Sequence[float], share: float, of: int) -> float | None:
    """When ``share`` of ``of`` were there. None: so many never were."""
    index = math.ceil(share * of) - 1
    return round(sorted(values)[index], 2) if len(values) > index else None


def bound_by_action(calls: Mapping[str, int], throttled: Mapping[str, int]) -> tuple[float, str]:
    """The largest over mutating actions of (calls - burst) / refill, and that action.

    Calls that were throttled took no token. Nothing that makes so many calls can be done sooner after its first.
    """
    waits = {"": 0.0}
    for action, count in calls.items():
        if not action.startswith("Describe"):
            limit = limit_of(action, {})
            waits[action] = (count - throttled.get(action, 0) - limit.capacity) / limit.refill
    worst = max(waits, key=lambda a: waits[a])
    return waits[worst], worst
