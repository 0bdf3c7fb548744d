"""Carries a packet from where it leaves to where it ends: route tables, ACLs at each border, NAT gateways, peerings.

Which of its ports are left at the end, and what stopped the others. An ACL is asked only where a packet crosses the
border of its subnet: within a subnet nothing is (VPC user guide, "Network ACL basics").
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from berth.flat.filters import through_acl
from berth.flat.index import Index
from berth.flat.numbers import NAT_PORTS, NO_PORTS, ONE, number, text, within
from berth.flat.packets import Finding, Packet
from berth.flat.routing import Hop, next_hop
from berth.flat.snapshot import Interface, NatGateway, Peering, Subnet

__all__ = ["End", "Walk", "enter", "leave", "nat_interface", "nat_ports"]

_HOPS = 4
"""Route tables that one packet may pass: its own, those of NAT gateways. More is a circle."""


@dataclass(frozen=True, slots=True)
class End:
    """Where a packet ended: an interface, or outside by a gateway (``internet``, ``outside``, ``peering``)."""

    kind: Literal["interface", "internet", "outside", "peering"]
    interface: Interface | None = None
    gateway: str = ""


@dataclass(slots=True)
class Walk:
    """``packet`` is as it arrived; its ports are those that did. ``nat`` is the gateway that rewrote it, if one did.
    ``unknown`` says what could not be judged: then nothing follows from the rest."""

    packet: Packet
    end: End | None = None
    nat: NatGateway | None = None
    findings: list[Finding] = field(default_factory=list)
    unknown: str = ""

    def stop(self, finding: Finding | None) -> Walk:
        if finding is not None:
            self.findings.append(replace(finding, ports=self.packet.ports))
        self.packet = self.packet.but(NO_PORTS)
        return self

    def cross(self, index: Index, subnet: Subnet, *, egress: bool) -> None:
        """Past the ACL of one subnet."""
        passed, findings = through_acl(index, subnet, self.packet, egress=egress)
        self.packet = self.packet.but(passed)
        self.findings += findings


def nat_interface(index: Index, gateway: NatGateway) -> Interface:
    """The gateway's own interface: as described, or made up where it was not."""
    subnet = index.subnets[gateway.subnet]
    found = index.holder(subnet.vpc, number(gateway.address))
    return found or Interface(gateway.id, gateway.subnet, (gateway.address,), groups=None, kind="nat_gateway")


def leave(index: Index, subnet: Subnet, packet: Packet, ends: tuple[Interface | None, ...] = ()) -> Walk:
    """From within a subnet to wherever its routes lead. ``ends`` hold addresses that the snapshot need not list."""
    walk = Walk(packet)
    for _ in range(_HOPS):
        if not walk.packet.ports:
            return walk
        hop = next_hop(index, subnet, walk.packet.target)
        if hop.kind != "nat" or hop.nat is None:
            return _last_hop(index, subnet, hop, walk, ends)
        beyond = index.subnets.get(hop.nat.subnet)
        if beyond is None or walk.nat is not None:
            return walk.stop(_circle(hop.nat))
        if beyond.id != subnet.id:
            walk.cross(index, subnet, egress=True)
            walk.cross(index, beyond, egress=False)
        _translate(index, walk, hop.nat)
        subnet = beyond
    return walk.stop(None)


def _translate(index: Index, walk: Walk, gateway: NatGateway) -> None:
    walk.nat = gateway
    walk.packet = replace(walk.packet, source=number(gateway.address), sender=nat_interface(index, gateway))


def _circle(gateway: NatGateway) -> Finding:
    return Finding(
        "nat-circle",
        gateway.subnet,
        f"the subnet {gateway.subnet} of {gateway.id} routes on to a NAT gateway",
        f"route this destination in the table of {gateway.subnet} to an internet, VPN or transit gateway",
    )


def _last_hop(index: Index, subnet: Subnet, hop: Hop, walk: Walk, ends: tuple[Interface | None, ...]) -> Walk:
    if hop.kind == "local":
        return _deliver(index, subnet.vpc, subnet, walk, ends)
    if hop.kind == "nowhere":
        return walk.stop(hop.finding)
    if hop.kind == "unknown":
        walk.unknown = f"{hop.target} leads where EC2 does not describe it"
        return walk
    walk.cross(index, subnet, egress=True)
    if hop.kind == "internet":
        return _internet(subnet, hop, walk)
    if hop.kind == "appliance":
        return _appliance(hop, walk)
    if hop.kind == "peering" and hop.peering is not None:
        return _peer(index, subnet, hop.peering, walk, ends)
    beyond = _attached_too(index, subnet.vpc, hop.target, walk.packet.target)
    if beyond:
        return _deliver(index, beyond, None, walk, ends)
    walk.end = End("outside", gateway=hop.target)
    return walk


