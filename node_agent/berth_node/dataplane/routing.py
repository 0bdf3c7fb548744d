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

from ..seams import InterfaceLayout, NodeLayout, Problem
from . import desired, route_messages, sysctl
from .desired import Route, Rule
from .messages import Link
from .own import quiet
from .pods import FIRST_INDEX, PODS_TABLE
from .route_messages import Address
from .rtnl import Request, Rtnl

__all__ = ["FAMILIES", "Routing", "State", "configure", "links_by_mac", "read"]

FAMILIES: Final = {False: (socket.AF_INET,), True: (socket.AF_INET, socket.AF_INET6)}
"""The families to look at, by whether IPv6 is one of them."""

_ALREADY_SO: Final = frozenset({errno.EEXIST, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENODEV})


@dataclass(frozen=True, slots=True)
class Routing:
    """What nftables must agree with: the interface marks in force, and the primary link's name if it is there.

    ``ipv6_rules``: the kernel had rules of ours for IPv6 before. ``own_links`` are the links that are there of
    interfaces which single pods have for themselves.
    """

    marks: Mapping[int, int]
    primary_link: str
    problems: tuple[Problem, ...]
    ipv6_rules: bool = False
    own_links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """What the kernel has: rules and routes of ours but for the pods' own, which go by their links, and all
    addresses."""

    rules: frozenset[Rule]
    routes: frozenset[Route]
    addresses: frozenset[Address]


def read(kernel: Rtnl, *, ipv6: bool = False) -> State:
    """Ask the kernel, about IPv6 too with ``ipv6``. Raises OSError."""
    rules: set[Rule] = set()
    routes: set[Route] = set()
    addresses: set[Address] = set()
    for family in FAMILIES[ipv6]:
        told = map(route_messages.parse_rule, kernel.dump(route_messages.dump_rules(family)))
        rules.update(rule for rule in told if rule and not rule.iif)
        ways = map(route_messages.parse_route, kernel.dump(route_messages.dump_routes(family)))
        routes.update(route for route in ways if route and not _pods_own(route))
        owned = map(route_messages.parse_address, kernel.dump(route_messages.dump_addresses(family)))
        addresses.update(address for address in owned if address)
    return State(frozenset(rules), frozenset(routes), frozenset(addresses))


def _pods_own(route: Route) -> bool:
    return route.link >= FIRST_INDEX or (route.table == PODS_TABLE and route.link != 0)


def links_by_mac(links: Iterable[Link]) -> dict[str, Link]:
    """The link of each MAC: a VLAN or macvlan shares its parent's, and comes after it."""
    return {link.mac: link for link in sorted(links, key=lambda k: k.index, reverse=True)}


def configure(
    kernel: Rtnl, layout: NodeLayout, links: Iterable[Link], *, ipv6: bool = False
) -> tuple[Routing, Callable[[], tuple[Problem, ...]]]:
    """Add what is missing. Returns what nftables needs, and the function that then removes what is stale.

    ``ipv6``: there may be something of IPv6 to remove, even if the layout has none of it.
    Raises OSError only if the kernel's state cannot be read.
    """
    run = _Run(kernel, layout, links, ipv6=ipv6 or layout.ipv6)
    run.add()
    return run.result(), run.sweep


