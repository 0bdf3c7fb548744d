"""Standby interfaces of a look: what its nodes have claimed, what they may claim, and the claim itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from berth.buckets import Reservation
from berth.edges import Edges
from berth.growth import deficit, usable_subnets
from berth.model import InterfaceView, Limits, NodePolicy, NodeView, SubnetView
from berth.standby_choice import with_claim, with_claimed

__all__ = ["claim", "end_claim", "offer", "take_in"]

_CHOICE: Final = frozenset({"AssignPrivateIpAddresses", "AttachNetworkInterface"})
"""Actions that bring a node the same, each from a bucket of its own."""


def take_in(
    edges: Edges, shown: dict[str, tuple[InterfaceView, ...]], ids: Sequence[str]
) -> tuple[dict[str, tuple[InterfaceView, ...]], dict[str, frozenset[str]]]:
    """What EC2 shows of the nodes ``ids`` together with what they have claimed, and the ids that lack their tag.

    Most nodes have claimed nothing: the caller knows which may have, and nobody else's claims are read.

    Claims whose tag EC2 shows have served: they are settled.
    """
    lacking: dict[str, frozenset[str]] = {}
    for instance_id, claimed in (edges.standby.claimed(ids) if ids else {}).items():
        merged, lacking[instance_id], named = with_claimed(shown.get(instance_id, ()), claimed, instance_id)
        shown = {**shown, instance_id: merged}
        for interface in (i for i in claimed if i.id in named):
            edges.standby.settle(interface, instance_id, edges.clock())
    return shown, lacking


def offer(
    edges: Edges,
    view: NodeView,
    slots: Iterable[Reservation],
    policy: NodePolicy,
    limits: Limits,
    subnets: Sequence[SubnetView],
) -> NodeView:
    """``view`` with candidates, if the node lacks addresses, and with how long each way to them would take.

    A token that the node has reserved is as good as had: changing over to the other bucket would waste it.
    """
    if deficit(view, policy, limits) <= 0:
        return view
    here = frozenset(s.id for s in usable_subnets(view, policy, subnets))
    standby = edges.standby.candidates(here, view.now)
    if not standby:
        return view
    reserved = {s.action for s in slots if s.until >= view.now}
    waits = edges.budget.waits(_CHOICE, view.now)
    known = tuple((a, 0.0 if a in reserved else waits.get(a, 0.0)) for a in sorted(_CHOICE))
    return replace(view, standby=standby, waits=known)


def claim(edges: Edges, view: NodeView, interface_id: str) -> tuple[NodeView, bool]:
    """Claim a candidate; whoever loses the race plans again without it."""
    found = next(i for i in view.standby if i.id == interface_id)
    won = edges.standby.claim(found, view.instance.id, edges.clock())
    return with_claim(view, interface_id, won=won), won


def end_claim(edges: Edges, view: NodeView, interface_id: str) -> NodeView:
    """The interface is gone: if it was claimed, the claim has served."""
    for gone in (i for i in view.interfaces if i.id == interface_id and i.standby is not None):
        edges.standby.settle(gone, view.instance.id, edges.clock())
        left = tuple(i for i in view.interfaces if i.id != interface_id)
        return replace(view, interfaces=left, claimed=view.claimed - {interface_id})
    return view