def _peer(index: Index, subnet: Subnet, peering: Peering, walk: Walk, ends: tuple[Interface | None, ...]) -> Walk:
    """A peering leads to the peer's own CIDRs and no further (VPC peering guide, "VPC peering limitations")."""
    other = 1 - peering.vpcs.index(subnet.vpc)
    there, target = peering.vpcs[other], walk.packet.target
    cidrs = index.vpcs[there].cidrs if there in index.vpcs else peering.cidrs[other]
    if not any(within(target, c) for c in cidrs):
        return walk.stop(
            Finding(
                "peering-beyond",
                peering.id,
                f"{text(target)} is routed to the peering {peering.id}, "
                f"which leads to {', '.join(cidrs)} of {there} alone",
                f"add a route for {text(target)}/32 or the network around it to the gateway that leads there",
            )
        )
    if there in index.vpcs:
        return _deliver(index, there, None, walk, ends)
    walk.end = End("peering", gateway=peering.id)
    return walk


def _attached_too(index: Index, vpc: str, gateway: str, target: int) -> str:
    """Another VPC that the transit gateway leads to. Its route tables are not described: they are taken to allow it,
    as they do by default (Transit gateways guide, "How transit gateways work")."""
    others = (a.vpc for a in index.snapshot.transit_attachments if a.gateway == gateway and a.available)
    return next((v for v in others if v != vpc and index.in_vpc(v, target)), "")


def _deliver(index: Index, vpc: str, origin: Subnet | None, walk: Walk, ends: tuple[Interface | None, ...]) -> Walk:
    """To the interface of this VPC that holds the address. ``origin`` is None for what comes from outside the VPC."""
    target = walk.packet.target
    holder = next((e for e in ends if e and e.holds(target) and _vpc_of(index, e) == vpc), None)
    holder = holder or index.holder(vpc, target)
    if holder is None:
        return walk.stop(_unassigned(index, vpc, target))
    subnet = index.subnets[holder.subnet]
    if origin is None or origin.id != subnet.id:
        if origin is not None:
            walk.cross(index, origin, egress=True)
        walk.cross(index, subnet, egress=False)
    walk.end = End("interface", holder)
    return walk


def _vpc_of(index: Index, interface: Interface) -> str:
    subnet = index.subnets.get(interface.subnet)
    return subnet.vpc if subnet else ""


def _unassigned(index: Index, vpc: str, target: int) -> Finding:
    cidr = next((c for c in index.vpcs[vpc].cidrs if index.in_vpc(vpc, target)), "")
    return Finding(
        "overlap",
        vpc,
        f"{text(target)} is inside {vpc} ({', '.join(index.vpcs[vpc].cidrs)}) and assigned to nothing there: "
        "the local route keeps the packet in the VPC",
        f"where the address belongs to another network, give that network or {vpc} a CIDR that does not overlap "
        f"{cidr}, or reach it through a private NAT gateway",
    )


def _internet(subnet: Subnet, hop: Hop, walk: Walk) -> Walk:
    """An internet gateway passes only what has a public address (VPC user guide, "Enable internet access")."""
    sender = walk.packet.sender
    has = dict(sender.public).get(text(walk.packet.source)) if sender else None
    if walk.nat is not None:
        has = has or ("yes" if walk.nat.public else None)
    if not has:
        name = walk.nat.id if walk.nat else (sender.id if sender else subnet.id)
        return walk.stop(
            Finding(
                "no-public-address",
                name,
                f"{text(walk.packet.source)} of {name} has no public address: {hop.target} drops what it sends",
                f"route this destination of {subnet.id} to a NAT gateway, or give {name} an Elastic IP address",
            )
        )
    walk.end = End("internet", gateway=hop.target)
    return walk


def _appliance(hop: Hop, walk: Walk) -> Walk:
    """An interface takes what is not addressed to it only with its source/destination check off."""
    interface = hop.interface
    if interface is None:
        return walk.stop(None)
    if interface.source_check:
        return walk.stop(
            Finding(
                "source-check",
                interface.id,
                f"the route leads to {interface.id}, whose source/destination check is on: it is given nothing that is "
                "addressed to others",
                f"switch the source/destination check of {interface.id} off, and have {interface.instance} forward",
            )
        )
    walk.unknown = f"{interface.id} of {interface.instance} forwards it, and what that instance does is not described"
    return walk


def enter(index: Index, vpc: str, packet: Packet, ends: tuple[Interface | None, ...] = ()) -> Walk:
    """From outside, by a gateway of the VPC, to the interface that holds the address: no route table is asked."""
    return _deliver(index, vpc, None, Walk(packet), ends)


def nat_ports(packet: Packet) -> Packet:
    """The packet, answered to a port that a NAT gateway has chosen: any of its range."""
    return packet if packet.ports == ONE else packet.but(NAT_PORTS)
