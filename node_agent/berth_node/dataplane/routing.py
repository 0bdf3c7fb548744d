"""Makes the node's links, addresses, routes and rules match a layout, and sweeps what is stale of ours.

Ours are the routes and rules that carry our protocol number; nothing else is touched, except on secondary interfaces,
whose addresses Berth owns, and pod addresses that another program put on an interface. What the kernel has is read
each time and only differences are written, in an order in which no packet meets a rule without its routes.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ..seams import InterfaceLayout, NodeLayout, Problem
from . import desired, sysctl
from .desired import Route, Rule
from .messages import ROUTE_PROTOCOL, Link
from .pods import PODS_TABLE

__all__ = ["Routing", "configure"]

_V4: Final = socket.AF_INET
_UNICAST, _UNREACHABLE = 1, 7
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_ONLINK: Final = 4
_ALREADY_SO: Final = frozenset({errno.EEXIST, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENODEV})


@dataclass(frozen=True, slots=True)
class Routing:
    """What nftables must agree with: the interface marks in force, and the primary link's name if it is there."""

    marks: Mapping[int, int]
    primary_link: str
    problems: tuple[Problem, ...]


def configure(layout: NodeLayout, links: Iterable[Link]) -> tuple[Routing, Callable[[], tuple[Problem, ...]]]:
    """Add what is missing. Returns what nftables needs, and the function that then removes what is stale.

    Raises OSError only if the kernel's state cannot be read.
    """
    run = _Run(layout, links)
    run.add()
    return run.result(), run.sweep


