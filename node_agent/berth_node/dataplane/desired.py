"""What the node's rules and routes must be, as values: pure, so that routing is a comparison and not a procedure.

Which interface a packet leaves by is decided by its source address alone, because EC2 drops what leaves an interface
with a source that is not assigned to it (source/destination check). The one exception is a connection mark: flows
that we SNAT, and answers to what came in by the primary interface, follow the ``main`` table.

====  ==================================  =================================================================
 990  from the link of a pod with an      that interface's table, unless the connection is marked
      interface of its own
 991  mark of such an interface           the same: what arrives there, what the node itself sends to the pod
 992  from the node's loopback to the pod the same: a host port by ``localhost``, which is routed before it is marked
1000  (all)                               pods' /32 routes; ``unreachable`` for the rest of each block
1010  connection mark, to our own subnet  the primary interface's table: the gateway, not on-link
1011  connection mark                     ``main``
1020  from each assigned prefix           its interface's table
1021  interface mark                      that interface's table (single addresses; what the node answers)
1022  from a secondary's primary address  its interface's table
1030  to the primary interface's subnet   its table: the gateway, not on-link
====  ==================================  =================================================================

The on-link subnet route that DHCP makes would resolve other nodes' pods by ARP, and a neighbour entry outlives an
address that moved to another interface; the VPC router never forgets. So traffic inside the subnet uses the gateway.

IPv6 has the same rules under the same numbers, but for 1021 and 1022: all its blocks are prefixes, what the node sends
in a pod's name is routed by its source at once (nf_send_reset6, unlike IPv4's, looks up with it), and a secondary
interface needs no IPv6 address of its own. Its subnet is taken to be the /64 around the primary's prefix.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from .. import seams
from ..seams import InterfaceLayout, NodeLayout
from .messages import METRIC6
from .pods import PODS_TABLE

__all__ = [
    "GATEWAY6",
    "MAIN_TABLE",
    "Route",
    "Rule",
    "assign_marks",
    "pod_rule",
    "primary",
    "routes",
    "rules",
    "table_of",
]

MAIN_TABLE: Final = 254
WORST_METRIC: Final = 0xFFFFFFFF
LOOPBACK: Final = "127.0.0.0/8"
ANYWHERE: Final = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}
GATEWAY6: Final = "fe80:ec2::1"
"""The router of every VPC subnet answers here on every interface (VPC User Guide, "Subnet sizing for IPv6")."""
_SUBNET6: Final = 64

_OWN_POD, _OWN_MARK, _OWN_LOOPBACK = 990, 991, 992
_PODS, _MARKED_SUBNET, _MARKED, _PREFIX, _INTERFACE, _OWN, _SUBNET = 1000, 1010, 1011, 1020, 1021, 1022, 1030


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """One ``ip rule``. Empty source or destination is everything; mask 0 is no mark; ``iif`` is a pod's host link."""

    priority: int
    table: int
    source: str = ""
    destination: str = ""
    mark: int = 0
    mask: int = 0
    family: int = socket.AF_INET
    iif: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """One route of ours. ``link`` is the interface's index; 0 is an ``unreachable`` route.

    A gateway is ``onlink``: it needs no other route to be resolved.
    """

    table: int
    destination: str
    metric: int = 0
    link: int = 0
    gateway: str = ""
    family: int = socket.AF_INET


def primary(layout: NodeLayout) -> InterfaceLayout | None:
    """The primary interface: EC2 gives it network card 0, device index 0."""
    return next((i for i in layout.interfaces if (i.network_card, i.device_index) == (0, 0)), None)


def table_of(interface: InterfaceLayout) -> int:
    """See :func:`berth_node.seams.table_of`."""
    return seams.table_of(interface.network_card, interface.device_index)


def assign_marks(layout: NodeLayout, present: Mapping[int, int]) -> dict[int, int]:
    """Table to interface mark. A table keeps the mark it has (``present``, as read from the rules), so that a new
    interface changes nothing for the others; new ones take the lowest free. At most as many as the mask can tell
    apart get one."""
    step = layout.interface_mask & -layout.interface_mask
    free = range(step, layout.interface_mask + 1, step)
    tables = sorted(table_of(interface) for interface in layout.interfaces)
    marks = {table: present[table] for table in tables if present.get(table) in free}
    if len(set(marks.values())) < len(marks):
        marks = {}
    for table in tables:
        if table not in marks and (mark := next((m for m in free if m not in marks.values()), 0)):
            marks[table] = mark
    return marks


