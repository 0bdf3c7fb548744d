"""Which intents of earlier looks still say something that EC2 does not show. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeGuard

from berth.calls import (
    AssignAddresses,
    AssignIpv6Prefixes,
    AssignPrefixes,
    AssociatePublic,
    Call,
    CreateInterface,
    Detach,
    Unassign,
)
from berth.model import Intent, NodeView, Outcome
from berth.overlay import OVERLAY_SECONDS

__all__ = ["DOUBT_SECONDS", "REPLAY_SECONDS", "assigns", "releases", "take_up", "unanswered"]

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


def releases(call: Call, blocks: set[tuple[str, str]]) -> bool:
    return isinstance(call, Unassign) and bool({(call.interface_id, b) for b in call.blocks} & blocks)


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