class _Run:
    """One comparison of the kernel with a layout."""

    def __init__(self, layout: NodeLayout, links: Iterable[Link]) -> None:
        self._layout = layout
        self._first = desired.primary(layout)
        self._links: dict[str, Link] = {}
        for link in sorted(links, key=lambda k: k.index, reverse=True):
            # a VLAN or macvlan shares its parent's MAC, and comes after it
            self._links[link.mac] = link
        self._problems: list[Problem] = []
        with IPRoute() as kernel:
            self._rules = _read_rules(kernel)
            self._routes = _read_routes(kernel)
            self._addresses = _read_addresses(kernel)
        present = {rule.table: rule.mark for rule in self._rules if rule.mask == layout.interface_mask}
        self._marks = desired.assign_marks(layout, present)
        here = {mac: link.index for mac, link in self._links.items()}
        self._wanted_rules = desired.rules(layout, self._marks)
        self._wanted_routes = desired.routes(layout, here)

    def result(self) -> Routing:
        link = self._links.get(self._first.mac.lower()) if self._first else None
        return Routing(self._marks, link.name if link else "", tuple(self._problems))

    def add(self) -> None:
        self._settings()
        with IPRoute() as kernel:
            for interface in self._layout.interfaces:
                self._interface(kernel, interface)
            self._foreign_pod_addresses(kernel)
            for route in sorted(self._wanted_routes - self._routes):
                self._try(f"route {route.destination} in table {route.table}", kernel.route, "replace", **_route(route))
            for rule in sorted(self._wanted_rules - self._rules):
                self._try(f"rule {rule.priority}", kernel.rule, "add", **_rule(rule))
        for interface in self._layout.interfaces:
            if desired.table_of(interface) not in self._marks:
                self._say(interface.mac, "the interface mask has no room for another interface; widen it")

    def sweep(self) -> tuple[Problem, ...]:
        """Remove rules and routes of ours that nothing asks for any more."""
        before = len(self._problems)
        replaced = {(r.table, r.destination, r.metric) for r in self._wanted_routes}
        stale_rules = sorted(self._rules - self._wanted_rules)
        stale_routes = [
            route
            for route in sorted(self._routes - self._wanted_routes)
            if (route.table, route.destination, route.metric) not in replaced
        ]
        if stale_rules or stale_routes:
            with IPRoute() as kernel:
                for rule in stale_rules:
                    self._try(f"stale rule {rule.priority}", kernel.rule, "del", **_rule(rule))
                for route in stale_routes:
                    name = f"stale route {route.destination} in table {route.table}"
                    self._try(name, kernel.route, "del", **_route(route))
        return tuple(self._problems[before:])

    def _say(self, where: str, message: str) -> None:
        self._problems.append(Problem(where, message))

    def _try(self, where: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        try:
            function(*arguments, **named)
        except (NetlinkError, OSError) as error:
            number = error.code if isinstance(error, NetlinkError) else error.errno
            if number not in _ALREADY_SO:
                self._say(where, str(error))

    def _settings(self) -> None:
        names = [self._links[i.mac.lower()].name for i in self._layout.interfaces if i.mac.lower() in self._links]
        wanted = {"ip_forward": "1"}
        # the higher of `all` and the interface's own is in force; `default` is for the pods' links to come
        wanted |= {f"conf/{name}/rp_filter": sysctl.LOOSE for name in ("all", "default", *names)}
        for name, value in wanted.items():
            self._try(f"net/ipv4/{name}", sysctl.ensure, name, value)

    def _interface(self, kernel: IPRoute, interface: InterfaceLayout) -> None:
        link = self._links.get(interface.mac.lower())
        if link is None:
            self._say(interface.mac, f"no link has this MAC (device index {interface.device_index}): not there yet")
            return
        first = self._links.get(self._first.mac.lower()) if self._first else None
        if not link.up:
            self._try(f"{link.name} up", kernel.link, "set", index=link.index, state="up")
        has = [(a, n) for a, n in self._addresses.get(link.index, ()) if a == interface.primary_address]
        if interface is self._first:
            if not has:
                self._say(link.name, f"it lacks its primary address {interface.primary_address}; the OS configures it")
            return
        if first is not None and link.mtu != first.mtu:
            self._try(f"{link.name} mtu", kernel.link, "set", index=link.index, mtu=first.mtu)
        self._own_address(kernel, link, interface.primary_address, {length for _, length in has})

    def _own_address(self, kernel: IPRoute, link: Link, address: str, lengths: set[int]) -> None:
        """A secondary's primary address as a /32: a longer one would bring an on-link route for its subnet."""
        if 32 not in lengths:
            self._try(f"{link.name} address", kernel.addr, "add", index=link.index, address=address, prefixlen=32)
        for length in sorted(lengths - {32}):
            self._remove_address(kernel, link, address, length)

    def _foreign_pod_addresses(self, kernel: IPRoute) -> None:
        """A pod's address on an interface would make the kernel keep the pod's packets for itself."""
        ours = {self._links[i.mac.lower()].index for i in self._layout.interfaces if i.mac.lower() in self._links}
        names = {link.index: link for link in self._links.values()}
        blocks = [ipaddress.IPv4Network(block) for i in self._layout.interfaces for block in i.blocks]
        own = {i.primary_address for i in self._layout.interfaces}
        for index, addresses in sorted(self._addresses.items()):
            for address, length in addresses:
                if address in own or not any(ipaddress.IPv4Address(address) in block for block in blocks):
                    continue
                if index in ours:
                    self._remove_address(kernel, names[index], address, length)
                else:
                    where = names[index].name if index in names else f"link {index}"
                    self._say(where, f"it has the pod address {address}; remove it there (ip addr del)")

    def _remove_address(self, kernel: IPRoute, link: Link, address: str, length: int) -> None:
        # without this, removing the first address of a subnet removes every other one of it too
        self._try(link.name, sysctl.ensure, f"conf/{link.name}/promote_secondaries", "1")
        self._try(
            f"{link.name} address {address}", kernel.addr, "del", index=link.index, address=address, prefixlen=length
        )


# ------------------------------------------------------------------------------------------- the kernel's state


def _read_rules(kernel: IPRoute) -> frozenset[Rule]:
    return frozenset(
        Rule(
            priority=found.get("priority") or 0,
            table=found.get("table") or 0,
            source=_cidr(found.get("src"), found["src_len"]),
            destination=_cidr(found.get("dst"), found["dst_len"]),
            mark=found.get("fwmark") or 0,
            mask=found.get("fwmask") or 0,
        )
        for found in kernel.get_rules(family=_V4)
        if found.get("protocol") == ROUTE_PROTOCOL
    )


def _read_routes(kernel: IPRoute) -> frozenset[Route]:
    """Our routes, but for the pods' own, which :mod:`.pods` keeps."""
    found = (
        (
            r["type"],
            Route(
                table=r.get("table") or 0,
                destination=_cidr(r.get("dst"), r["dst_len"]) or desired.ANYWHERE,
                metric=r.get("priority") or 0,
                link=r.get("oif") or 0,
                gateway=r.get("gateway") or "",
            ),
        )
        for r in kernel.get_routes(family=_V4)
        if r["proto"] == ROUTE_PROTOCOL
    )
    return frozenset(route for kind, route in found if route.table != PODS_TABLE or kind == _UNREACHABLE)


def _read_addresses(kernel: IPRoute) -> dict[int, list[tuple[str, int]]]:
    addresses: dict[int, list[tuple[str, int]]] = {}
    for found in kernel.get_addr(family=_V4):
        addresses.setdefault(found["index"], []).append((found.get("local"), found["prefixlen"]))
    return addresses


def _cidr(address: str | None, length: int) -> str:
    return f"{address}/{length}" if address else ""


def _rule(rule: Rule) -> dict[str, Any]:
    fields: dict[str, Any] = {"family": _V4, "priority": rule.priority, "table": rule.table, "protocol": ROUTE_PROTOCOL}
    for name, cidr in (("src", rule.source), ("dst", rule.destination)):
        if cidr:
            address, length = cidr.split("/")
            fields |= {name: address, f"{name}_len": int(length)}
    return fields | ({"fwmark": rule.mark, "fwmask": rule.mask} if rule.mask else {})


def _route(route: Route) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "family": _V4,
        "table": route.table,
        "proto": ROUTE_PROTOCOL,
        "dst": route.destination,
        "priority": route.metric,
        "type": _UNICAST if route.link else _UNREACHABLE,
    }
    if not route.link:
        return fields
    if route.gateway:
        return fields | {"oif": route.link, "gateway": route.gateway, "flags": _ONLINK, "scope": _SCOPE_UNIVERSE}
    return fields | {"oif": route.link, "scope": _SCOPE_LINK}
