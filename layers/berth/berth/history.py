"""What the lease ledger's items say of an address, a pod or a time. Pure; nothing is guessed.

A lease is *held* at a time if somebody who knew said so: its end was told and is later, or its node told everything up
to that time and no end of it. It is *over* from when it certainly was. Whatever lies between is *unknown*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from berth.ledger_items import Closing, Fact

__all__ = ["FRESH_SECONDS", "Answer", "Heartbeat", "Held", "State", "ask", "histories", "undecided"]

FRESH_SECONDS: Final = 120.0
"""A node that was heard of so shortly ago goes on, for who asks about now: it reports at least twice a minute."""


class State(Enum):
    """Of a lease, or of an address, at one time."""

    HELD = "held"
    UNKNOWN = "unknown"
    OVER = "over"
    NONE = "none"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A node's last report: its epoch, and up to when it told everything, by the node's clock."""

    epoch: str
    until: float


@dataclass(frozen=True, slots=True)
class Held:
    """One lease. It was held from ``began`` to ``held_until`` at least, and over by ``over_by`` at the latest: 0 if
    that is not known, or if it goes on (``live``). ``why`` says why they differ. Unix seconds of the node's clock."""

    address: str
    began: float
    held_until: float
    over_by: float
    live: bool
    why: str
    namespace: str
    name: str
    uid: str
    instance_id: str
    interface_id: str
    subnet_id: str
    received: float

    @property
    def pod(self) -> str:
        return f"{self.namespace}/{self.name}" if self.name else self.uid or "a container that no pod is named for"

    def at(self, when: float, now: float | None = None) -> State:
        """``now``: the question is about the present, which is never told of yet."""
        if when < self.began or (self.over_by and when >= self.over_by):
            return State.OVER
        if when <= self.held_until:
            return State.HELD
        fresh = self.live and now is not None and now - self.held_until <= FRESH_SECONDS
        return State.HELD if fresh else State.UNKNOWN


@dataclass(frozen=True, slots=True)
class Answer:
    """``leases`` are those that were held, or may have been; for NONE the last one before, if there was any."""

    state: State
    reason: str
    leases: tuple[Held, ...] = ()


# ------------------------------------------------------------------------------------------------------ leases


def _groups(facts: Iterable[Fact]) -> dict[tuple[str, float, str], list[Fact]]:
    """The facts of each lease: one begin for each epoch that told of it, and an end."""
    groups: dict[tuple[str, float, str], list[Fact]] = {}
    for fact in facts:
        groups.setdefault((fact.lease.address, fact.lease.began, fact.instance_id), []).append(fact)
    return groups


def undecided(facts: Iterable[Fact]) -> frozenset[tuple[str, str]]:
    """(instance, epoch) of the leases without an end: what is known of those says how far they go."""
    open_ones = (g for g in _groups(facts).values() if not any(f.lease.ended for f in g))
    return frozenset((f.instance_id, f.lease.epoch) for g in open_ones for f in g)


def histories(
    facts: Iterable[Fact], closings: Mapping[tuple[str, str], Closing], beats: Mapping[str, Heartbeat]
) -> list[Held]:
    """The leases, the latest first. ``closings`` by (instance, epoch), ``beats`` by instance."""
    found = [_held(group, closings, beats) for group in _groups(facts).values()]
    return sorted(found, key=lambda lease: (lease.began, lease.instance_id), reverse=True)


def _held(group: Sequence[Fact], closings: Mapping[tuple[str, str], Closing], beats: Mapping[str, Heartbeat]) -> Held:
    ends = [f for f in group if f.lease.ended]
    held_until, over_by, live, why = _ended(ends[0]) if ends else _open(group, closings, beats)
    row, first = group[0].lease, group[0]
    named = next((f.lease for f in group if f.lease.name), row)
    return Held(
        address=row.address,
        began=row.began,
        held_until=held_until,
        over_by=over_by,
        live=live,
        why=why,
        # an item may lack what another of the same lease has
        namespace=named.namespace,
        name=named.name,
        uid=next((f.lease.uid for f in group if f.lease.uid), ""),
        instance_id=first.instance_id,
        # an end that was told when the node's record listed the address no more has none
        interface_id=next((f.interface_id for f in group if f.interface_id), ""),
        subnet_id=next((f.subnet_id for f in group if f.subnet_id), ""),
        received=min(f.received for f in group),
    )


def _ended(end: Fact) -> tuple[float, float, bool, str]:
    row = end.lease
    unseen = "the agent did not run when the pod ended" if row.held_until else ""
    return row.held_until or row.ended, row.ended, False, unseen


def _open(
    group: Sequence[Fact], closings: Mapping[tuple[str, str], Closing], beats: Mapping[str, Heartbeat]
) -> tuple[float, float, bool, str]:
    """How far a lease is known to go whose end nobody told."""
    instance_id = group[0].instance_id
    # the report that told of it knew of no end
    known = max(max(f.until, f.lease.began) for f in group)
    beat = beats.get(instance_id)
    if beat is not None and any(f.lease.epoch == beat.epoch for f in group):
        return max(known, beat.until), 0.0, True, "its node has told nothing later"
    ends = [c for f in group if (c := closings.get((instance_id, f.lease.epoch)))]
    known = max([known, *(c.until for c in ends)])
    over = [_over(f, closings.get((instance_id, f.lease.epoch))) for f in group]
    if not any(over):
        return known, 0.0, False, ends[0].reason if ends else "its node was never heard of again"
    why = max(ends, key=lambda c: c.until).reason if ends else "its node told of it when it had begun anew"
    # an epoch after which it was told again did not end it
    return known, max(*over, known) if all(over) else 0.0, False, why


def _over(fact: Fact, closing: Closing | None) -> float:
    """By when a lease was over if it did not go on in another epoch; 0 if nobody knows."""
    return min((by for by in (fact.over_by, closing.over_by if closing else 0.0) if by), default=0.0)


# ------------------------------------------------------------------------------------------------------ answers


def _again(earlier: Held, later: Held) -> bool:
    """Whether the very node of a lease lent the address again: it was over by then, though nobody told its end."""
    return (earlier.instance_id, earlier.subnet_id) == (later.instance_id, later.subnet_id) and (
        earlier.began < later.began
    )


def ask(leases: Sequence[Held], when: float, now: float | None = None) -> Answer:
    """Who held the address that ``leases`` are of. ``now``: the question is about the present.

    Where one held it and another may have, in this subnet or another, the answer is UNKNOWN and has both.
    """
    states = [(lease, lease.at(when, now)) for lease in leases]
    held = tuple(lease for lease, state in states if state is State.HELD)
    unsure = tuple(
        lease for lease, state in states if state is State.UNKNOWN and not any(_again(lease, other) for other in held)
    )
    subnets = [lease.subnet_id for lease in held]
    if len(set(subnets)) < len(subnets):
        return Answer(
            State.CONFLICT,
            "two leases of one address at one time: a node's clock is wrong, or it lies",
            (*held, *unsure),
        )
    if unsure:
        why = f"this lease's end was never told: {unsure[0].why}"
        if held:
            pods = " and ".join(lease.pod for lease in held)
            why = f"{pods} held it, and {unsure[0].pod} may have too; of that one: {why}"
        return Answer(State.UNKNOWN, why, (*held, *unsure))
    if held:
        return Answer(State.HELD, "", held)
    before = tuple(lease for lease in leases if lease.began <= when)[:1]
    return Answer(State.NONE, "no lease is recorded at that time", before)
