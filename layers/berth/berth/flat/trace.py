"""One flow: does what is sent arrive, and does the answer come back?

Both ways are walked apart, each by the routes and ACLs of where it starts; groups are asked once, since they are
stateful. A pod's packet to a destination that is neither in the node's VPC nor in the no-SNAT list leaves in the name
and by the primary interface of its node (docs/architecture.md), and is judged so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from berth.flat.filters import through_groups
from berth.flat.index import Index
from berth.flat.numbers import ALL_PORTS, EPHEMERAL, NO_PORTS, ONE, Ports, number, text, within
from berth.flat.packets import ECHO_REPLY, ECHO_REQUEST, Finding, Packet, Protocol
from berth.flat.snapshot import Interface, NatGateway, Peering
from berth.flat.walk import Walk, enter, leave, nat_interface, nat_ports

__all__ = ["Place", "Trace", "trace"]


@dataclass(frozen=True, slots=True)
class Place:
    """One end of flows: an address of an interface, or (without one) of a network outside or the internet.

    ``pod``: the address is a pod's, so its node may rewrite it.
    """

    address: int
    interface: Interface | None = None
    kind: Literal["interface", "network", "internet"] = "interface"
    pod: bool = False


@dataclass(slots=True)
class Trace:
    """``arrives``: ports to which what is sent arrives; ``answered``: ports *of the client* at which the answer does.

    ``doubtful``: some answers pass and others do not, by a port that a NAT gateway chooses. ``seen_as`` is the source
    that the target sees.
    """

    asked: Ports
    client_ports: Ports
    arrives: Ports = NO_PORTS
    answered: Ports = NO_PORTS
    doubtful: bool = False
    seen_as: str = ""
    findings: tuple[Finding, ...] = ()
    unknown: str = ""

    @property
    def passes(self) -> bool:
        """Every port asked for, and every answer."""
        return (
            not self.unknown and not self.doubtful and self.arrives == self.asked and self.answered == self.client_ports
        )

    @property
    def fails(self) -> bool:
        """Nothing at all gets through and back."""
        return not self.unknown and not self.doubtful and not (self.arrives and self.answered)


def trace(
    index: Index,
    source: Place,
    target: Place,
    protocol: Protocol,
    ports: Ports = ALL_PORTS,
    client_ports: Ports = EPHEMERAL,
    *,
    apart: bool = False,
) -> Trace:
    """Judge a flow that ``source`` opens to ``ports`` of ``target``. ICMP is echo; ports do not count then.

    ``apart``: the two are on different instances, even if the same one stands for both.
    """
    if protocol == "icmp":
        ports = client_ports = ONE
    found = Trace(asked=ports, client_ports=client_ports)
    if not apart and _same_instance(source, target):
        # the node's own routes carry it: nothing reaches the VPC
        found.arrives, found.answered, found.seen_as = ports, client_ports, text(source.address)
        return found
    source = _as_sent(index, source, target)
    sent = _request(index, source, target, protocol, ports)
    found.findings, found.unknown = tuple(sent.findings), sent.unknown
    if sent.unknown or not sent.packet.ports:
        return found
    found.arrives, found.seen_as = sent.packet.ports, text(sent.packet.source)
    _answer(index, source, sent, found)
    return found


def _same_instance(source: Place, target: Place) -> bool:
    one, other = source.interface, target.interface
    return one is not None and other is not None and one.instance is not None and one.instance == other.instance


def _as_sent(index: Index, source: Place, target: Place) -> Place:
    """The source after its node has rewritten it, if it does."""
    interface = source.interface
    if not source.pod or interface is None or interface.instance is None:
        return source
    if index.keeps_address(interface, target.address):
        return source
    primary = index.primaries.get(interface.instance, interface)
    return Place(number(primary.addresses[0]), primary)


def _request(index: Index, source: Place, target: Place, protocol: Protocol, ports: Ports) -> Walk:
    ends = (source.interface, target.interface)
    packet = Packet(source.address, target.address, protocol, ports, ECHO_REQUEST, *ends)
    if source.interface is None:
        walk = _from_outside(index, packet, target, ends[::-1])
    else:
        passed, findings = through_groups(index, source.interface, packet, egress=True)
        # the target first: of places that are supposed, both may have been given one address
        walk = leave(index, index.subnets[source.interface.subnet], packet.but(passed), ends[::-1])
        walk.findings[:0] = findings
    if walk.unknown or not walk.packet.ports or walk.end is None:
        return walk
    arrived = walk.end.interface
    if target.interface is not None and walk.end.kind == "outside":
        walk.unknown = _sent_on(walk)
        return walk
    if target.interface is not None and (arrived is None or arrived.id != target.interface.id):
        return walk.stop(_astray(walk, arrived))
    if target.interface is None and arrived is not None:
        return walk.stop(_astray(walk, arrived))
    if target.interface is None and (walk.end.kind == "internet") != (target.kind == "internet"):
        return walk.stop(_wrong_way(walk, target))
    if arrived is not None:
        passed, findings = through_groups(index, arrived, walk.packet, egress=False)
        walk.packet = walk.packet.but(passed)
        walk.findings += findings
    return walk


def _from_outside(index: Index, packet: Packet, target: Place, ends: tuple[Interface | None, ...]) -> Walk:
    """What a network outside sends comes by any gateway that may lead there: the far side's routes are not known."""
    walk = Walk(packet)
    if target.interface is None:
        return walk.stop(None)
    vpc = index.subnets[target.interface.subnet].vpc
    if not _gateways(index, vpc, packet.source):
        return walk.stop(
            Finding(
                "no-gateway",
                vpc,
                f"no VPN gateway, transit gateway or peering of {vpc} leads from {text(packet.source)}",
                f"attach a VPN or transit gateway to {vpc}, or peer it with that network",
            )
        )
    return enter(index, vpc, packet, ends)


