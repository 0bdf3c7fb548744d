"""Which of a plan's calls may be made now: the kill switch must allow it, and its action must have a token."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from berth.brake import Level
from berth.calls import Call, action_of
from berth.model import NodeView
from berth.purse import Purse, priority_of

__all__ = ["Gate"]


@dataclass(slots=True)
class Gate:
    """The gate of one node's run. It remembers what it kept back of the last plan."""

    purse: Purse
    level: Level
    _blocked: dict[str, float] = field(default_factory=dict)
    _unrepeated: dict[str, float] = field(default_factory=dict)
    _held: int = 0

    def possible(self, calls: Sequence[Call], view: NodeView) -> Call | None:
        """A call that the brake allows and that has its token, if there is one.

        First what tokens are in hand for. So all interfaces are made before the first is attached, and the tokens to
        attach them are taken together: one by one, each would wait behind everybody who came in between.
        """
        allowed = [c for c in calls if self.level.allows(c)]
        wanted = Counter(action_of(c) for c in allowed)
        self._blocked, self._held = {}, len(calls) - len(allowed)
        ready = next((c for c in allowed if self.purse.has(action_of(c))), None)
        if ready is not None:
            return ready
        for call in allowed:
            action = action_of(call)
            at = self.purse.due(action, wanted[action], priority_of(call, view))
            if not at:
                return call
            self._blocked[action] = at
        return None

    def not_repeated(self) -> None:
        """What was kept back just now is a call made again: it waits for its token whatever later plans hold."""
        self._unrepeated |= self._blocked

    @property
    def held(self) -> int:
        """Calls of the last plan that the brake held."""
        return self._held

    @property
    def waits(self) -> dict[str, float]:
        """Actions whose token is for later, with its time (Unix seconds; infinity if nobody can tell)."""
        return self._unrepeated | self._blocked

    def account(self, counts: Counter[str]) -> list[str]:
        """Count what waits, and say why the node must be looked at again for it."""
        reasons = []
        if self.waits:
            counts["PlansDelayed"] += 1
            reasons.append(f"no token yet for {', '.join(sorted(self.waits))}")
        if self._held:
            counts["CallsHeldByBrake"] += self._held
            reasons.append(f"the brake is at {self.level.value}, calls held: {self._held}")
        if self.purse.missed:
            counts["SlotsMissed"] += self.purse.missed
        return reasons

    def due(self) -> float:
        """When the first of the tokens waited for is there; 0 if nobody can tell, or none is waited for."""
        soonest = min(self.waits.values(), default=0.0)
        return soonest if math.isfinite(soonest) else 0.0
