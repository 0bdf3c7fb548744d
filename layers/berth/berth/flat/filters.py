"""Network ACLs and security groups: which ports of a packet they let pass, and the rule that stops the others.

An ACL is stateless, its rules are tried by number, the first that matches decides, and none means no (VPC user guide,
"Control subnet traffic with network access control lists"). Groups are stateful, all rules allow, none means no; a
rule that names a group matches the private addresses of the interfaces in it (VPC user guide, "Security group rules").
"""

from __future__ import annotations

from collections.abc import Iterable

from berth.flat.index import Index
from berth.flat.numbers import ONE, Ports, both, minus, shown, text, within
from berth.flat.packets import Finding, Packet
from berth.flat.snapshot import ANY, Acl, AclEntry, GroupRule, Interface, Subnet

__all__ = ["through_acl", "through_groups"]

_DEFAULT_RULE = "*"


def _icmp_fits(wanted: tuple[int, int] | None, sent: tuple[int, int]) -> bool:
    if wanted is None:
        return True
    return wanted[0] in (-1, sent[0]) and (wanted[0] == -1 or wanted[1] in (-1, sent[1]))


def _named_ports(packet: Packet, protocol: str, ports: tuple[int, int] | None, icmp: tuple[int, int] | None) -> Ports:
    """Those of the packet's ports that a rule is about."""
    if protocol not in (ANY, packet.protocol):
        return ()
    if packet.protocol == "icmp":
        return packet.ports if protocol == ANY or _icmp_fits(icmp, packet.icmp) else ()
    return packet.ports if ports is None or protocol == ANY else both(packet.ports, (ports,))


def _ports_said(packet: Packet, ports: Ports) -> str:
    if packet.protocol == "icmp":
        return {8: "ICMP echo requests", 0: "ICMP echo replies"}.get(packet.icmp[0], f"ICMP type {packet.icmp[0]}")
    return f"{packet.protocol.upper()} {'to ' if ports != ONE else ''}{_port_word(ports)}"


def _port_word(ports: Ports) -> str:
    said = shown(ports)
    return said if said == "all ports" else f"{'port' if ports and ports[0][0] == ports[-1][1] else 'ports'} {said}"


def through_acl(index: Index, subnet: Subnet, packet: Packet, *, egress: bool) -> tuple[Ports, list[Finding]]:
    """What passes a subnet's border; the caller says which packets cross it. Without an ACL everything does."""
    acl = index.acl(subnet)
    if acl is None:
        return packet.ports, []
    peer = packet.target if egress else packet.source
    left = packet.ports
    passed: list[tuple[int, int]] = []
    stopped: list[tuple[Ports, AclEntry]] = []
    for entry in _entries_for(index, acl, peer, egress):
        if not left:
            break
        named = _named_ports(packet.but(left), entry.protocol, entry.ports, entry.icmp)
        if named and entry.allow:
            passed.extend(named)
        elif named:
            stopped.append((named, entry))
        left = minus(left, named)
    findings = [_acl_finding(acl.id, subnet, packet, ports, entry, egress) for ports, entry in stopped]
    if left:
        findings.append(_acl_finding(acl.id, subnet, packet, left, None, egress))
    return tuple(sorted(passed)), findings


def _entries_for(index: Index, acl: Acl, peer: int, egress: bool) -> list[AclEntry]:
    """Those whose CIDR holds the address, by number."""
    key = (acl.id, peer, egress)
    if key not in index.memo:
        named = (e for e in acl.entries if e.egress == egress and within(peer, e.cidr))
        index.memo[key] = sorted(named, key=lambda e: e.number)
    found: list[AclEntry] = index.memo[key]
    return found


def _acl_finding(
    acl: str, subnet: Subnet, packet: Packet, ports: Ports, entry: AclEntry | None, egress: bool
) -> Finding:
    way, side = ("outbound", "to") if egress else ("inbound", "from")
    peer = text(packet.target if egress else packet.source)
    number = _DEFAULT_RULE if entry is None or entry.number >= 32767 else str(entry.number)
    said = _ports_said(packet, ports)
    why = f"denies {entry.cidr}" if entry and number != _DEFAULT_RULE else "is reached: no rule before it allows this"
    place = "with any number" if number == _DEFAULT_RULE else f"with a number below {number}"
    return Finding(
        code="acl-egress" if egress else "acl-ingress",
        resource=acl,
        what=f"network ACL {acl} of {subnet.id}, {way} rule {number} {why}; it stops {said} {side} {peer}",
        remedy=f"add to {acl} an {way} rule {place} that allows {said} {side} {peer}/32 or the network around it",
        ports=ports,
        said=said,
    )


def through_groups(index: Index, interface: Interface, packet: Packet, *, egress: bool) -> tuple[Ports, list[Finding]]:
    """What an interface's groups let a new flow do. NAT gateways have no groups, and neither stops anything there."""
    if interface.groups is None or interface.kind == "nat_gateway":
        return packet.ports, []
    passed: Ports = ()
    for rule in _rules_for(index, interface.groups, packet, egress):
        passed = (*passed, *minus(_named_ports(packet, rule.protocol, rule.ports, rule.icmp), passed))
    stopped = minus(packet.ports, passed)
    return tuple(sorted(passed)), [_group_finding(interface, packet, stopped, egress)] if stopped else []


def _rules_for(index: Index, groups: tuple[str, ...], packet: Packet, egress: bool) -> list[GroupRule]:
    """Rules of these groups that name the other end."""
    address, peer = (packet.target, packet.receiver) if egress else (packet.source, packet.sender)
    key = (groups, address, peer.groups if peer else None, egress)
    if key not in index.memo:
        known = [index.groups[g] for g in groups if g in index.groups]
        rules = (r for group in known for r in (group.egress if egress else group.ingress))
        index.memo[key] = [r for r in rules if _names_peer(index, r, packet, egress)]
    found: list[GroupRule] = index.memo[key]
    return found


def _names_peer(index: Index, rule: GroupRule, packet: Packet, egress: bool) -> bool:
    address, peer = (packet.target, packet.receiver) if egress else (packet.source, packet.sender)
    if any(within(address, cidr) for cidr in _all_cidrs(index, rule)):
        return True
    return peer is not None and any(g in (peer.groups or ()) for g in rule.groups)


def _all_cidrs(index: Index, rule: GroupRule) -> Iterable[str]:
    yield from rule.cidrs
    for name in rule.prefix_lists:
        yield from index.cidrs(name)


def _group_finding(interface: Interface, packet: Packet, ports: Ports, egress: bool) -> Finding:
    way, side = ("outbound", "to") if egress else ("inbound", "from")
    peer, holder = (packet.target, packet.receiver) if egress else (packet.source, packet.sender)
    groups = interface.groups or ()
    said, address = _ports_said(packet, ports), text(peer)
    where = f"{interface.id} ({', '.join(groups) or 'no group'})"
    named = f"{address}/32 or the network around it"
    about = address
    if holder is not None and holder.groups:
        about = holder.groups[0]
        named = f"{about} (the group of {address})"
    return Finding(
        code="group-egress" if egress else "group-ingress",
        resource=groups[0] if groups else interface.id,
        what=f"no {way} rule of the security groups of {where} allows {said} {side} {address}",
        remedy=f"add to {groups[0] if groups else 'a group of the interface'} an {way} rule for {said} {side} {named}",
        ports=ports,
        said=said,
        about=about,
    )
