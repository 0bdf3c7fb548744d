"""Rules, routes and interface addresses as rtnetlink carries them (``linux/fib_rules.h``, ``rtnetlink.h``).

Pure. A rule or a route is the value of :mod:`.desired` that it stands for, and carries its address family, so one
comparison serves both families. The requests for a pod's own links are in :mod:`.messages`.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from .desired import ANYWHERE, Route, Rule, pod_rule
from .messages import IFF_UP, ROUTE_PROTOCOL
from .rtnl import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Attributes, Reply, Request, attribute, attributes

__all__ = [
    "OTHER_KIND",
    "Address",
    "add_address",
    "add_rule",
    "delete_address",
    "delete_route",
    "delete_rule",
    "dump_addresses",
    "dump_neighbours",
    "dump_routes",
    "dump_rules",
    "link_up",
    "neighbour_link",
    "owner_of_route",
    "owner_of_rule",
    "parse_address",
    "parse_route",
    "parse_rule",
    "replace_route",
    "set_mac",
    "set_mtu",
]

OTHER_KIND: Final = -1
"""``Route.link`` of a route with our protocol that is neither unicast by one link nor unreachable: never wanted."""

_RTM_SETLINK: Final = 19
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_GETNEIGH: Final = 30
_RTM_NEWRULE, _RTM_DELRULE, _RTM_GETRULE = 32, 33, 34
_IFLA_ADDRESS, _IFLA_MTU = 1, 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 5, 6, 15
_FRA_DST, _FRA_SRC, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN = 1, 2, 6, 10, 14
_FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 15, 16, 21
_FRA_IIFNAME: Final = 3
_OTHER_SELECTORS: Final = frozenset({4, 11, 12, 13, 17, 19, 20, *range(22, 31)})
"""Outgoing interface, goto, realm, tunnel, uid, protocol, ports, DSCP, flow label: no rule of ours has one of these."""
_NO_SUPPRESSION: Final = b"\xff\xff\xff\xff"
_TO_TABLE: Final = 1
_INVERT: Final = 2
_UNICAST, _UNREACHABLE = 1, 7
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST, _SCOPE_NOWHERE = 0, 253, 254, 255
_ONLINK: Final = 4

_LINK: Final = struct.Struct("=BxHiII")
_ADDR: Final = struct.Struct("=BBBBi")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_RULE: Final = _ROUTE
"""``fib_rule_hdr`` has ``rtmsg``'s shape: family, lengths, tos, table, two reserved bytes, action, flags."""
_NEIGH: Final = struct.Struct("=BxxxiHBB")


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def _packed(cidr: str, family: int) -> tuple[bytes, int]:
    address, length = cidr.split("/")
    return socket.inet_pton(family, address), int(length)


def _cidr(found: Attributes, kind: int, length: int, family: int) -> str:
    return f"{socket.inet_ntop(family, found[kind])}/{length}" if kind in found else ""


# -------------------------------------------------------------------------------------------------------- rules


def dump_rules(family: int) -> Request:
    """Every rule of a family."""
    return Request(_RTM_GETRULE, 0, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "listing the rules")


def add_rule(rule: Rule) -> Request:
    """Add a rule. EEXIST if there is one just like it."""
    return Request(_RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, _rule(rule), f"adding rule {rule.priority}")


def delete_rule(rule: Rule) -> Request:
    """Delete a rule of ours. ENOENT if there is none."""
    return Request(_RTM_DELRULE, 0, _rule(rule), f"deleting rule {rule.priority}")


def _rule(rule: Rule) -> bytes:
    selectors, lengths = b"", [0, 0]
    for place, (kind, cidr) in enumerate(((_FRA_DST, rule.destination), (_FRA_SRC, rule.source))):
        if cidr:
            address, lengths[place] = _packed(cidr, rule.family)
            selectors += attribute(kind, address)
    if rule.iif:
        selectors += attribute(_FRA_IIFNAME, rule.iif.encode() + b"\0")
    if rule.mask:
        selectors += attribute(_FRA_FWMARK, _u32(rule.mark)) + attribute(_FRA_FWMASK, _u32(rule.mask))
    head = _RULE.pack(rule.family, lengths[0], lengths[1], 0, 0, 0, 0, _TO_TABLE, 0)
    return b"".join(
        (
            head,
            selectors,
            attribute(_FRA_PRIORITY, _u32(rule.priority)),
            attribute(_FRA_TABLE, _u32(rule.table)),
            attribute(_FRA_PROTOCOL, bytes((ROUTE_PROTOCOL,))),
        )
    )


