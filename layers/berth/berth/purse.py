"""The tokens that one node's run spends: taken for a whole plan at once, kept where they are for later."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from berth.buckets import Reservation
from berth.budget import MOST_TOKENS, Budget, Priority
from berth.calls import GROWING, Attach, Call, CreateInterface
from berth.meters import Meters
from berth.model import NodeView
from berth.own_interfaces import for_itself
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
    if for_itself(view) and (isinstance(call, Attach) or (isinstance(call, CreateInterface) and call.pod)):
        return Priority.SHORTAGE  # a pod waits for it
    free = view.assigned() - view.report.cooling - view.report.in_use
    if view.report.waiting or free <= 0 or not isinstance(call, GROWING):
        return Priority.SHORTAGE
    return Priority.WARM


@dataclass(slots=True)
class Purse:
    """``held`` are tokens to be had at once, ``ahead`` those for later. The latter are ``stored`` with the node's
    intents, so that whoever looks next takes no second slot. ``missed`` counts slots that are no longer good."""

    budget: Budget
    meters: Meters
    clock: Callable[[], float]
    held: list[Reservation] = field(default_factory=list)
    ahead: list[Reservation] = field(default_factory=list)
    stored: tuple[Reservation, ...] = ()
    missed: int = 0
    _refused: dict[str, float] = field(default_factory=dict)

    def fill(self, stored: tuple[Reservation, ...]) -> None:
        """Take up what earlier looks have reserved."""
        now, self.stored = self.clock(), stored
        self.ahead = [r for r in stored if r.until >= now]
        self.missed = len(stored) - len(self.ahead)

    def has(self, action: str) -> bool:
        """Whether a call of ``action`` may be made with a token in hand."""
        now = self.clock()
        return any(r.at <= now for r in self._good(action, now))

    def due(self, action: str, count: int, priority: Priority) -> float:
        """When the next call of ``action`` may be made: 0 for now, else Unix seconds (infinity: nobody can tell).

        Takes what is missing of ``count`` tokens.
        """
        if not action:
            return 0.0
        now = self.clock()
        missing = count - sum(r.count for r in self._good(action, now))
        if missing > 0 and action not in self._refused:
            self._take(action, min(missing, MOST_TOKENS), priority, now)
        first = min((r.at for r in self._good(action, now)), default=self._refused.get(action, math.inf))
        return 0.0 if first <= now else first

    def spend(self, action: str) -> None:
        """One call is about to be made, for which there is a token."""
        now = self.clock()
        usable = sorted((r for r in self._good(action, now) if r.at <= now), key=lambda r: r.until)
        for first in usable[:1]:
            where = self.held if first in self.held else self.ahead
            where.remove(first)
            if first.count > 1:
                where.append(replace(first, count=first.count - 1))

    def throttled(self, action: str, priority: Priority) -> None:
        """EC2 had no token in spite of ours: what is held is worth nothing. Nobody tries again before a later slot."""
        now = self.clock()
        self._drop(action)
        self.budget.throttled(action, now)
        self._take(action, 1, priority, now)
        if any(r.action == action for r in self.held):
            self._drop(action)
            self._refused[action] = math.inf

    def kept(self) -> tuple[Reservation, ...]:
        """What the node's next look is to find. What was to be had at once and was not used is gone."""
        return tuple(sorted(self.ahead, key=lambda r: (r.action, r.at)))

    def _good(self, action: str, now: float) -> list[Reservation]:
        return [r for r in (*self.held, *self.ahead) if r.action == action and r.until >= now]

    def _take(self, action: str, count: int, priority: Priority, now: float) -> None:
        slot = self.budget.reserve(action, count, priority, now)
        if slot.left is not None:
            self.meters.stands("TokensLeft", slot.left, action=action)
        if not slot.reserved:
            self._refused[action] = slot.at
            return
        where = self.ahead if slot.at > now else self.held
        where.append(Reservation(action, count, slot.at, slot.until))

    def _drop(self, action: str) -> None:
        self.held = [r for r in self.held if r.action != action]
        self.ahead = [r for r in self.ahead if r.action != action]
