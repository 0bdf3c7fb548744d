"""Public addresses of pods: which Elastic IP address each request gets, and when it is given back. Pure.

The claim in the table decides whose an Elastic IP address is; EC2 decides where it is. So a claim comes before the
association, and goes after it: killed between any two steps, the next look finds the claim and goes on. Never is one
taken from where it is: what somebody else has associated stays there.

One that has lost its tag is none that the stack may take off any more (template.yaml, ReconcilePublicPolicy). While EC2
shows it where it was claimed for, claim and grant stay, also after the pod: nobody else is to get its private address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from berth.calls import AssociatePublic, ClaimPublic, DisassociatePublic, PublicCall, UnclaimPublic
from berth.contract import PodGrant, PodRequest
from berth.model import POOL_TAG, InterfaceView, NodeView, Outcome, PublicAddress

__all__ = [
    "Case",
    "apply_public",
    "cases",
    "claimed",
    "concerns",
    "lacking_addresses",
    "public_calls",
    "public_grants",
    "untagged",
]


_MOST_REFUSALS: Final = 3
"""After so many in one look the next address would fare no better."""


@dataclass(frozen=True, slots=True)
class Case:
    """One request: what it has (``granted``), what is to be done next, or why it cannot be met.

    What is ``granted`` may be at another address than the pod's: as long as it is there nobody else is to get that.
    """

    request: PodRequest
    granted: PublicAddress | None = None
    call: PublicCall | None = None
    problem: str = ""


def claimed(view: NodeView) -> tuple[PublicAddress, ...]:
    """What this node's pods have claimed."""
    return tuple(p for p in view.publics or () if p.claimed_by == view.instance.id)


def concerns(interfaces: Iterable[InterfaceView], requests: Iterable[PodRequest], instance_id: str) -> bool:
    """Whether a node has to do with public addresses: then all that the stack may use are worth a describe."""
    return any(r.public for r in requests) or any(_pods_public(i, instance_id) for i in interfaces)


def _pods_public(interface: InterfaceView, instance_id: str) -> set[str]:
    """Its addresses for pods that have a public one. The primary's own may have one for the node itself."""
    own = {interface.primary_address} if interface.is_primary_of(instance_id) else set()
    return set(interface.public) - own


def cases(view: NodeView) -> tuple[Case, ...]:
    """Every request for a public address, in order of their ids."""
    if view.report is None or view.publics is None or view.instance.dead:
        return ()
    found: list[Case] = []
    wanted: set[str] = set()
    for request in sorted((r for r in view.report.requests if r.public), key=lambda r: r.id):
        case = _case(view, request, wanted)
        if isinstance(case.call, ClaimPublic):
            wanted.add(case.call.allocation_id)
        found.append(case)
    return tuple(found)


def _case(view: NodeView, request: PodRequest, wanted: set[str]) -> Case:
    mine = next((p for p in claimed(view) if p.request == request.id), None)
    where = _holder(view, request.address)
    if where is None and mine is not None and _stuck(view, mine):
        return Case(request, granted=mine, problem=_lost(mine))
    if request.address and where is None:
        return Case(request, problem=f"EC2 does not show {request.address} on the node as an address of its own")
    if mine is not None:
        return _with_claim(view, request, mine, where) if where is not None else Case(request)
    choice, problem = _choose(view, request, where, wanted)
    if choice is None or where is None:
        return Case(request, problem=problem)
    return Case(request, call=ClaimPublic(choice.id, request.id, request.address))


def _holder(view: NodeView, address: str) -> InterfaceView | None:
    """The interface of the node that has a pod's address, by itself."""
    for interface in view.managed:
        own = interface.primary_address if not interface.is_primary_of(view.instance.id) else ""
        if address and (address in interface.addresses or address == own):
            return interface if interface.attachment is not None else None
    return None


def _with_claim(view: NodeView, request: PodRequest, mine: PublicAddress, where: InterfaceView) -> Case:
    refused = dict(view.setbacks.no_public).get(mine.id, "")
    if _is_at(mine, where, request.address):
        return Case(request, granted=mine, problem="" if mine.shown else _lost(mine))
    if _rests(view, mine):
        # the pod has another address than when it asked before; without its association the claim is given back below
        call = DisassociatePublic(mine.interface_id, mine.id, mine.association_id, mine.private_address)
        problem = refused if mine.shown else _lost(mine)
        return Case(request, granted=mine, call=None if problem else call, problem=problem)
    if mine.claimed_for != request.address and not mine.association_id and mine.id not in view.setbacks.unsure:
        return Case(request, call=UnclaimPublic(mine.id))
    if refused or not mine.shown or mine.association_id:
        why = refused or (_elsewhere(mine) if mine.shown else _untagged(mine.id))
        # what may be associated any moment stays claimed: nobody else is to find it there
        return Case(request, call=None if mine.id in view.setbacks.unsure else UnclaimPublic(mine.id), problem=why)
    if problem := _taken(view, where, request.address):
        return Case(request, problem=problem)
    return Case(request, call=AssociatePublic(where.id, mine.id, request.address))


