"""What an invocation measures for its metrics: EC2 calls by outcome, times, and levels. No I/O.

Made once for each execution environment and emptied at the end of each invocation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Meters", "Readings"]


@dataclass(frozen=True, slots=True)
class Readings:
    """``calls``: (EC2 action, outcome) → how many; an outcome is ``ok`` or EC2's error code. ``times``: metric →
    milliseconds. ``levels``: (metric, its dimension's name and value) → the last level seen."""

    calls: dict[tuple[str, str], int]
    times: dict[str, list[float]]
    levels: dict[tuple[str, str, str], float]


@dataclass(slots=True)
class Meters:
    """Only ever added to; :meth:`take` empties it."""

    _calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    _times: dict[str, list[float]] = field(default_factory=dict)
    _levels: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def called(self, action: str, outcome: str) -> None:
        """One EC2 call was answered. ``action`` is EC2's name, as in ``AssignPrivateIpAddresses``."""
        self._calls[action, outcome] += 1

    def took(self, name: str, seconds: float) -> None:
        """Clocks of different hosts may differ: what seems to have taken less than no time took none."""
        self._times.setdefault(name, []).append(round(max(seconds, 0.0) * 1000, 1))

    def aged(self, name: str, now: float, times: Iterable[float]) -> None:
        """How long ago messages were sent; 0 is a time that nobody knows."""
        for at in filter(None, times):
            self.took(name, now - at)

    def stands(self, name: str, level: float, **dimension: str) -> None:
        """A level such as the tokens left of one ``action``."""
        ((key, value),) = dimension.items()
        self._levels[name, key, value] = level

    def take(self) -> Readings:
        """What was measured since the last time."""
        taken = Readings(dict(self._calls), self._times, self._levels)
        self._calls, self._times, self._levels = Counter(), {}, {}
        return taken
