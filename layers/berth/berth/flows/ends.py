"""Whose the two ends of a flow record are: which address to ask about, and which of its leases count. Pure.

``pkt-srcaddr`` and ``pkt-dstaddr`` are the packet's own addresses. ``srcaddr`` of outgoing and ``dstaddr`` of incoming
traffic are the primary address of the interface, whichever of its addresses the packet had; so they name the node, not
the pod (VPC user guide, "Flow log records"). A node's translation (SNAT) comes before the interface: what it hides, no
flow log shows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from berth.flows.window import Attribution, PodState, Window, attribute
from berth.history import Held

__all__ = ["End", "Subnet", "Subnets", "canonical", "end_of", "judge"]

_OWN: Final = {("src", "egress"): True, ("src", "ingress"): False, ("dst", "egress"): False, ("dst", "ingress"): True}
_NO_ADDRESS: Final = Attribution(PodState.NONE, "the record names no address")
_OUTSIDE: Final = Attribution(PodState.NONE, "outside the subnets of this account and region")
_PRIMARY: Final = Attribution(
    PodState.NONE, "the interface's own address: its node, or pods that the node translates (SNAT)"
)
_NO_PACKET_ADDRESS: Final = Attribution(
    PodState.UNKNOWN,
    "the format has no packet addresses (pkt-srcaddr, pkt-dstaddr): an interface's own end is shown by its primary one",
)


@dataclass(frozen=True, slots=True)
class Subnet:
    """``cidrs`` are of both families."""

    id: str
    vpc_id: str
    cidrs: tuple[str, ...]


class Subnets:
    """Which subnets an address is in: one, or one of each VPC with the same CIDR."""

    def __init__(self, subnets: Iterable[Subnet]) -> None:
        self._found: dict[tuple[int, int, int], list[Subnet]] = {}
        for subnet in subnets:
            for cidr in subnet.cidrs:
                network = ipaddress.ip_network(cidr, strict=False)
                key = (network.version, network.prefixlen, int(network.network_address))
                self._found.setdefault(key, []).append(subnet)
        self._lengths = sorted({(version, length) for version, length, _ in self._found})

    def near(self, address: str, vpc_id: str | None) -> tuple[Subnet, ...]:
        """Those of a record's VPC where it has the address: two VPCs that reach each other share none."""
        found = self.of(address)
        return tuple(s for s in found if s.vpc_id == vpc_id) or found

    def of(self, address: str) -> tuple[Subnet, ...]:
        """Empty for an address of elsewhere, and for what is none."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return ()
        found: list[Subnet] = []
        for version, length in self._lengths:
            if version == parsed.version:
                low = parsed.max_prefixlen - length
                found += self._found.get((version, length, int(parsed) >> low << low), ())
        return tuple(found)


def canonical(address: str) -> str:
    """As the ledger writes it: IPv6 in its shortest form. What is no address stays what it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


@dataclass(frozen=True, slots=True)
class End:
    """One end of a record. ``own``: it is the interface's own; None where the record does not say (before version 5).
    ``packet``: ``address`` is the packet's."""

    address: str | None
    own: bool | None = None
    packet: bool = True
    primary: bool = False
    interface_id: str | None = None
    vpc_id: str | None = None


def end_of(
    side: str,
    address: str | None,
    packet: str | None,
    direction: str | None,
    interface_id: str | None,
    vpc_id: str | None,
    *,
    has_packet: bool,
) -> End:
    """``address`` and ``packet`` are srcaddr and pkt-srcaddr for ``src``; ``has_packet``: the format has the latter."""
    own = _OWN.get((side, direction or ""))
    return End(
        packet or address,
        own,
        packet=has_packet and packet is not None,
        primary=own is True and packet is not None and packet == address,
        # a peer's lease is at another interface
        interface_id=interface_id if own else None,
        vpc_id=vpc_id,
    )


def judge(
    end: End, window: Window, leases: Mapping[str, Sequence[Held]], subnets: Sequence[Subnet], now: float
) -> Attribution:
    """``leases`` by address, ``subnets`` those that this end's address is in."""
    if end.address is None:
        return _NO_ADDRESS
    if not subnets:
        return _OUTSIDE
    found = attribute(_concerned(end, leases.get(canonical(end.address), ()), subnets), window, now)
    if found.state is not PodState.NONE:
        return found
    if not end.packet and end.own is not False:
        return _NO_PACKET_ADDRESS
    return _PRIMARY if end.primary else found


def _concerned(end: End, leases: Sequence[Held], subnets: Sequence[Subnet]) -> Sequence[Held]:
    """The leases in the record's VPC if the address is one of it (else it is a peered VPC's), and at its interface."""
    here = {s.id for s in subnets if s.vpc_id == end.vpc_id}
    if here:
        leases = [lease for lease in leases if lease.subnet_id in here or not lease.subnet_id]
    own = [lease for lease in leases if end.interface_id and lease.interface_id == end.interface_id]
    return own or leases