def _taken(view: NodeView, where: InterfaceView, address: str) -> str:
    """Why nothing can be associated with ``address``: EC2 shows something there. Else ""."""
    there = next((p for p in view.publics or () if _is_at(p, where, address)), None)
    if there is None and address not in where.public:
        return ""
    return f"{address} already has another public address: {there.address if there else 'none of a pool of the stack'}"


def _rests(view: NodeView, public: PublicAddress) -> bool:
    """It is still where it was claimed for."""
    return bool(public.association_id) and _was_ours(view, public)


def _stuck(view: NodeView, public: PublicAddress) -> bool:
    """And it has lost its tag."""
    return not public.shown and _rests(view, public)


def _lost(public: PublicAddress) -> str:
    return (
        f"{public.address} ({public.id}) has lost the tag {POOL_TAG}, or the stack may not use its pool any more "
        f"(parameter PublicPools). It stays at {public.private_address}, and Berth may not take it off: give it the "
        "tag again, or disassociate it by hand when its pod is gone"
    )


def _is_at(public: PublicAddress, where: InterfaceView, address: str) -> bool:
    return bool(public.association_id) and (public.interface_id, public.private_address) == (where.id, address)


# ------------------------------------------------------------------------------------------------------- choosing


def _choose(
    view: NodeView, request: PodRequest, where: InterfaceView | None, wanted: set[str]
) -> tuple[PublicAddress | None, str]:
    """An address that the request may have, or why there is none."""
    named = [p for p in view.publics or () if p.shown and _named(p, request.public)]
    if not named:
        return None, _none_named(request.public)
    allowed = [p for p in named if not p.namespaces or request.namespace in p.namespaces]
    if not allowed:
        return None, f"namespace {request.namespace!r} may have none of {request.public} (tag berth:namespaces)"
    refused = dict(view.setbacks.no_public)
    here = [p for p in allowed if where and _is_at(p, where, request.address) and not p.claimed_by]
    free = [p for p in allowed if not p.claimed_by and not p.association_id]
    if len(refused) >= _MOST_REFUSALS:
        return None, next(iter(refused.values()))  # it is not the addresses
    if where and not here and (taken := _taken(view, where, request.address)):
        return None, taken
    for p in [*here, *sorted(free, key=lambda p: _spread(view.instance.id, p.id))]:
        if p.id not in wanted and p.id not in refused:
            return p, ""
    return None, next((refused[p.id] for p in allowed if p.id in refused), "") or _used_up(request.public, allowed)


def _named(public: PublicAddress, wanted: str) -> bool:
    if wanted.startswith("eipalloc-"):
        return public.id == wanted
    return wanted == "auto" or public.pool == wanted.removeprefix("pool:")


def _none_named(wanted: str) -> str:
    if wanted.startswith("eipalloc-"):
        return _untagged(wanted)
    tagged = f"the tag {POOL_TAG}" + ("" if wanted == "auto" else f" = {wanted.removeprefix('pool:')}")
    return f"no Elastic IP address has {tagged}, or the stack may not use that pool (parameter PublicPools)"


def _untagged(allocation_id: str) -> str:
    return f"{allocation_id} is none, or has no tag {POOL_TAG} of a pool that the stack may use (parameter PublicPools)"


def _used_up(wanted: str, allowed: Sequence[PublicAddress]) -> str:
    if wanted.startswith("eipalloc-"):
        first = allowed[0]
        return f"{first.address} is another pod's" if first.claimed_by else _elsewhere(first)
    return f"no address of {wanted} is free: all {len(allowed)} are in use"


def _elsewhere(public: PublicAddress) -> str:
    place = public.instance_id or public.interface_id or "something else"
    at = f" ({public.private_address})" if public.private_address else ""
    return f"{public.address} is associated with {place}{at}, by somebody else"