def rules(layout: NodeLayout, marks: Mapping[int, int]) -> frozenset[Rule]:
    """Every rule of ours."""
    return frozenset(_rules(layout, marks))


def _rules(layout: NodeLayout, marks: Mapping[int, int]) -> Iterator[Rule]:
    connection = layout.connection_mark
    yield Rule(_PODS, PODS_TABLE)
    yield Rule(_MARKED, MAIN_TABLE, mark=connection, mask=connection)
    first = primary(layout)
    if first is not None:
        subnet, table = _cidr(first.subnet_cidr), table_of(first)
        yield Rule(_MARKED_SUBNET, table, destination=subnet, mark=connection, mask=connection)
        yield Rule(_SUBNET, table, destination=subnet)
    for interface in layout.interfaces:
        table = table_of(interface)
        if interface.pod:
            if table in marks:
                yield Rule(_OWN_MARK, table, mark=marks[table], mask=layout.interface_mask)
            yield Rule(_OWN_LOOPBACK, table, source=LOOPBACK, destination=f"{interface.primary_address}/32")
            continue
        if table in marks:
            yield Rule(_INTERFACE, table, mark=marks[table], mask=layout.interface_mask)
        if interface is not first:
            yield Rule(_OWN, table, source=f"{interface.primary_address}/32")
        for block in interface.blocks:
            if not block.endswith("/32"):
                yield Rule(_PREFIX, table, source=_cidr(block))
    if layout.ipv6:
        yield from _rules6(layout)


def pod_rule(host_ifname: str, table: int, connection_mark: int) -> Rule:
    """The one rule of a pod that has an interface for itself. Before the table of pod routes, so that it reaches the
    other pods of its node as it reaches all others, through the VPC, where its security groups are; not for marked
    connections, which follow ``main``."""
    return Rule(_OWN_POD, table, mask=connection_mark, iif=host_ifname)


def _rules6(layout: NodeLayout) -> Iterator[Rule]:
    connection, family = layout.connection_mark, socket.AF_INET6
    yield Rule(_PODS, PODS_TABLE, family=family)
    yield Rule(_MARKED, MAIN_TABLE, mark=connection, mask=connection, family=family)
    first = primary(layout)
    if first is not None:
        for subnet in sorted({_subnet6(block) for block in first.ipv6_blocks}):
            table = table_of(first)
            yield Rule(_MARKED_SUBNET, table, destination=subnet, mark=connection, mask=connection, family=family)
            yield Rule(_SUBNET, table, destination=subnet, family=family)
    for interface in layout.interfaces:
        for block in interface.ipv6_blocks:
            yield Rule(_PREFIX, table_of(interface), source=_cidr(block), family=family)


def _subnet6(block: str) -> str:
    return str(ipaddress.IPv6Network(block).supernet(new_prefix=_SUBNET6))


def routes(layout: NodeLayout, links: Mapping[str, int]) -> frozenset[Route]:
    """Every route of ours but the pods' own. ``links`` maps MACs to the indexes of links that are there."""
    return frozenset(_routes(layout, links))


def _routes(layout: NodeLayout, links: Mapping[str, int]) -> Iterator[Route]:
    first = primary(layout)
    for interface in layout.interfaces:
        for block in interface.blocks:
            yield Route(PODS_TABLE, _cidr(block), WORST_METRIC)
        table = table_of(interface)
        if interface is not first:
            # with its link gone, traffic must not fall through to `main` and leave by an interface where EC2 drops it
            yield Route(table, ANYWHERE[socket.AF_INET], WORST_METRIC)
        if (link := links.get(interface.mac.lower())) is not None:
            yield Route(table, f"{interface.gateway}/32", link=link)
            yield Route(table, ANYWHERE[socket.AF_INET], link=link, gateway=interface.gateway)
    if layout.ipv6:
        yield from _routes6(layout, links)


def _routes6(layout: NodeLayout, links: Mapping[str, int]) -> Iterator[Route]:
    first, family = primary(layout), socket.AF_INET6
    for interface in layout.interfaces:
        for block in interface.ipv6_blocks:
            yield Route(PODS_TABLE, _cidr(block), WORST_METRIC, family=family)
        table = table_of(interface)
        if interface is not first and interface.ipv6_blocks:
            yield Route(table, ANYWHERE[family], WORST_METRIC, family=family)
        link = links.get(interface.mac.lower())
        if link is not None and interface.ipv6_blocks:
            yield Route(table, ANYWHERE[family], METRIC6, link, GATEWAY6, family)


def _cidr(text: str) -> str:
    return str(ipaddress.ip_network(text))
