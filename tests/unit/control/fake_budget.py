"""The token budget in memory, with the arithmetic of the real one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.buckets import AHEAD_SECONDS, Buckets, Level
from berth.budget import SLOW_SECONDS, Priority, Slot, terms


@dataclass
class FakeBudget:
    """``levels`` are by action; ``taken`` lists (action, count, when they may be used) of all that was given."""

    buckets: Buckets = field(default_factory=Buckets)
    levels: dict[str, Level] = field(default_factory=dict)
    taken: list[tuple[str, int, float]] = field(default_factory=list)
    throttlings: list[str] = field(default_factory=list)

    def reserve(self, action: str, count: int, priority: Priority, now: float) -> Slot:
        share, ahead = terms(action, priority)
        bucket, level = self.buckets.of(action), self.levels.get(action, Level())
        draw = bucket.draw(level, count, now, share=share, ahead=ahead)
        if not draw.allowed:
            free = max(now, draw.tat - bucket.tolerance * share)
            return Slot(min(free, now + AHEAD_SECONDS), reserved=False, left=bucket.left(level, now))
        self.levels[action] = level = Level(draw.tat, level.slow_until)
        self.taken.append((action, count, draw.at))
        return Slot(draw.at, until=bucket.until(draw.tat, count, now), left=bucket.left(level, now))

    def waits(self, actions: frozenset[str], now: float) -> Mapping[str, float]:
        return {a: self.buckets.of(a).draw(self.levels.get(a, Level()), 1, now).at - now for a in actions}

    def throttled(self, action: str, now: float) -> None:
        self.throttlings.append(action)
        tat = max(self.levels.get(action, Level()).tat, self.buckets.of(action).emptied(now))
        self.levels[action] = Level(tat, now + SLOW_SECONDS)

    def exhaust(self, action: str, until: float) -> None:
        """No token is to be had before ``until``."""
        bucket = self.buckets.of(action)
        self.levels[action] = Level(until + bucket.tolerance - 1 / bucket.refill)
