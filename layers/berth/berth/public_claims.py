"""Public addresses of a look: whether its nodes have to do with any, and the claims themselves."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from berth.calls import ClaimPublic, UnclaimPublic
from berth.ec2_wire import Ec2Error, Trouble
from berth.edges import Edges
from berth.model import InterfaceView, NodeView, Outcome, PublicAddress
from berth.publics import apply_public, concerns
from berth.store import NodeState

__all__ = ["has_publics", "load_publics", "write_claim"]

logger = logging.getLogger(__name__)


def has_publics(instance_id: str, interfaces: Sequence[InterfaceView], state: NodeState) -> bool:
    """Whether a node has to do with public addresses: it asks for one, or has one, or may have claimed one."""
    asked = state.report.requests if state.report is not None else ()
    granted = any(g.allocation_id or g.problem for g in (state.record.grants if state.record else ()))
    return bool(state.publics) or granted or concerns(interfaces, asked, instance_id)


def load_publics(
    edges: Edges,
    ids: Sequence[str],
    interfaces: Mapping[str, tuple[InterfaceView, ...]],
    states: Mapping[str, NodeState],
) -> tuple[PublicAddress, ...] | None:
    """All of them, if one of these nodes has to do with any. None: nobody has, or EC2 refuses to show them.

    Then pods that have one keep it, and the others of their nodes go on. Raises what is over soon, as describes do.
    """
    if not any(has_publics(i, interfaces.get(i, ()), states[i]) for i in ids):
        return None
    try:
        found = edges.publics.load()
    except Ec2Error as error:
        if error.trouble is not Trouble.REFUSED:
            raise
        logger.exception("Elastic IP addresses cannot be read", extra={"code": error.code})
        return None
    claimed = {(p.claimed_by, p.id) for p in found}
    for instance_id in ids:
        for allocation_id in sorted(states[instance_id].publics):
            if (instance_id, allocation_id) not in claimed:
                edges.publics.unclaim(allocation_id, instance_id)  # a pointer that leads nowhere
    return found


def write_claim(edges: Edges, view: NodeView, call: ClaimPublic | UnclaimPublic) -> tuple[NodeView, bool]:
    """Claim or give up. Whoever loses the race plans again without it."""
    node, publics = view.instance.id, view.publics or ()
    if isinstance(call, UnclaimPublic):
        edges.publics.unclaim(call.allocation_id, node)
        return replace(view, publics=apply_public(publics, call, Outcome(), node)), True
    found = next(p for p in publics if p.id == call.allocation_id)
    won = edges.publics.claim(found, node, call.request, call.address, edges.clock())
    if won:
        return replace(view, publics=apply_public(publics, call, Outcome(), node)), True
    lost = replace(found, claimed_by="another node", request="")
    return replace(view, publics=tuple(lost if p.id == found.id else p for p in publics)), False