class _Run:
    """One comparison of the kernel with a layout."""

    def __init__(self, kernel: Rtnl, layout: NodeLayout, links: Iterable[Link], *, ipv6: bool) -> None:
        self._kernel = kernel
        self._layout = layout
        self._first = desired.primary(layout)
        self._links = links_by_mac(links)
        self._problems: list[Problem] = []
        self._state = read(kernel, ipv6=ipv6)
        present = {rule.table: rule.mark for rule in self._state.rules if rule.mask == layout.interface_mask}
        self._marks = desired.assign_marks(layout, present)
        here = {mac: link.index for mac, link in self._links.items()}
        self._wanted_rules = desired.rules(layout, self._marks)
        self._wanted_routes = desired.routes(layout, here)

    def result(self) -> Routing:
        link = self._links.get(self._first.mac.lower()) if self._first else None
        ipv6 = any(rule.family == socket.AF_INET6 for rule in self._state.rules)
        own = [
            self._links[i.mac.lower()].name for i in self._layout.interfaces if i.pod and i.mac.lower() in self._links
        ]
        return Routing(self._marks, link.name if link else "", tuple(self._problems), ipv6, tuple(sorted(own)))

    def add(self) -> None:
        self._settings()
        for interface in self._layout.interfaces:
            self._interface(interface)
        self._foreign_pod_addresses()
        for route in sorted(self._wanted_routes - self._state.routes):
            self._ask(f"route {route.destination} in table {route.table}", route_messages.replace_route(route))
        for rule in sorted(self._wanted_rules - self._state.rules):
            self._add_rule(rule)
        for interface in self._layout.interfaces:
            if desired.table_of(interface) not in self._marks:
                self._say(interface.mac, "the interface mask has no room for another interface; widen it")

    def sweep(self) -> tuple[Problem, ...]:
        """Remove rules and routes of ours that nothing asks for any more."""
        before = len(self._problems)
        replaced = {(r.table, r.destination, r.metric) for r in self._wanted_routes}  # a destination tells the family
        for rule in sorted(self._state.rules - self._wanted_rules):
            self._ask(f"stale rule {rule.priority}", route_messages.delete_rule(rule))
        for route in sorted(self._state.routes - self._wanted_routes):
            if (route.table, route.destination, route.metric) not in replaced:
                name = f"stale route {route.destination} in table {route.table}"
                self._ask(name, route_messages.delete_route(route))
        return tuple(self._problems[before:])

    def _say(self, where: str, message: str) -> None:
        self._problems.append(Problem(where, message))

    def _try(self, where: str, function: Callable[..., Any], *arguments: Any) -> bool:
        """Whether it was done. That it is so already is no failure to be told."""
        try:
            function(*arguments)
        except OSError as error:
            if error.errno not in _ALREADY_SO:
                self._say(where, str(error))
            return False
        return True

    def _add_rule(self, rule: Rule) -> None:
        """The kernel takes ``not from X`` for the same rule as ``from X`` (fib_rules.c, rule_exists)."""
        try:
            self._kernel.batch([route_messages.add_rule(rule)])
        except OSError as error:
            taken = "another rule with protocol 190 is in its place; remove that one (ip rule del)"
            self._say(f"rule {rule.priority}", taken if error.errno == errno.EEXIST else str(error))

    def _ask(self, where: str, request: Request) -> None:
        self._try(where, self._kernel.batch, [request])

    def _settings(self) -> None:
        names = [self._links[i.mac.lower()].name for i in self._layout.interfaces if i.mac.lower() in self._links]
        wanted = {"ip_forward": "1"}
        # the higher of `all` and the interface's own is in force; `default` is for the pods' links to come
        wanted |= {f"conf/{name}/rp_filter": sysctl.LOOSE for name in ("all", "default", *names)}
        for name, value in wanted.items():
            self._try(f"net/ipv4/{name}", sysctl.ensure, name, value)
        if self._layout.ipv6:
            self._settings6()

    def _settings6(self) -> None:
        """Forwarding makes a router of the host, which hears no other router's advertisements unless told so (2).

        Before forwarding is on, since the kernel drops the default routes that it has heard of when that changes
        (kernel's ip-sysctl). 0 stays: then somebody else listens to them, such as systemd-networkd. What a secondary
        interface hears is nobody's business: traffic that is not a pod's leaves by the primary. No forwarding while the
        primary may not be listening: better no pod by IPv6 than no node.
        """
        heard = False
        for interface in self._layout.interfaces:
            link = self._links.get(interface.mac.lower())
            if link is not None:
                name = f"conf/{link.name}/accept_ra"
                first = interface is self._first
                done = self._try(f"net/ipv6/{name}", _hear_router if first else _ignore_router, name)
                heard = heard or (first and done)
        if heard:
            self._try("net/ipv6/conf/all/forwarding", sysctl.ensure, "conf/all/forwarding", "1", "ipv6")

    def _interface(self, interface: InterfaceLayout) -> None:
        link = self._links.get(interface.mac.lower())
        if link is None:
            self._say(interface.mac, f"no link has this MAC (device index {interface.device_index}): not there yet")
            return
        first = self._links.get(self._first.mac.lower()) if self._first else None
        if not link.up:
            self._ask(f"{link.name} up", route_messages.link_up(link.index))
        has = {a for a in self._state.addresses if (a.link, a.address) == (link.index, interface.primary_address)}
        if interface is self._first:
            if not has:
                self._say(link.name, f"it lacks its primary address {interface.primary_address}; the OS configures it")
            return
        if first is not None and link.mtu != first.mtu:
            self._ask(f"{link.name} mtu", route_messages.set_mtu(link.index, first.mtu))
        if interface.pod:
            for address in sorted(has):  # it is the pod's, and the kernel would keep its packets
                self._remove_address(link, address)
            if quiet(link.index) not in self._state.addresses:
                self._ask(f"{link.name} address", route_messages.add_address(quiet(link.index), quiet=True))
            return
        self._own_address(link, Address(link.index, interface.primary_address, 32), has)

    def _own_address(self, link: Link, wanted: Address, has: set[Address]) -> None:
        """A secondary's primary address as a /32: a longer one would bring an on-link route for its subnet."""
        if wanted not in has:
            self._ask(f"{link.name} address", route_messages.add_address(wanted))
        for address in sorted(has - {wanted}):
            self._remove_address(link, address)

    def _foreign_pod_addresses(self) -> None:
        """A pod's address on an interface would make the kernel keep the pod's packets for itself."""
        ours = {self._links[i.mac.lower()].index for i in self._layout.interfaces if i.mac.lower() in self._links}
        names = {link.index: link for link in self._links.values()}
        blocks = [ipaddress.ip_network(b) for i in self._layout.interfaces for b in (*i.blocks, *i.ipv6_blocks)]
        own = {i.primary_address for i in self._layout.interfaces}
        for found in sorted(self._state.addresses):
            if found.address in own or not any(ipaddress.ip_address(found.address) in block for block in blocks):
                continue
            if found.link in ours:
                self._remove_address(names[found.link], found)
            else:
                where = names[found.link].name if found.link in names else f"link {found.link}"
                self._say(where, f"it has the pod address {found.address}; remove it there (ip addr del)")

    def _remove_address(self, link: Link, address: Address) -> None:
        # without this, removing the first IPv4 address of a subnet removes every other one of it too
        self._try(link.name, sysctl.ensure, f"conf/{link.name}/promote_secondaries", "1")
        self._ask(f"{link.name} address {address.address}", route_messages.delete_address(address))


def _hear_router(name: str) -> None:
    if sysctl.read(name, "ipv6") == "1":
        sysctl.ensure(name, "2", "ipv6")


def _ignore_router(name: str) -> None:
    sysctl.ensure(name, "0", "ipv6")
