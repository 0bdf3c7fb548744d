"""Which intents of earlier looks still say something that EC2 does not show. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final, TypeGuard

from berth.calls import (
    AssignAddresses,
    AssignIpv6Prefixes,
    AssignPrefixes,
    AssociatePublic,
    Attach,
    Call,
    CreateInterface,
    Detach,
    Unassign,
)
from berth.model import Intent, InterfaceView, NodeView, Outcome
from berth.overlay import OVERLAY_SECONDS

__all__ = [
    "DOUBT_SECONDS",
    "REPLAY_SECONDS",
    "answered",
    "assigns",
    "may_have_made",
    "take_up",
    "unanswered",
    "without_earlier",
]

REPLAY_SECONDS: Final = 600
"""After this long an interface that was made is certain to be described, so its creation is not repeated."""

DOUBT_SECONDS: Final = 10
"""So long an interface gets no second call for blocks after one that was not answered: describes may not show yet what
that one did, and neither AssignPrivateIpAddresses nor AssignIpv6Addresses has a ClientToken."""


def take_up(intents: Sequence[Intent], view: NodeView, listed: frozenset[tuple[str, str]]) -> list[Intent]:
    """The intents to go on with. ``listed`` are the (interface, block) pairs that the record lists."""
    return [kept for i in intents if (kept := _current(i, intents, view, listed)) is not None]


def unanswered(intents: Iterable[Intent]) -> list[Intent]:
    """Those of which nobody knows whether they were done."""
    return [i for i in intents if i.outcome is None]


def assigns(call: Call) -> TypeGuard[AssignPrefixes | AssignAddresses | AssignIpv6Prefixes]:
    return isinstance(call, AssignPrefixes | AssignAddresses | AssignIpv6Prefixes)


def without_earlier(intents: Iterable[Intent], call: Call) -> list[Intent]:
    """``intents`` without the earlier, unfinished ones that ``call`` replaces."""
    if isinstance(call, AssociatePublic):
        return [i for i in intents if i.outcome is not None or i.call != call]
    if isinstance(call, Unassign):
        return _without_releases(intents, {(call.interface_id, b) for b in call.blocks})
    return list(intents)


def answered(
    intents: Iterable[Intent], done: Intent, outcome: Outcome, now: float, leaving: frozenset[tuple[str, str]]
) -> tuple[list[Intent], frozenset[tuple[str, str]]]:
    """``intents`` once ``done`` is, and which (interface, block) pairs of ``leaving`` leave no more."""
    call = done.call
    kept = [replace(i, outcome=outcome, done_at=now) if i is done else i for i in intents]
    if isinstance(call, Detach):  # what attached it says nothing any more
        kept = [i for i in kept if not (isinstance(i.call, Attach) and i.call.interface_id == call.interface_id)]
    if isinstance(call, Unassign):
        return kept, frozenset((call.interface_id, b) for b in call.blocks)
    if not assigns(call):
        return kept, frozenset()
    # what EC2 has just assigned had been unassigned before, even if nobody heard of it
    gone = frozenset((call.interface_id, b) for b in outcome.blocks) & leaving
    return _without_releases(kept, gone), gone


def _without_releases(intents: Iterable[Intent], blocks: AbstractSet[tuple[str, str]]) -> list[Intent]:
    """``intents`` without unfinished releases of any of ``blocks``."""
    return [i for i in intents if i.outcome is not None or not _releases(i.call, blocks)]


def _releases(call: Call, blocks: AbstractSet[tuple[str, str]]) -> bool:
    return isinstance(call, Unassign) and bool({(call.interface_id, b) for b in call.blocks} & blocks)


def may_have_made(intent: Intent, interface: InterfaceView) -> bool:
    """Whether ``interface`` may be what came of a creation that was not answered: both were made in the same second,
    for the same pod or for none."""
    pod = intent.call.pod if isinstance(intent.call, CreateInterface) else ""
    return interface.created_at == float(int(intent.at)) and interface.pod == pod


def _current(
    intent: Intent, intents: Sequence[Intent], view: NodeView, listed: frozenset[tuple[str, str]]
) -> Intent | None:
    call, now = intent.call, view.now
    if intent.outcome is not None:
        return intent if now - intent.done_at < OVERLAY_SECONDS else None
    if isinstance(call, CreateInterface):
        return intent if now - intent.at < (OVERLAY_SECONDS if view.instance.dead else REPLAY_SECONDS) else None
    if isinstance(call, Detach):
        # what in_doubt() goes by; where it was not made it is planned again after that
        return intent if now - intent.at < OVERLAY_SECONDS and not view.instance.dead else None
    if isinstance(call, AssociatePublic):
        # made again, it does the same; until then nobody else may find the address where this one has put it
        return intent if now - intent.at < OVERLAY_SECONDS else None
    if isinstance(call, Unassign):
        blocks = {(call.interface_id, b) for b in call.blocks}
        if blocks & view.leaving:
            return intent
        # EC2 shows none of it any more: done, and a describe that lags behind this one must not bring it back
        return None if blocks & listed else replace(intent, outcome=Outcome(), done_at=now)
    if assigns(call) and now - intent.at < DOUBT_SECONDS:
        return None if _shows_more(call.interface_id, intents, view, listed) else intent
    return None


def _shows_more(
    interface_id: str, intents: Sequence[Intent], view: NodeView, listed: frozenset[tuple[str, str]]
) -> bool:
    """Whether an interface has blocks that neither the record nor any outcome accounts for."""
    known = {b for i in intents if i.outcome for b in i.outcome.blocks}
    shown = [i for i in view.interfaces if i.id == interface_id]
    there = [(i.id, b) for i in shown for b in (*i.blocks, *i.ipv6_prefixes)]
    return not shown or any(pair not in listed | view.leaving and pair[1] not in known for pair in there)
