"""Whose an address was in a flow record's window, from the leases of that address. Pure; nothing is guessed.

A record covers some seconds, not a moment: an address that two pods had in them is *ambiguous*. ``start`` is when the
first packet was seen in the interval, which may be up to 60 s after it was on the wire (VPC user guide, "Flow log
records", ``start``): so the window that is judged begins 60 s earlier. ``end`` is a whole second, so it ends one later.

What ``berth who`` does not take for granted is taken here: within one subnet EC2 gives an address to one interface at a
time, so a later lease in a subnet ends an earlier one whose end nobody told (docs/decisions/0025).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from berth.history import FRESH_SECONDS, Held

__all__ = ["SLACK_SECONDS", "Attribution", "PodState", "Window", "attribute", "concerning", "constant", "settled"]

SLACK_SECONDS: Final = 60.0


class PodState(Enum):
    """Of one end of a record."""

    HELD = "held"
    UNKNOWN = "unknown"
    AMBIGUOUS = "ambiguous"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Window:
    """The times that a record with ``start`` and ``end`` may be about, Unix seconds."""

    begin: float
    end: float

    @classmethod
    def of(cls, start: int, end: int) -> Window:
        return cls(start - SLACK_SECONDS, max(start, end) + 1.0)

    def with_(self, other: Window) -> Window:
        """The least window that has both within it."""
        return Window(min(self.begin, other.begin), max(self.end, other.end))


@dataclass(frozen=True, slots=True)
class Attribution:
    """``lease`` is the pod's where the state is HELD; ``candidates`` are those it may have been where it is not."""

    state: PodState
    reason: str = ""
    lease: Held | None = None
    candidates: tuple[Held, ...] = ()


@dataclass(frozen=True, slots=True)
class _Span:
    """A lease as far as it may have gone. ``sure``: nobody needs to be asked when it ended."""

    lease: Held
    over: float
    sure: bool


def attribute(leases: Sequence[Held], window: Window, now: float = 0.0) -> Attribution:
    """Whose the address of ``leases`` (of one network) was in ``window``.

    ``now``: a node that told something within the last two minutes counts as going on, as for ``berth who``.
    """
    spans = _within(leases, window, now)
    pods = {_pod(s.lease): s.lease for s in spans}
    if not pods:
        return Attribution(PodState.NONE, "no lease is recorded then")
    candidates = tuple(pods.values())
    if len(candidates) > 1:
        return Attribution(
            PodState.AMBIGUOUS, f"{len(candidates)} pods had it within the record's window", candidates=candidates
        )
    unsure = next((s.lease for s in spans if not s.sure and s.lease.held_until < window.end), None)
    if unsure is not None:
        why = f"nobody told whether its lease went on: {unsure.why}"
        return Attribution(PodState.UNKNOWN, why, candidates=candidates)
    return Attribution(PodState.HELD, lease=candidates[0])


def constant(found: Attribution, window: Window) -> bool:
    """Whether ``found``, which is so for ``window``, is so for every window within it."""
    if found.state is PodState.NONE:
        return True
    lease = found.lease
    return lease is not None and lease.began <= window.begin and (not lease.over_by or lease.over_by > window.end)


def concerning(leases: Sequence[Held], window: Window, now: float = 0.0) -> tuple[Held, ...]:
    """Those of ``leases`` that :func:`attribute` needs for this window and any within it."""
    return tuple(span.lease for span in _within(leases, window, now))


def _within(leases: Sequence[Held], window: Window, now: float) -> list[_Span]:
    # what began later is left out first: an answer must not depend on how much later the ledger was asked
    begun = [lease for lease in leases if lease.began <= window.end]
    return [span for span in _spans(begun, now) if span.over > window.begin]


def _spans(leases: Sequence[Held], now: float) -> Iterable[_Span]:
    later: dict[str, float] = {}
    for lease in sorted(leases, key=lambda found: found.began, reverse=True):
        over, sure = lease.over_by or float("inf"), bool(lease.over_by) and lease.over_by == lease.held_until
        if lease.live and now - lease.held_until <= FRESH_SECONDS:
            sure = True
        following = later.get(lease.subnet_id)
        if not sure and following is not None and following < over:
            # it may have ended in between; what was told of it counts even against the later lease
            over, sure = max(following, lease.held_until), True
        later[lease.subnet_id] = lease.began
        yield _Span(lease, over, sure)


def _pod(lease: Held) -> tuple[str, ...]:
    """A pod may have one address by two leases, one after the other; a container without a name is its lease."""
    if lease.uid:
        return ("", lease.uid)
    if lease.name:
        return (lease.instance_id, lease.namespace, lease.name)
    return (lease.instance_id, repr(lease.began))


def settled(begun: Iterable[tuple[str, float]], subnets: Iterable[str], begin: float) -> bool:
    """Whether nothing older needs to be read of an address: ``begun`` are (subnet, begin) of the leases read so far.

    A lease begun before the window ends all before it in its subnet; so each subnet needs one such.
    """
    known = {subnet for subnet, began in begun if began <= begin}
    return bool(known) and known.issuperset(subnets)