def owner_of_rule(body: bytes) -> tuple[int, int]:
    """Protocol and table of any rule."""
    found = attributes(body, _RULE.size)
    return found.get(_FRA_PROTOCOL, b"\0")[0], _number(found, _FRA_TABLE) or body[4]


def parse_rule(reply: Reply) -> Rule | None:
    """An ``RTM_NEWRULE``; None if it is not ours, or says more than a rule of ours ever does."""
    family, dst_length, src_length, tos, table, _, _, action, flags = _RULE.unpack_from(reply.body)
    found = attributes(reply.body, _RULE.size)
    plain = action == _TO_TABLE and not tos and not flags & _INVERT and not found.keys() & _OTHER_SELECTORS
    if not plain or found.get(_FRA_PROTOCOL) != bytes((ROUTE_PROTOCOL,)):
        return None
    if found.get(_FRA_SUPPRESS_PREFIXLEN, _NO_SUPPRESSION) != _NO_SUPPRESSION:
        return None
    rule = Rule(
        priority=_number(found, _FRA_PRIORITY),
        table=_number(found, _FRA_TABLE) or table,
        source=_cidr(found, _FRA_SRC, src_length, family),
        destination=_cidr(found, _FRA_DST, dst_length, family),
        mark=_number(found, _FRA_FWMARK),
        mask=_number(found, _FRA_FWMASK),
        family=family,
        iif=found.get(_FRA_IIFNAME, b"").rstrip(b"\0").decode(errors="replace"),
    )
    return None if rule.iif and rule != pod_rule(rule.iif, rule.table, rule.mask) else rule


# ------------------------------------------------------------------------------------------------------- routes


def dump_routes(family: int) -> Request:
    """Every route of a family with our protocol: with NETLINK_GET_STRICT_CHK the kernel leaves out the others."""
    head = _ROUTE.pack(family, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0)
    return Request(_RTM_GETROUTE, 0, head, "listing the routes")


def replace_route(route: Route) -> Request:
    """Add a route, in place of one with the same table, destination and metric."""
    kind, scope, flags = _UNREACHABLE, _SCOPE_UNIVERSE, 0
    if route.link:
        kind = _UNICAST
        scope, flags = (_SCOPE_UNIVERSE, _ONLINK) if route.gateway else (_SCOPE_LINK, 0)
    if route.family == socket.AF_INET6:  # it has no scopes, and a link-local gateway is on its link
        scope = flags = 0
    what = f"adding the route {route.destination} in table {route.table}"
    return Request(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _route(route, kind, scope, flags), what)


def delete_route(route: Route) -> Request:
    """Delete a route of ours, whatever its scope. ESRCH if there is none."""
    kind = {0: _UNREACHABLE, OTHER_KIND: 0}.get(route.link, _UNICAST)
    what = f"deleting the route {route.destination} in table {route.table}"
    return Request(_RTM_DELROUTE, 0, _route(route, kind, _SCOPE_NOWHERE, 0), what)


def _route(route: Route, kind: int, scope: int, flags: int) -> bytes:
    address, length = _packed(route.destination, route.family)
    body = _ROUTE.pack(route.family, length, 0, 0, 0, ROUTE_PROTOCOL, scope, kind, flags)
    if length:
        body += attribute(_RTA_DST, address)
    if route.link > 0:
        body += attribute(_RTA_OIF, _u32(route.link))
    if route.gateway:
        body += attribute(_RTA_GATEWAY, socket.inet_pton(route.family, route.gateway))
    return body + attribute(_RTA_PRIORITY, _u32(route.metric)) + attribute(_RTA_TABLE, _u32(route.table))