def _spread(instance_id: str, allocation_id: str) -> str:
    """Nodes that choose at the same time rarely choose the same one."""
    return hashlib.sha256(f"{instance_id} {allocation_id}".encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------- what to do


def public_calls(view: NodeView) -> list[PublicCall]:
    """What to do next, giving back first: another pod may wait for it."""
    if view.publics is None:
        return []
    return [*_give_back(view), *(case.call for case in cases(view) if case.call is not None)]


def _give_back(view: NodeView) -> Iterator[PublicCall]:
    """What was claimed for requests that are made no more, and what of the pools sits at an address of no request."""
    if view.report is None and not view.instance.dead:
        return  # nobody knows what pods there are
    requests = view.report.requests if view.report is not None and not view.instance.dead else ()
    asked = {r.id for r in requests if r.public}
    addresses = {r.address for r in requests if r.public}
    refused = dict(view.setbacks.no_public)
    for p in view.publics or ():
        if p.claimed_by == view.instance.id and p.request not in asked:
            if _rests(view, p):
                if p.id not in refused and p.shown:
                    yield DisassociatePublic(p.interface_id, p.id, p.association_id, p.private_address)
            elif p.id not in view.setbacks.unsure:
                yield UnclaimPublic(p.id)
        elif p.private_address not in addresses and p.id not in refused and _stray(view, p):
            yield DisassociatePublic(p.interface_id, p.id, p.association_id, p.private_address)


def _was_ours(view: NodeView, public: PublicAddress) -> bool:
    """Associated with what it was claimed for, on this node."""
    ours = public.instance_id == view.instance.id or any(i.id == public.interface_id for i in view.managed)
    return ours and public.private_address == public.claimed_for


def _stray(view: NodeView, public: PublicAddress) -> bool:
    """Nobody's, and at an address for pods: whoever gets that address would get the public one with it."""
    if public.claimed_by or not public.association_id:
        return False
    return any(i.id == public.interface_id and public.private_address in i.addresses for i in view.managed)


def lacking_addresses(view: NodeView) -> int:
    """Requests that need an address of their own on a node of prefixes, and could then have a public one."""
    if view.report is None:
        return 0
    served = {p.request for p in claimed(view) if not _stuck(view, p)}
    waiting = (c.request for c in cases(view) if not c.request.address and (c.granted or not c.problem))
    return sum(request.id not in served for request in waiting)


def public_grants(view: NodeView) -> tuple[PodGrant, ...]:
    """The answers, of those that there are.

    What a pod that is gone had stays for as long as EC2 has not let go of it: the agent lends that address to nobody.
    """
    asked = {r.id for r in view.report.requests} if view.report is not None else set()
    kept = [p for p in claimed(view) if p.request not in asked and _rests(view, p)]
    found = [_grant(p, "" if p.shown else _lost(p)) for p in kept]
    for case in cases(view):
        if case.granted is not None:
            found.append(_grant(case.granted, case.problem))
        elif case.problem:
            mine = next((p.id for p in claimed(view) if p.request == case.request.id), "")
            found.append(PodGrant(case.request.id, allocation_id=mine, problem=case.problem))
    return tuple(sorted(found, key=lambda g: g.id))


def _grant(p: PublicAddress, problem: str) -> PodGrant:
    return PodGrant(p.request, p.private_address, p.address, p.id, problem=problem)


def untagged(view: NodeView) -> int:
    """How many are where they were claimed for without a tag, with a pod or after it."""
    return sum(_stuck(view, p) for p in claimed(view))


# ---------------------------------------------------------------------------------------------- what calls have done


def apply_public(
    publics: tuple[PublicAddress, ...], call: PublicCall, outcome: Outcome, instance_id: str
) -> tuple[PublicAddress, ...]:
    """``publics`` after ``call`` was done."""
    return tuple(_after(p, call, outcome, instance_id) if p.id == call.allocation_id else p for p in publics)


def _after(p: PublicAddress, call: PublicCall, outcome: Outcome, instance_id: str) -> PublicAddress:
    match call:
        case ClaimPublic(request=request, address=address):
            return replace(p, claimed_by=instance_id, request=request, claimed_for=address)
        case UnclaimPublic():
            return replace(p, claimed_by="", request="", claimed_for="")
        case AssociatePublic(interface_id=interface_id, address=address):
            at = outcome.attachment_id or p.association_id
            return replace(
                p, association_id=at, interface_id=interface_id, private_address=address, instance_id=instance_id
            )
        case DisassociatePublic(association_id=association_id) if p.association_id == association_id:
            return replace(p, association_id="", interface_id="", private_address="", instance_id="")
    return p
