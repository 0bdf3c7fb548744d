"""How soon the kernel is looked at again after it told of a change: at once, unless something keeps undoing ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

__all__ = ["Pace"]

_DEBOUNCE: Final = 0.1
_LONGEST: Final = 5.0
_APART: Final = 1.0
"""Looks begin at least this far apart: a neighbour's every change of a link or an address asks for one."""
_QUIET: Final = 30.0
_ENOUGH: Final = 5


@dataclass(frozen=True, slots=True)
class Pace:
    """Times are seconds of one clock. ``strikes`` counts looks in a row that had a loss to mend."""

    strikes: int = 0
    lost: str = ""
    """What was lost since the last look began."""
    blame: str = ""
    looked_at: float = float("-inf")

    def told(self, lost: str) -> Pace:
        """The kernel told that something of ours was taken away."""
        return replace(self, lost=lost, blame=lost)

    def pause(self, now: float) -> float:
        """How long to wait before the next look, so that one look serves a burst of changes."""
        strikes = self.strikes if self._recent(now) else 0
        backoff = min(_DEBOUNCE * 2.0 ** min(strikes, 10), _LONGEST)
        return float(max(backoff, self.looked_at + _APART - now))

    def looks(self, now: float) -> Pace:
        """A look begins."""
        before = self.strikes if self._recent(now) else 0
        return Pace(before + bool(self.lost), "", self.blame, now)

    def fight(self, now: float) -> str:
        """What somebody keeps taking away; empty if nobody does."""
        return self.blame if self.strikes >= _ENOUGH and self._recent(now) else ""

    def _recent(self, now: float) -> bool:
        return now - self.looked_at < _QUIET
