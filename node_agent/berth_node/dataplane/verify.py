"""What of the node's own pieces one pod depends upon, and which of them are missing: CHECK's comparison. Pure."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping

from ..seams import InterfaceLayout, NodeLayout, Problem
from . import desired
from .desired import Route, Rule
from .messages import Link
from .pods import PODS_TABLE
from .routing import State

__all__ = ["missing", "owner"]


def owner(layout: NodeLayout, address: str) -> InterfaceLayout | None:
    """The interface that has the pod's address; None for a pod whose block has left the layout."""
    ip = ipaddress.ip_address(address)
    for interface in layout.interfaces:
        if interface.pod and interface.primary_address == address:
            return interface
        blocks = interface.blocks if ip.version == 4 else interface.ipv6_blocks
        if any(ip in ipaddress.ip_network(block) for block in blocks):
            return interface
    return None


def missing(
    layout: NodeLayout, marks: Mapping[int, int], links: Mapping[str, Link], state: State, address: str
) -> Iterator[Problem]:
    """Rules and routes that ``address`` needs and ``state`` lacks. ``marks`` are those in force, ``links`` by MAC.

    Needed are, of the address's own family, the rules that every pod's packets meet (pods' table, marked connections),
    the rules and the table of the pod's own interface, the primary's table (marked connections to its subnet), and its
    block's ``unreachable``.
    """
    mine, first = owner(layout, address), desired.primary(layout)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if mine is not None and mine.mac.lower() not in links:
        yield Problem(mine.mac, f"the interface of {address} has no link with this MAC")
    tables = {desired.table_of(interface) for interface in (mine, first) if interface is not None}
    for rule in sorted(desired.rules(layout, marks) - state.rules):
        needed = rule.family == family and rule.table in {PODS_TABLE, desired.MAIN_TABLE, *tables}
        if needed and (_covers(rule.source, address) or rule.source == desired.LOOPBACK):
            yield Problem(f"rule {rule.priority}", f"{_rule(rule)} is missing")
    here = {mac: link.index for mac, link in links.items()}
    for route in sorted(desired.routes(layout, here) - state.routes):
        if route.family != family:
            continue
        if route.table in tables or (route.table == PODS_TABLE and _covers(route.destination, address)):
            yield Problem(f"table {route.table}", f"{_route(route)} is missing")


def _covers(cidr: str, address: str) -> bool:
    return not cidr or ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


def _rule(rule: Rule) -> str:
    parts = [f"from {rule.source}" if rule.source else "", f"to {rule.destination}" if rule.destination else ""]
    parts += [f"fwmark {rule.mark:#x}/{rule.mask:#x}" if rule.mask else "", f"lookup {rule.table}"]
    return " ".join(part for part in parts if part)


def _route(route: Route) -> str:
    if not route.link:
        return f"unreachable {route.destination}"
    return f"{route.destination} via {route.gateway}" if route.gateway else f"{route.destination} on the link"
