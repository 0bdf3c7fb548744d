"""What the wire formats say of single pods: their leases, what they ask of the VPC, and what of it they were granted.

A part of :mod:`berth.contract`, apart from it only so that each stays short; everybody else imports from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from berth._reading import ContractError, Reader

__all__ = ["PodGrant", "PodLease", "PodRequest", "read_epoch", "read_grant", "read_lease", "read_request"]

_EPOCH: Final = re.compile(r"[0-9a-z-]{0,64}")


@dataclass(frozen=True, slots=True)
class PodLease:
    """One pod's hold of one address, as far as it has gone: a row with ``ended`` says all that the one without said.

    ``id`` counts up within the node's epoch (:class:`Report`); a lease that ends is told again under a new one. Times
    are Unix seconds of the node's clock, to the millisecond; ``ended`` 0 is a pod that has the address still.
    ``held_until`` is when it last was known to have it, where the end was not seen: it ended between that and
    ``ended``; 0 where it was. ``epoch`` is an earlier one of the node, or "" for the report's. Addresses may be IPv4 or
    IPv6.
    """

    id: int
    address: str
    began: float
    ended: float = 0.0
    held_until: float = 0.0
    namespace: str = ""
    name: str = ""
    uid: str = ""
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class PodRequest:
    """What one pod asks of the VPC by its annotations, in each report for as long as the pod is there or waits.

    ``id`` is CONTAINER-ID/IFNAME, so a sandbox that is made again asks anew. ``address`` is the pod's own address, ""
    as long as it has none. ``public`` is ``auto``, ``eipalloc-…`` or ``pool:TAG-VALUE``; ``groups`` is ``sg-…,sg-…`` or
    a profile's name; "" for neither. A node says all of this of itself: it is believed as far as the node is.
    """

    id: str
    address: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    public: str = ""
    groups: str = ""


@dataclass(frozen=True, slots=True)
class PodGrant:
    """The answer to the request of that ``id``; none as long as nothing is decided, and after the pod is gone.

    ``address`` is the private address that ``public_address`` is associated with. ``interface_id`` is the pod's own
    interface, which the record lists once it is attached. ``problem`` says in words for the pod's events why it has not
    got what it asked for; that may change.
    """

    id: str
    address: str = ""
    public_address: str = ""
    allocation_id: str = ""
    interface_id: str = ""
    problem: str = ""


def read_epoch(r: Reader) -> str:
    """Of a report, or of a lease in one."""
    epoch = r.optional("epoch")
    if not _EPOCH.fullmatch(epoch):
        raise ContractError("report.epoch", f"expected at most 64 of 0-9, a-z and -, got {epoch!r:.80}")
    return epoch


def read_lease(r: Reader) -> PodLease:
    """Raises :class:`ContractError` naming the field, as all of these do."""
    return PodLease(
        id=r.count("id"),
        address=r.any_address("address"),
        began=r.time("began"),
        ended=r.time("ended"),
        held_until=r.time("held_until"),
        namespace=r.optional("namespace"),
        name=r.optional("name"),
        uid=r.optional("uid"),
        epoch=read_epoch(r),
    )


def read_request(r: Reader) -> PodRequest:
    """One of a report's."""
    return PodRequest(
        id=r.text("id"),
        address=r.any_address("address") if r.optional("address") else "",
        namespace=r.optional("namespace"),
        name=r.optional("name"),
        uid=r.optional("uid"),
        public=r.optional("public"),
        groups=r.optional("groups"),
    )


def read_grant(r: Reader) -> PodGrant:
    """One of a record's."""
    return PodGrant(
        id=r.text("id"),
        address=r.any_address("address") if r.optional("address") else "",
        public_address=r.address("public_address") if r.optional("public_address") else "",
        allocation_id=r.optional("allocation_id"),
        interface_id=r.optional("interface_id"),
        problem=r.optional("problem"),
    )
