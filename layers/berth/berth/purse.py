"""The tokens that one node's run spends: taken for a whole plan at once, kept where they are for later."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from berth.buckets import Reservation
from berth.budget import MOST_TOKENS, Budget, Priority
from berth.calls import GROWING, Call
from berth.meters import Meters
from berth.model import NodeView
from berth.records import usable_addresses

__all__ = ["Purse", "priority_of"]


def priority_of(call: Call, view: NodeView) -> Priority:
    """How urgent a call is.

    A node is new until it has reported, and while it may use no address. What does not bring addresses (marking,
    releasing, cleaning up) has buckets that nobody else wants, and a slot costs fewer looks than coming again.
    """
    if view.instance.dead:
        return Priority.SHORTAGE
    if view.report is None or not usable_addresses(view.record):
        return Priority.NEW_NODE
    free = view.assigned() - view.report.cooling - view.report.in_use
    if view.report.waiting or free <= 0 or not isinstance(call, GROWING):
        return Priority.SHORTAGE
    return Priority.WARM


@dataclass(slots=True)
class Purse:
    """``held`` are tokens by action; those with a time ahead are ``stored`` with the node's intents, so that whoever
    looks next takes no second slot."""

    budget: Budget
    meters: Meters
    clock: Callable[[], float]
    held: dict[str, Reservation] = field(default_factory=dict)
    stored: tuple[Reservation, ...] = ()
    missed: int = 0
    _ahead: set[str] = field(default_factory=set)
    _refused: dict[str, float] = field(default_factory=dict)

    def fill(self, stored: tuple[Reservation, ...]) -> None:
        """Take up what earlier looks have reserved. A slot that was missed is no longer good, and counted."""
        now, self.stored = self.clock(), stored
        for held in stored:
            if held.until < now:
                self.missed += 1
            else:
                self.held[held.action] = held
                self._ahead.add(held.action)

    def due(self, action: str, count: int, priority: Priority) -> float:
        """When the next call of ``action`` may be made: 0 for now, else Unix seconds (infinity: nobody can tell).

        Takes up to ``count`` tokens if none are held.
        """
        if not action:
            return 0.0
        now = self.clock()
        held = self.held.get(action)
        if held is not None and held.until < now:
            self._drop(action)
            held = None
        if held is None and action in self._refused:
            return self._refused[action]
        if held is None:
            held = self._take(action, min(count, MOST_TOKENS), priority, now)
        if held is None:
            return self._refused[action]
        return 0.0 if held.at <= now else held.at

    def spend(self, action: str) -> None:
        """One call is about to be made, for which :meth:`due` gave 0."""
        held = self.held.get(action)
        if held is not None and held.count > 1:
            self.held[action] = replace(held, count=held.count - 1)
        elif held is not None:
            self._drop(action)

    def throttled(self, action: str, priority: Priority) -> None:
        """EC2 had no token in spite of ours: what is held is worth nothing. Nobody tries again before a later slot."""
        now = self.clock()
        self._drop(action)
        self.budget.throttled(action, now)
        held = self._take(action, 1, priority, now)
        if held is not None and held.at <= now:
            self._drop(action)
            self._refused[action] = math.inf

    def kept(self) -> tuple[Reservation, ...]:
        """What the node's next look is to find. What was to be had at once and was not used is gone."""
        return tuple(self.held[a] for a in sorted(self._ahead & self.held.keys()))

    def _take(self, action: str, count: int, priority: Priority, now: float) -> Reservation | None:
        slot = self.budget.reserve(action, count, priority, now)
        if slot.left is not None:
            self.meters.stands("TokensLeft", slot.left, action=action)
        if not slot.reserved:
            self._refused[action] = slot.at
            return None
        if slot.at > now:
            self._ahead.add(action)
        held = self.held[action] = Reservation(action, count, slot.at, slot.until)
        return held

    def _drop(self, action: str) -> None:
        self.held.pop(action, None)
        self._ahead.discard(action)
