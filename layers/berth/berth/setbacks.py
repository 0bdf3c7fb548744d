"""What EC2 refused, so that the next plan goes around it. Pure."""

from __future__ import annotations

from dataclasses import replace

from berth.calls import (
    AssignAddresses,
    AssignIpv6Prefixes,
    AssignPrefixes,
    AssociatePublic,
    Attach,
    Call,
    CreateInterface,
    DisassociatePublic,
)
from berth.ec2_wire import Trouble
from berth.model import NodeView, Setbacks

__all__ = ["PUBLIC_TROUBLES", "SUBNET_TROUBLES", "set_back", "without_public"]

SUBNET_TROUBLES = (Trouble.FRAGMENTED, Trouble.EXHAUSTED)
_TOO_MANY_GROUPS = "SecurityGroupsPerInterfaceLimitExceeded"
PUBLIC_TROUBLES = (Trouble.REFUSED, Trouble.GONE, Trouble.LIMIT)
"""Of a public address, these are one pod's, who is told: others of its node must not wait until somebody acts."""


def set_back(view: NodeView, call: Call, trouble: Trouble, said: str = "") -> tuple[Setbacks, str]:
    """The setbacks after EC2 has refused ``call``, and the metric that counts it ("" for none). ``said`` is why."""
    if isinstance(call, CreateInterface) and call.pod and _is_of_the_pod(trouble, said):
        return replace(view.setbacks, pods=(*view.setbacks.pods, (call.pod, said))), "PodInterfacesRefused"
    if isinstance(call, AssignIpv6Prefixes) and trouble is not Trouble.STATE:
        # the node has its IPv4 addresses by now, and goes on with them
        back = view.setbacks
        return replace(back, no_ipv6=back.no_ipv6 | {_subnet_of(view, call)}), "Ipv6PrefixesUnavailable"
    if trouble in SUBNET_TROUBLES:
        return _subnet(view, call)
    return _interface(view.setbacks, call, trouble), ""


def _is_of_the_pod(trouble: Trouble, code: str) -> bool:
    """Too many groups are one pod's own limit; every other limit is its node's or account's."""
    return trouble not in (*SUBNET_TROUBLES, Trouble.LIMIT) or code == _TOO_MANY_GROUPS


def without_public(view: NodeView, call: AssociatePublic | DisassociatePublic, why: str) -> Setbacks:
    """The setbacks after EC2 has refused something of one Elastic IP address: another one may do."""
    back = view.setbacks
    return replace(back, no_public=(*back.no_public, (call.allocation_id, why)))


def _subnet(view: NodeView, call: Call) -> tuple[Setbacks, str]:
    subnet, back = _subnet_of(view, call), view.setbacks
    asked_prefixes = isinstance(call, AssignPrefixes) or (isinstance(call, CreateInterface) and call.prefixes > 0)
    if asked_prefixes and subnet not in back.fragmented:
        # also when no address is said to be free: a single one may be, outside the ranges reserved for prefixes
        return replace(back, fragmented=back.fragmented | {subnet}), "PrefixesUnavailable"
    return replace(back, exhausted=back.exhausted | {subnet}), "SubnetExhausted"


def _interface(back: Setbacks, call: Call, trouble: Trouble) -> Setbacks:
    if isinstance(call, CreateInterface):
        back = replace(back, no_create=True)
    elif isinstance(call, AssignPrefixes | AssignAddresses) and trouble is not Trouble.STATE:
        back = replace(back, full=back.full | {call.interface_id})
    else:
        back = replace(back, refused=back.refused | {call.interface_id})
    if isinstance(call, Attach) and trouble is Trouble.LIMIT:
        back = replace(back, no_create=True)
    return back


def _subnet_of(view: NodeView, call: Call) -> str:
    if isinstance(call, CreateInterface):
        return call.subnet_id
    return next((i.subnet_id for i in view.interfaces if i.id == call.interface_id), "")
