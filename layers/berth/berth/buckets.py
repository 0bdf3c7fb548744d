"""The arithmetic of the token budget: a bucket for each EC2 action, kept as one time. Pure.

A bucket of ``capacity`` tokens that gains ``refill`` a second is one number, the *theoretical arrival time* (``tat``):
when it would be full again. Taking ``n`` tokens moves it on by ``n / refill`` from itself or from now, whichever is
later (generic cell rate algorithm, ITU-T I.371). It never goes back, so nobody who knows an old value takes too much.

Who finds no token may take one of the future: a *slot*. Slots follow one another at the refill's rate, so the bucket
is empty whenever one comes up; used late, what it did not take is still there, until the bucket is full. After that it
is no longer good (:meth:`Bucket.until`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = [
    "AHEAD_SECONDS",
    "MARGIN_SECONDS",
    "MOST_TOKENS",
    "Bucket",
    "Buckets",
    "Draw",
    "Level",
    "Reservation",
    "parse_buckets",
]

MARGIN_SECONDS: Final = 2.0
"""So much of the refill is kept back: hosts' clocks differ by up to a second, and a call is made a moment after its
token was taken. It makes a launch this much longer, however large it is."""
_MARGIN_SHARE: Final = 0.2
"""The margin takes no more than this of the capacity."""
AHEAD_SECONDS: Final = 900.0
"""Slots are given no further ahead: a message can be delayed no longer (SQS API reference, DelaySeconds)."""
MOST_TOKENS: Final = 10
"""Tokens taken at once; a plan that needs more takes again."""
_SLOWER: Final = 2.0
_ROUNDING: Final = 1e-5
_SMALLEST: Final = 2 * MOST_TOKENS

# EC2 Developer Guide, "Request throttling for the Amazon EC2 API": an account and region has a bucket for each action.
# Describes are filtered here, which gives them the larger bucket; attaching and detaching are not listed there and so
# are mutating actions as any other.
_DESCRIBING: Final = (100.0, 20.0)
_MUTATING: Final = (50.0, 5.0)
_LISTED: Final[Mapping[str, tuple[float, float]]] = {
    "AssignIpv6Addresses": (100.0, 5.0),
    "AssignPrivateIpAddresses": (100.0, 5.0),
    "CreateNetworkInterface": (100.0, 5.0),
    "CreateTags": (100.0, 10.0),
    "DeleteNetworkInterface": (100.0, 5.0),
    "DeleteTags": (100.0, 10.0),
    "ModifyNetworkInterfaceAttribute": (100.0, 5.0),
    "UnassignPrivateIpAddresses": (100.0, 5.0),
}


@dataclass(frozen=True, slots=True)
class Level:
    """What is kept of one action. Unix seconds: ``tat`` as above; until ``slow_until`` each token costs double."""

    tat: float = 0.0
    slow_until: float = 0.0

    def slow(self, now: float) -> bool:
        return now < self.slow_until


@dataclass(frozen=True, slots=True)
class Reservation:
    """A slot that somebody holds: ``count`` calls of ``action`` may be made from ``at`` to ``until`` (Unix seconds)."""

    action: str
    count: int
    at: float
    until: float


@dataclass(frozen=True, slots=True)
class Draw:
    """``cost`` in seconds, to be added to the level's ``tat`` or to now, whichever is later; ``tat`` is the sum.

    It must not go beyond ``latest``. ``at`` is when the tokens may be used.
    """

    cost: float
    tat: float
    latest: float
    at: float

    @property
    def allowed(self) -> bool:
        return self.tat <= self.latest


@dataclass(frozen=True, slots=True)
class Bucket:
    """``capacity`` tokens at the most, ``refill`` more each second."""

    capacity: float
    refill: float

    @property
    def tolerance(self) -> float:
        """How far ``tat`` may be ahead of now: what may be taken at once, in seconds of the refill."""
        return self.capacity / self.refill - self._margin

    @property
    def _margin(self) -> float:
        return min(MARGIN_SECONDS, _MARGIN_SHARE * self.capacity / self.refill)

    def until(self, tat: float, count: int, now: float) -> float:
        """How long ``count`` tokens may be used whose taking has led to ``tat``: until the bucket, in which they still
        are, would be full. Tokens of a full bucket are to be used at once."""
        at = self.slot(tat, now)
        return at + max(tat - at - count / self.refill, self._margin / 2)

    def draw(self, level: Level, count: int, now: float, *, share: float = 1.0, ahead: float = AHEAD_SECONDS) -> Draw:
        """Taking ``count`` tokens: ``share`` of the bucket may be used up, and slots be had ``ahead`` seconds ahead.

        Raises ValueError if ``count`` is not 1 to 10.
        """
        if not 1 <= count <= MOST_TOKENS:
            raise ValueError(f"tokens are taken 1 to {MOST_TOKENS} at once, not {count}")
        cost = count / self.refill * (_SLOWER if level.slow(now) else 1.0)
        tat = max(level.tat, now) + cost
        return Draw(cost, tat, now + max(self.tolerance * share, cost) + ahead + _ROUNDING, self.slot(tat, now))

    def slot(self, tat: float, now: float) -> float:
        """When tokens may be used whose taking has led to ``tat``: not before now."""
        return max(now, tat - self.tolerance)

    def left(self, level: Level, now: float) -> float:
        """Tokens that may be taken at once; below zero, how many are taken in advance."""
        return (self.tolerance - max(level.tat - now, 0.0)) * self.refill

    def emptied(self, now: float) -> float:
        """The ``tat`` of a bucket that has nothing left."""
        return now + self.tolerance


@dataclass(frozen=True, slots=True)
class Buckets:
    """Every action's bucket. ``own`` overrides EC2's defaults; all but those are scaled to ``percent``."""

    own: tuple[tuple[str, Bucket], ...] = ()
    percent: int = 100

    def of(self, action: str) -> Bucket:
        """``action`` is EC2's name, such as ``AttachNetworkInterface``."""
        own = dict(self.own).get(action)
        if own is not None:
            return own
        capacity, refill = _LISTED.get(action, _DESCRIBING if action.startswith("Describe") else _MUTATING)
        return Bucket(max(capacity * self.percent / 100, _SMALLEST), refill * self.percent / 100)


def parse_buckets(text: str) -> tuple[tuple[str, Bucket], ...]:
    """``Action=capacity/refill`` pairs with commas between. Raises ValueError, which says what is wrong with which."""
    found: dict[str, Bucket] = {}
    for entry in filter(None, (e.strip() for e in text.split(","))):
        action, _, sizes = entry.partition("=")
        try:
            capacity, refill = (float(n) for n in sizes.split("/"))
        except ValueError:
            raise ValueError(
                f"{entry!r}: expected Action=capacity/refill, such as AttachNetworkInterface=100/10"
            ) from None
        if not capacity >= _SMALLEST or not refill > 0:
            raise ValueError(f"{entry!r}: the capacity must be {_SMALLEST} at least, and the refill above 0")
        found[action.strip()] = Bucket(capacity, refill)
    return tuple(sorted(found.items()))