def _gateways(index: Index, vpc: str, address: int) -> list[str]:
    snapshot = index.snapshot
    found = [g.id for g in snapshot.vpn_gateways if vpc in g.vpcs]
    found += [a.gateway for a in snapshot.transit_attachments if a.vpc == vpc and a.available]
    return found + [p.id for p in snapshot.peerings if p.active and vpc in p.vpcs and _beyond(index, p, vpc, address)]


def _beyond(index: Index, peering: Peering, vpc: str, address: int) -> bool:
    """A described VPC's addresses are interfaces, and what no interface has is not there."""
    other = 1 - peering.vpcs.index(vpc)
    return peering.vpcs[other] not in index.vpcs and any(within(address, c) for c in peering.cidrs[other])


def _astray(walk: Walk, arrived: Interface | None) -> Finding:
    where = (
        f"to {arrived.id} ({arrived.instance or arrived.kind})"
        if arrived
        else f"out by {walk.end.gateway if walk.end else ''}"
    )
    return Finding(
        "overlap" if arrived else "wrong-gateway",
        arrived.id if arrived else "",
        f"{text(walk.packet.target)} is routed {where}, not to where it is meant to go",
        "give the two networks CIDRs that do not overlap, or route the target's CIDR to where it is",
    )


def _wrong_way(walk: Walk, target: Place) -> Finding:
    gateway = walk.end.gateway if walk.end else ""
    return Finding(
        "wrong-gateway",
        gateway,
        f"{text(target.address)} is routed to {gateway}, which does not lead there",
        f"add a route for {text(target.address)}/32 or the network around it to the gateway that leads there",
    )


def _answer(index: Index, source: Place, sent: Walk, found: Trace) -> None:
    """The way back, with the addresses as the target sees them."""
    arrived = sent.end.interface if sent.end else None
    back = Packet(
        sent.packet.target,
        sent.packet.source,
        sent.packet.protocol,
        found.client_ports,
        ECHO_REPLY,
        sent.packet.receiver,
        sent.packet.sender,
    )
    if sent.nat is not None:
        back = nat_ports(back)
    walk = _back(index, source, arrived, back, sent)
    asked = back.ports
    if sent.nat is not None and walk.packet.ports and not walk.unknown:
        found.doubtful = walk.packet.ports != asked
        first = walk.findings
        walk = _behind_nat(index, source, sent.nat, replace(back, ports=found.client_ports, target=source.address))
        walk.findings[:0] = first
    found.unknown = walk.unknown
    found.answered = walk.packet.ports
    found.findings += tuple(replace(f, answer=True) for f in walk.findings)


def _back(index: Index, source: Place, arrived: Interface | None, back: Packet, sent: Walk) -> Walk:
    ends = (source.interface, arrived)
    if arrived is None:
        # outside: the far side knows the way back, since it is where the packet came from
        vpc = index.subnets[sent.nat.subnet].vpc if sent.nat else _home(index, source)
        return enter(index, vpc, back, ends)
    walk = leave(index, index.subnets[arrived.subnet], back, ends)
    if walk.unknown or not walk.packet.ports or walk.end is None:
        return walk
    expected = nat_interface(index, sent.nat) if sent.nat else source.interface
    if walk.nat is not None:
        return walk.stop(_translated(walk, back))
    if expected is None:
        # outside again, by whichever gateway, but for the internet's
        ok = walk.end.kind in ("outside", "peering")
        return walk if ok else walk.stop(_astray_answer(walk, back))
    if walk.end.kind == "outside":
        walk.unknown = _sent_on(walk)
        return walk
    came = walk.end.interface
    return walk if came is not None and came.id == expected.id else walk.stop(_astray_answer(walk, back))


def _sent_on(walk: Walk) -> str:
    gateway = walk.end.gateway if walk.end else ""
    return f"{text(walk.packet.target)} is routed out by {gateway}; whether the network beyond sends it on is not known"


def _home(index: Index, source: Place) -> str:
    return index.subnets[source.interface.subnet].vpc if source.interface else ""


def _translated(walk: Walk, back: Packet) -> Finding:
    gateway = walk.nat.id if walk.nat else ""
    return Finding(
        "answer-translated",
        gateway,
        f"the answer to {text(back.target)} is routed to the NAT gateway {gateway}, which drops or rewrites it",
        f"add a route for {text(back.target)}/32 or the network around it, so that answers go back as they came",
    )


def _astray_answer(walk: Walk, back: Packet) -> Finding:
    where = walk.end.gateway or (walk.end.interface.id if walk.end.interface else "") if walk.end else ""
    return Finding(
        "return-route",
        where,
        f"the answer to {text(back.target)} is routed to {where}, not back to where it came from",
        f"add a route for {text(back.target)}/32 or the network around it, so that answers go back as they came",
    )


def _behind_nat(index: Index, source: Place, gateway: NatGateway, back: Packet) -> Walk:
    """From the NAT gateway to the source, its address restored."""
    back = replace(back, receiver=source.interface)
    return leave(index, index.subnets[gateway.subnet], back, (source.interface,))
