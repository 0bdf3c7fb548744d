"""Whether a node takes a standby interface instead of more on what it has, or of a new one. Pure.

Taking one costs a claim (a conditional write) and one AttachNetworkInterface; its DeleteOnTermination and its tag
follow when the node serves already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from berth.calls import Call, ClaimStandby, CreateInterface, SetDeleteOnTermination, TagForNode
from berth.contract import address_count
from berth.model import PREFIX_SIZE, InterfaceView, Limits, NodePolicy, NodeView

__all__ = ["Way", "fitting", "follow_up", "with_claim", "with_claimed", "with_standby"]


@dataclass(frozen=True, slots=True)
class Way:
    """``calls`` that bring addresses; ``left`` stay missing. ``waiting`` says why the choice is put off."""

    calls: tuple[Call, ...]
    left: int
    waiting: str = ""


def fitting(
    view: NodeView, policy: NodePolicy, limits: Limits, subnet_ids: Collection[str], groups: Sequence[str]
) -> tuple[InterfaceView, ...]:
    """Those of ``view.standby`` that the node may take, in the order they came in.

    ``subnet_ids`` are those in which a new interface of this node could be made, ``groups`` what it would be given.
    """
    node, back = view.instance, view.setbacks
    if policy.policy.mode != "prefixes" or not limits.prefixes:
        return ()
    return tuple(
        i
        for i in view.standby
        if i.attachment is None
        and i.node is None
        and i.cluster == view.cluster
        and (i.zone, i.vpc_id) == (node.zone, node.vpc_id)
        and i.subnet_id in subnet_ids
        and groups
        and sorted(i.groups) == sorted(groups)
        and set(groups) <= view.allowed_groups
        and i.prefixes
        and i.slots <= limits.addresses_per_interface
        and i.id not in back.refused | back.full
    )


def with_standby(
    view: NodeView,
    policy: NodePolicy,
    fit: Sequence[InterfaceView],
    planned: Sequence[Call],
    missing: int,
    left: int,
) -> Way:
    """The way to ``missing`` addresses, with a standby interface where it is better.

    ``planned`` brings them without one, but for ``left``; ``fit`` are those that :func:`fitting` found, as long as the
    type allows another interface.

    * Where a new interface (or nothing) would be needed, a standby one spares its creation: always.
    * Where addresses would be put on what the node has, both are one call, and nothing is idle that way. So a standby
      one is taken only when that call must wait for its bucket, AttachNetworkInterface is to be had sooner, and pods
      wait or the node has nothing to lend: one that is only to be warmed waits.
    * EC2 attaches to running instances only. One that is pending and whose calls must wait decides when it runs: a
      slot that was reserved would be lost to others if it then found the other bucket fuller.
    """
    calls = tuple(planned)
    fit = _modest(view, policy, fit, missing)
    if not fit:
        return Way(calls, left)
    whole = _least(fit, missing)
    creates = [c for c in calls if isinstance(c, CreateInterface)]
    if creates or left > 0:
        if whole is not None:
            return Way((ClaimStandby(whole.id),), 0)
        gap = left + sum(c.prefixes * PREFIX_SIZE + c.addresses for c in creates)
        part = _least(fit, gap) or max(fit, key=_capacity)
        rest = (c for c in calls if c not in creates)
        # once it is claimed, the next plan finds the rest, on it or on another
        return Way((*rest, ClaimStandby(part.id)), left if creates else max(0, left - _capacity(part)))
    waits = dict(view.waits)
    waiting = waits.get("AssignPrivateIpAddresses", 0.0)
    if whole is None or waiting <= 0 or not _urgent(view):
        return Way(calls, left)
    if view.instance.state != "running":
        return Way((), 0, "the instance is pending: which bucket is the fuller shows when it runs")
    sooner = waits.get("AttachNetworkInterface", 0.0) < waiting
    return Way((ClaimStandby(whole.id),), 0) if sooner else Way(calls, left)


def _urgent(view: NodeView) -> bool:
    """Pods wait, or the node has nothing to lend."""
    if view.report is None:
        return True
    return bool(view.report.waiting) or view.assigned() <= view.report.in_use + view.report.cooling


def follow_up(view: NodeView) -> tuple[list[Call], str]:
    """What a standby interface that the node has claimed still needs once it serves, or why that must wait.

    Only after EC2 itself shows the attachment, so in a later look than the one that attached it.
    """
    calls: list[Call] = []
    waiting = f"EC2 does not show the tag of {min(view.settling)} yet" if view.settling else ""
    for interface in (i for i in view.ours if i.id in view.claimed):
        at = interface.attachment
        if at is None:
            continue
        if at.status != "attached":
            waiting = f"DeleteOnTermination and tag of the standby interface {interface.id} follow"
            continue
        if not at.delete_on_termination:
            calls.append(SetDeleteOnTermination(interface.id, at.id))
        calls.append(TagForNode(interface.id))
    return calls, waiting


def with_claim(view: NodeView, interface_id: str, *, won: bool) -> NodeView:
    """After a claim: the interface is the node's, attached to nothing yet; or no candidate any more."""
    left = tuple(i for i in view.standby if i.id != interface_id)
    if not won:
        return replace(view, standby=left)
    mine = tuple(replace(i, node=view.instance.id) for i in view.standby if i.id == interface_id)
    return replace(
        view, standby=left, interfaces=(*view.interfaces, *mine), claimed=view.claimed | {i.id for i in mine}
    )


def with_claimed(
    shown: Iterable[InterfaceView], claimed: Iterable[InterfaceView], instance_id: str
) -> tuple[tuple[InterfaceView, ...], frozenset[str], frozenset[str]]:
    """What EC2 shows of a node together with what it has claimed, the ids that lack its tag, and those that have it.

    A claimed interface that is attached to nothing is shown by no filter of ours: its tag does not name the node yet.
    One that is attached elsewhere is not shown either, and EC2 refuses to attach it.
    """
    held = {i.id: i for i in claimed}
    known = {i.id: i for i in shown}
    named = frozenset(i for i in held.keys() & known.keys() if known[i].node == instance_id)
    for interface_id, interface in held.items():
        known[interface_id] = replace(
            known.get(interface_id, interface),
            node=instance_id,
            # once it is attached its instance shows it, without the tags that it had while it stood by
            cluster=interface.cluster,
            standby=interface.standby,
            created_at=interface.created_at,
        )
    return tuple(known[i] for i in sorted(known)), frozenset(held) - named, named


def _capacity(interface: InterfaceView) -> int:
    return sum(map(address_count, interface.blocks))


def _modest(
    view: NodeView, policy: NodePolicy, fit: Iterable[InterfaceView], missing: int
) -> tuple[InterfaceView, ...]:
    """Without those that would bring more than the node may ever use: more than max-pods, but for whole prefixes."""
    room = max(_whole(policy.policy.max_pods) - view.assigned(), _whole(missing))
    return tuple(i for i in fit if _capacity(i) <= room)


def _whole(addresses: int) -> int:
    return -(-addresses // PREFIX_SIZE) * PREFIX_SIZE


def _least(fit: Iterable[InterfaceView], wanted: int) -> InterfaceView | None:
    """The smallest that brings ``wanted``; the first of those, since candidates come in an order of their own."""
    return min((i for i in fit if _capacity(i) >= wanted), key=_capacity, default=None)
