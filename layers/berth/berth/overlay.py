"""Applies the outcomes of our own recent calls to what EC2 describes. Pure.

Describes are eventually consistent (EC2 developer guide, "Eventual consistency"): for a while they may not show what a
call has done. Without this, a second look would plan the same call again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from berth.calls import (
    AssignAddresses,
    AssignIpv6Prefixes,
    AssignPrefixes,
    AssociatePublic,
    Attach,
    Call,
    CreateInterface,
    DeleteInterface,
    Detach,
    DisassociatePublic,
    PublicCall,
    SetDeleteOnTermination,
    SetGroups,
    TagForNode,
    Unassign,
)
from berth.contract import Interface, Record
from berth.model import LAG_SECONDS, Attachment, Intent, InterfaceView, NodeView, Outcome, PublicAddress
from berth.publics import apply_public

__all__ = [
    "OVERLAY_SECONDS",
    "apply",
    "fresh_blocks",
    "in_doubt",
    "just_tagged",
    "leaving_blocks",
    "listed_blocks",
    "overlay",
    "overlay_publics",
    "overlay_view",
    "with_listed",
]

OVERLAY_SECONDS: Final = 60


def overlay_view(
    view: NodeView, intents: Sequence[Intent], record: Record | None, listed: frozenset[tuple[str, str]]
) -> NodeView:
    """A node as it is by all that is known: what EC2 describes, its own calls, and its record, with what it lists."""
    node, now, known = view.instance.id, view.now, intents
    if view.instance.dead:
        # what was created a moment ago may not be described yet, and EC2 may have deleted it already: asking for its
        # deletion tells. Whether it is attached is EC2's to say.
        known = tuple(i for i in known if isinstance(i.call, CreateInterface | Detach | DeleteInterface))
    shown = with_listed(overlay(view.interfaces, known, node, now), record, view.notes.listed_at, now)
    if not view.instance.dead:
        shown = in_doubt(shown, known, node, now)
    tagged, report = just_tagged(known, now) & view.claimed, view.report
    if report is not None:
        unusable = set(report.unusable) - fresh_blocks(shown, intents, now)
        report = replace(report, unusable=tuple(sorted(unusable)))
    return replace(
        view,
        interfaces=shown,
        publics=overlay_publics(view.publics, intents, node, now),
        leaving=leaving_blocks(listed, known, shown),
        claimed=view.claimed - tagged,
        settling=tagged,
        report=report,
    )


def overlay(
    interfaces: Iterable[InterfaceView], intents: Iterable[Intent], instance_id: str, now: float
) -> tuple[InterfaceView, ...]:
    """``interfaces`` as they will be described once the outcomes younger than 60 s have become visible.

    ``intents`` are in the order in which they were made. Their times are no order: hosts' clocks differ, and a block
    that was unassigned and assigned again must not end up unassigned.
    """
    shown = tuple(interfaces)
    for intent in intents:
        if intent.outcome is not None and now - intent.done_at < OVERLAY_SECONDS:
            shown = apply(shown, intent.call, intent.outcome, instance_id)
    return shown


def in_doubt(
    interfaces: Iterable[InterfaceView], intents: Iterable[Intent], instance_id: str, now: float
) -> tuple[InterfaceView, ...]:
    """``interfaces`` with those leaving of which nobody knows whether EC2 is to detach them, for a minute: a request
    may arrive late, and a pod must not be given what is about to go."""
    shown = tuple(interfaces)
    for intent in intents:
        if isinstance(intent.call, Detach) and intent.outcome is None and now - intent.at < OVERLAY_SECONDS:
            shown = apply(shown, intent.call, Outcome(), instance_id)
    return shown


def overlay_publics(
    publics: tuple[PublicAddress, ...] | None, intents: Iterable[Intent], instance_id: str, now: float
) -> tuple[PublicAddress, ...] | None:
    """The same for Elastic IP addresses. Claims need none: they are read consistently."""
    if publics is None:
        return None
    for call, outcome, done_at in ((i.call, i.outcome, i.done_at) for i in intents):
        if isinstance(call, PublicCall) and outcome is not None and now - done_at < OVERLAY_SECONDS:
            publics = apply_public(publics, call, outcome, instance_id)
    return publics


def fresh_blocks(interfaces: Iterable[InterfaceView], intents: Iterable[Intent], now: float) -> frozenset[str]:
    """Blocks that we assigned or attached less than 60 s ago: instance metadata may not show them yet.

    A node that does not see one of them so far has no need of another.
    """
    fresh: set[str] = set()
    attached: set[str] = set()
    for intent in intents:
        if intent.outcome is None or now - intent.done_at >= OVERLAY_SECONDS:
            continue
        fresh.update(intent.outcome.blocks)
        if intent.outcome.interface is not None:
            fresh.update(intent.outcome.interface.blocks)
        if isinstance(intent.call, Attach):
            attached.add(intent.call.interface_id)
    return frozenset(fresh | {b for i in interfaces if i.id in attached for b in i.blocks})


def just_tagged(intents: Iterable[Intent], now: float) -> frozenset[str]:
    """Interfaces that were tagged for the node less than 60 s ago: describes may not show the tag yet."""
    return frozenset(
        i.call.interface_id
        for i in intents
        if isinstance(i.call, TagForNode) and i.outcome is not None and now - i.done_at < OVERLAY_SECONDS
    )


def with_listed(
    interfaces: Iterable[InterfaceView], record: Record | None, listed_at: float, now: float
) -> tuple[InterfaceView, ...]:
    """``interfaces`` with the blocks that ``record`` lists on them and that a describe which lags does not show.

    ``listed_at`` is when the record last listed something new.
    """
    if record is None or now - listed_at >= LAG_SECONDS:
        return tuple(interfaces)
    listed = {i.id: i for i in record.interfaces}
    return tuple(_with_blocks(i, listed[i.id]) if i.id in listed else i for i in interfaces)


def _with_blocks(shown: InterfaceView, listed: Interface) -> InterfaceView:
    blocks = [a.cidr for a in listed.assignments]
    return replace(
        shown,
        prefixes=_union(shown.prefixes, (b for b in blocks if not b.endswith("/32"))),
        addresses=_union(shown.addresses, (b.removesuffix("/32") for b in blocks if b.endswith("/32"))),
        ipv6_prefixes=_union(shown.ipv6_prefixes, (a.cidr for a in listed.ipv6_assignments)),
    )


def listed_blocks(record: Record | None) -> frozenset[tuple[str, str]]:
    """(interface, block) pairs that the record lists, of both families."""
    shown = record.interfaces if record else ()
    return frozenset((i.id, a.cidr) for i in shown for a in (*i.assignments, *i.ipv6_assignments))


def leaving_blocks(
    listed: frozenset[tuple[str, str]], intents: Iterable[Intent], interfaces: Iterable[InterfaceView]
) -> frozenset[tuple[str, str]]:
    """(interface, block) pairs that left the record to be unassigned and that EC2 still shows."""
    shown = {(i.id, b) for i in interfaces for b in i.blocks}
    begun = {
        (intent.call.interface_id, block)
        for intent in intents
        if isinstance(intent.call, Unassign) and intent.outcome is None
        for block in intent.call.blocks
    }
    return frozenset((begun & shown) - listed)


def apply(
    interfaces: tuple[InterfaceView, ...], call: Call, outcome: Outcome, instance_id: str
) -> tuple[InterfaceView, ...]:
    """``interfaces`` after ``call`` was answered with ``outcome``. What already shows it stays as it is."""
    if isinstance(call, CreateInterface):
        return _with(interfaces, outcome.interface)
    if isinstance(call, DeleteInterface):
        return tuple(i for i in interfaces if i.id != call.interface_id)
    return tuple(_change(i, call, outcome, instance_id) if i.id == call.interface_id else i for i in interfaces)


def _with(interfaces: tuple[InterfaceView, ...], made: InterfaceView | None) -> tuple[InterfaceView, ...]:
    if made is None:
        return interfaces
    if all(i.id != made.id for i in interfaces):
        return (*interfaces, made)
    return tuple(
        replace(
            i,
            prefixes=_union(i.prefixes, made.prefixes),
            addresses=_union(i.addresses, made.addresses),
            ipv6_prefixes=_union(i.ipv6_prefixes, made.ipv6_prefixes),
        )
        if i.id == made.id
        else i
        for i in interfaces
    )


def _change(view: InterfaceView, call: Call, outcome: Outcome, instance_id: str) -> InterfaceView:
    at = view.attachment
    match call:
        case AssignPrefixes():
            return replace(view, prefixes=_union(view.prefixes, outcome.blocks))
        case AssignAddresses():
            return replace(view, addresses=_union(view.addresses, (b.removesuffix("/32") for b in outcome.blocks)))
        case AssignIpv6Prefixes():
            return replace(view, ipv6_prefixes=_union(view.ipv6_prefixes, outcome.blocks))
        case SetGroups(groups=groups):
            return replace(view, groups=groups)
        case AssociatePublic(address=address):
            return replace(view, public=_union(view.public, [address]))
        case DisassociatePublic(address=address):
            return replace(view, public=tuple(a for a in view.public if a != address))
        case Unassign(blocks=blocks):
            return replace(
                view,
                prefixes=tuple(p for p in view.prefixes if p not in blocks),
                addresses=tuple(a for a in view.addresses if f"{a}/32" not in blocks),
            )
        case Attach(device_index=index, network_card=card) if at is None:
            return replace(view, attachment=Attachment(outcome.attachment_id, instance_id, index, card, "attaching"))
        case SetDeleteOnTermination(attachment_id=attachment_id) if at is not None and at.id == attachment_id:
            return replace(view, attachment=replace(at, delete_on_termination=True))
        case Detach(attachment_id=attachment_id) if at is not None and at.id == attachment_id:
            return replace(view, attachment=replace(at, status="detaching"))
    return view


def _union(old: tuple[str, ...], new: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*old, *new}))
