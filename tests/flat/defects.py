"""The check, broken on purpose in one place each: comparing it with packets must find out every one of these.

A defect is a change of what the check reads (a snapshot that lies) or of one of its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest import mock

from berth.flat import filters, index, routing, trace, walk
from berth.flat.packets import ECHO_REPLY, Packet
from berth.flat.snapshot import GroupRule, Snapshot

__all__ = ["DEFECTS", "Defect"]

Defect = Callable[[Snapshot], Any]


def _reading(change: Callable[[Snapshot], Snapshot]) -> Defect:
    """What the check believes differs from what is."""

    @contextmanager
    def broken(snapshot: Snapshot) -> Iterator[Snapshot]:
        yield change(snapshot)

    return broken


def _working(where: Any, name: str, wrong: Callable[..., Any]) -> Defect:
    """One function is replaced; ``wrong`` is given the right one first."""
    right = getattr(where, name)

    @contextmanager
    def broken(snapshot: Snapshot) -> Iterator[Snapshot]:
        with mock.patch.object(where, name, lambda *a, **k: wrong(right, *a, **k)):
            yield snapshot

    return broken


def _no_acl(when: Callable[[Packet, bool], bool]) -> Defect:
    def wrong(right: Any, found: Any, subnet: Any, packet: Packet, *, egress: bool) -> Any:
        return (packet.ports, []) if when(packet, egress) else right(found, subnet, packet, egress=egress)

    return _working(walk, "through_acl", wrong)


def _no_groups(way: bool) -> Defect:
    def wrong(right: Any, found: Any, interface: Any, packet: Packet, *, egress: bool) -> Any:
        return (packet.ports, []) if egress == way else right(found, interface, packet, egress=egress)

    return _working(trace, "through_groups", wrong)


def _rules(change: Callable[[GroupRule], GroupRule]) -> Defect:
    def changed(snapshot: Snapshot) -> Snapshot:
        groups = (
            replace(g, ingress=tuple(map(change, g.ingress)), egress=tuple(map(change, g.egress)))
            for g in snapshot.groups
        )
        return replace(snapshot, groups=tuple(groups))

    return _reading(changed)


def _routes(**fields: Any) -> Defect:
    def changed(snapshot: Snapshot) -> Snapshot:
        tables = (replace(t, routes=tuple(replace(r, **fields) for r in t.routes)) for t in snapshot.tables)
        return replace(snapshot, tables=tuple(tables))

    return _reading(changed)


def _listed_order(snapshot: Snapshot) -> Snapshot:
    acls = (replace(a, entries=tuple(replace(e, number=n) for n, e in enumerate(a.entries))) for a in snapshot.acls)
    return replace(snapshot, acls=tuple(acls))


def _everything_public(snapshot: Snapshot) -> Snapshot:
    found = (replace(i, public=((i.addresses[0], "203.0.113.99"),)) for i in snapshot.interfaces)
    return replace(snapshot, interfaces=tuple(found))


def _internet_nowhere(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, internet_gateways=tuple(replace(g, vpcs=()) for g in snapshot.internet_gateways))


def _vpn_everywhere(snapshot: Snapshot) -> Snapshot:
    vpcs = tuple(v.id for v in snapshot.vpcs)
    return replace(snapshot, vpn_gateways=tuple(replace(g, vpcs=vpcs) for g in snapshot.vpn_gateways))


def _outside_instead(right: Any, found: Any, vpc: str, origin: Any, going: walk.Walk, ends: Any) -> walk.Walk:
    ended: walk.Walk = right(found, vpc, origin, going, ends)
    if ended.end is None and not ended.packet.ports and ended.findings and ended.findings[-1].code == "overlap":
        ended.packet, ended.end = ended.packet.but(ended.findings[-1].ports), walk.End("outside")
    return ended


def _through_appliance(_right: Any, _hop: Any, going: walk.Walk) -> walk.Walk:
    going.end = walk.End("outside")
    return going


def _answered_anyway(_right: Any, _index: Any, _source: Any, _sent: Any, found: trace.Trace) -> None:
    found.answered = found.client_ports


def _all_zones(snapshot: Snapshot) -> Snapshot:
    names = tuple(s.id for s in snapshot.subnets)
    return replace(snapshot, transit_attachments=tuple(replace(a, subnets=names) for a in snapshot.transit_attachments))


DEFECTS: Final[dict[str, Defect]] = {
    "ACLs are not asked on the way out": _no_acl(lambda _, egress: egress),
    "ACLs are not asked on the way in": _no_acl(lambda _, egress: not egress),
    "ACLs are stateful": _no_acl(lambda packet, _: packet.icmp == ECHO_REPLY),
    "ACL rules are tried in the order they are listed": _reading(_listed_order),
    "ACLs and groups know no ICMP types": _working(filters, "_icmp_fits", lambda *_: True),
    "groups are not asked on the way out": _no_groups(True),
    "groups are not asked on the way in": _no_groups(False),
    "rules that name a group match nothing": _rules(lambda r: replace(r, groups=())),
    "rules that name a group match everybody": _rules(lambda r: replace(r, cidrs=("0.0.0.0/0",)) if r.groups else r),
    "port ranges of groups are ignored": _rules(lambda r: replace(r, ports=None)),
    "prefix lists are empty": _reading(
        lambda s: replace(s, prefix_lists=tuple(replace(p, cidrs=()) for p in s.prefix_lists))
    ),
    "black holes route": _routes(black_hole=False),
    "the shortest prefix wins": _working(routing, "_length", lambda right, cidr: -right(cidr)),
    "propagated routes are as good as static ones": _working(
        routing, "_rank", lambda right, route, cidr: (right(route, cidr)[0], route.propagated, 0)
    ),
    "subnets do not fall back to the main table": _reading(
        lambda s: replace(s, tables=tuple(replace(t, main=False) for t in s.tables))
    ),
    "every interface has a public address": _reading(_everything_public),
    "every NAT gateway has a public address": _reading(
        lambda s: replace(s, nat_gateways=tuple(replace(n, public=True) for n in s.nat_gateways))
    ),
    "every NAT gateway is available": _reading(
        lambda s: replace(s, nat_gateways=tuple(replace(n, available=True) for n in s.nat_gateways))
    ),
    "internet gateways are attached nowhere": _reading(_internet_nowhere),
    "VPN gateways are attached everywhere": _reading(_vpn_everywhere),
    "transit gateways reach every zone": _reading(_all_zones),
    "every peering is active": _reading(
        lambda s: replace(s, peerings=tuple(replace(p, active=True) for p in s.peerings))
    ),
    "answers always find back": _working(trace, "_answer", _answered_anyway),
    "addresses inside the VPC may be outside it": _working(walk, "_deliver", _outside_instead),
    "an interface with its check on forwards": _working(walk, "_appliance", _through_appliance),
    "addresses in prefixes are nobody's": _reading(
        lambda s: replace(s, interfaces=tuple(replace(i, prefixes=()) for i in s.interfaces))
    ),
    "nodes rewrite no pod's address": _working(index.Index, "keeps_address", lambda *_: True),
}