def owner_of_route(body: bytes) -> tuple[int, int, int]:
    """Protocol, table and link of any route."""
    found = attributes(body, _ROUTE.size)
    return body[5], _number(found, _RTA_TABLE) or body[4], _number(found, _RTA_OIF)


def parse_route(reply: Reply) -> Route | None:
    """An ``RTM_NEWROUTE``; None if it is not ours."""
    family, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(reply.body)
    if protocol != ROUTE_PROTOCOL:
        return None
    found = attributes(reply.body, _ROUTE.size)
    link, gateway = _number(found, _RTA_OIF), found.get(_RTA_GATEWAY, b"")
    if family == socket.AF_INET6 and kind == _UNREACHABLE:
        link = 0  # the kernel tells the loopback's index
    if kind != (_UNICAST if link else _UNREACHABLE):
        link = OTHER_KIND
    return Route(
        table=_number(found, _RTA_TABLE) or table,
        destination=_cidr(found, _RTA_DST, length, family) or ANYWHERE[family],
        metric=_number(found, _RTA_PRIORITY),
        link=link,
        gateway=socket.inet_ntop(family, gateway) if gateway else "",
        family=family,
    )


# ------------------------------------------------------------------------------------ addresses, links, neighbours


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """An address on a link."""

    link: int
    address: str
    length: int
    family: int = socket.AF_INET


def dump_addresses(family: int) -> Request:
    """The addresses of every link."""
    return Request(_RTM_GETADDR, 0, _ADDR.pack(family, 0, 0, 0, 0), "listing the addresses")


def add_address(address: Address, *, quiet: bool = False) -> Request:
    """Add an address, ``quiet`` as one that nothing sends by itself (scope host). EEXIST if it is there."""
    what = f"adding the address {address.address}/{address.length}"
    scope = _SCOPE_HOST if quiet else _SCOPE_UNIVERSE
    return Request(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, _address(address, scope), what)


def delete_address(address: Address) -> Request:
    """Remove an address. EADDRNOTAVAIL if it is not there."""
    return Request(_RTM_DELADDR, 0, _address(address), f"deleting the address {address.address}/{address.length}")


def _address(address: Address, scope: int = _SCOPE_UNIVERSE) -> bytes:
    ip = socket.inet_pton(address.family, address.address)
    head = _ADDR.pack(address.family, address.length, 0, scope, address.link)
    return head + attribute(_IFA_LOCAL, ip) + attribute(_IFA_ADDRESS, ip)


def parse_address(reply: Reply) -> Address | None:
    """An ``RTM_NEWADDR``; None if it holds no address. IPv6 has ``IFA_LOCAL`` only on point-to-point links."""
    family, length, _flags, _scope, link = _ADDR.unpack_from(reply.body)
    found = attributes(reply.body, _ADDR.size)
    ip = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    return Address(link, socket.inet_ntop(family, ip), length, family) if ip else None


def link_up(index: int) -> Request:
    """Take a link up."""
    return Request(_RTM_SETLINK, 0, _LINK.pack(0, 0, index, IFF_UP, IFF_UP), "taking the link up")


def set_mtu(index: int, mtu: int) -> Request:
    """Change a link's MTU."""
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(_IFLA_MTU, _u32(mtu))
    return Request(_RTM_SETLINK, 0, body, f"setting the MTU to {mtu}")


def set_mac(index: int, mac: bytes) -> Request:
    """Change a link's MAC; a veth may be up meanwhile."""
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(_IFLA_ADDRESS, mac)
    return Request(_RTM_SETLINK, 0, body, "setting the MAC")


def dump_neighbours(family: int) -> Request:
    """The neighbours on every link. Read with :func:`.messages.parse_neighbour` and :func:`neighbour_link`."""
    return Request(_RTM_GETNEIGH, 0, _NEIGH.pack(family, 0, 0, 0, 0), "listing the neighbours")


def neighbour_link(reply: Reply) -> int:
    """The index of the link that a neighbour is on."""
    return int(_NEIGH.unpack_from(reply.body)[1])


def _number(found: Attributes, kind: int) -> int:
    data = found.get(kind, b"")
    return int(struct.unpack("=I", data)[0]) if len(data) == 4 else 0
