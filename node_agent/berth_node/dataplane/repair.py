"""Pods' own pieces on the host, made again when something else took them away; and host links that are nobody's.

What each pod must have follows from its attachment and from its link's index, which both MACs are made of, so nothing
but the kernel's own state is needed to mend it. The pod's side is not looked at: its namespace is the pod's.

A kill between any two requests is harmless: the next look finds what is still missing.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..seams import FIRST_PAIR_INDEX, Attachment, Problem
from . import alias, messages, route_messages
from .checking import find
from .desired import Route
from .messages import METRIC6, Link, packed
from .pods import FIRST_INDEX, PODS_TABLE, is_ours, macs
from .routing import FAMILIES
from .rtnl import Request, Rtnl

__all__ = ["HostSide", "Repair", "missing", "nameless", "stale_routes"]

_GONE: Final = frozenset({errno.ENODEV, errno.ESRCH})
_GRACE_SECONDS: Final = 60.0
_NAMED: Final = 10
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostSide:
    """What the kernel has for pods: links by name, what their aliases say (by index), routes of the pods' table and to
    pods elsewhere, permanent neighbours (link, IP, MAC)."""

    links: Mapping[str, Link]
    told: Mapping[int, Attachment]
    routes: frozenset[Route]
    neighbours: frozenset[tuple[int, bytes, bytes]]


def missing(found: HostSide, attachment: Attachment) -> tuple[Request, ...] | Problem:
    """What must be sent to make a pod's host side whole; a Problem if only a new pod can help."""
    link = found.links.get(attachment.host_ifname)
    if link is None or link.kind != "veth" or link.group == messages.REAP_GROUP:
        return Problem(attachment.host_ifname, f"the host link of {attachment.address} is gone; delete the pod")
    index, (host_mac, pod_mac) = link.index, macs(link.index)
    named, right_mac = index in found.told, link.mac == host_mac.hex(":")
    if not named and not right_mac:
        return Problem(link.name, f"nothing says that it is the link of {attachment.address} any more; delete the pod")
    if named:
        told = found.told[index]
        if (alias.key(told), told.addresses) != (alias.key(attachment), attachment.addresses):
            return Problem(link.name, f"the link belongs to {told.address} of another container; delete the pod")
    ips = [(address, packed(address)) for address in attachment.addresses]
    # a link that is down has neither: the kernel drops both without a word
    table = attachment.table or PODS_TABLE
    routed = {ip for address, ip in ips if link.up and _route(address, index, table) in found.routes}
    known = {ip for _, ip in ips if link.up and (index, ip, pod_mac) in found.neighbours}
    if named and right_mac and len(routed) == len(known) == len(ips):
        return ()  # nearly always: then nothing need be packed
    pieces = [
        (named, messages.alias(index, alias.encode(attachment))),
        (right_mac, route_messages.set_mac(index, host_mac)),
        (link.up, route_messages.link_up(index)),
    ]
    for _, ip in ips:
        pieces.append((ip in routed, messages.host_route(index, ip, table)))
        pieces.append((ip in known, messages.neighbour(index, ip, pod_mac)))
    return tuple(request for there, request in pieces if not there)


def _route(address: str, index: int, table: int) -> Route:
    if ":" in address:
        return Route(table, f"{address}/128", METRIC6, index, family=socket.AF_INET6)
    return Route(table, f"{address}/32", link=index)


def stale_routes(found: HostSide, attachments: Iterable[Attachment]) -> tuple[Route, ...]:
    """Routes to pods that no pod has. A link's own word counts as much as the list, which may be a moment old."""
    held = [(a, found.links[a.host_ifname].index) for a in attachments if a.host_ifname in found.links]
    held += [(a, index) for index, a in found.told.items()]
    wanted = {_route(address, index, a.table or PODS_TABLE) for a, index in held for address in a.addresses}
    # a plugin's route may be younger than the look at the links; one that belongs to nobody goes with its pair
    ours = (route for route in found.routes - wanted if route.link < FIRST_PAIR_INDEX or route.link in found.told)
    return tuple(sorted(route for route in ours if route.link))


def nameless(found: HostSide, attachments: Iterable[Attachment]) -> Iterator[Link]:
    """Host links of ours that say nothing of whose they are. An ADD names its link in the batch that makes it,
    or a plugin when it knows its address: before :data:`_GRACE_SECONDS` are over, or the agent makes it anew."""
    known = {a.host_ifname for a in attachments}
    for link in found.links.values():
        if is_ours(link) and not link.alias and link.group != messages.REAP_GROUP and link.name not in known:
            yield link


@dataclass(slots=True)
class Repair:
    """Mends through ``kernel``, from the one thread that uses it. ``clock`` gives seconds that never jump back."""

    kernel: Rtnl
    clock: Callable[[], float] = time.monotonic
    _seen: dict[int, float] = field(default_factory=dict)

    def run(self, attachments: Iterable[Attachment], *, ipv6: bool = False) -> tuple[Problem, ...]:
        """See :meth:`berth_node.seams.Dataplane.repair`. Raises OSError if the kernel's state cannot be read.

        ``ipv6``: IPv6 routes may be there. Pods that have some are always looked at.
        """
        attachments = tuple(attachments)
        found = self._read(FAMILIES[ipv6 or any(":" in a for pod in attachments for a in pod.addresses)])
        problems: list[Problem] = []
        mended: list[str] = []
        for attachment in attachments:
            lost = missing(found, attachment)
            if isinstance(lost, Problem):
                problems.append(lost)
            elif lost and self._still_there(found.links[attachment.host_ifname]):
                mended.append(attachment.address)
                problems += self._send(attachment.host_ifname, lost)
        if mended:
            told = ", ".join(mended[:_NAMED]) + (" and more" if len(mended) > _NAMED else "")
            _log.warning(
                "pods' pieces on the host were gone and are made again", extra={"count": len(mended), "of": told}
            )
        for route in stale_routes(found, attachments):
            problems += self._send(f"stale route {route.destination}", [route_messages.delete_route(route)])
        return (*problems, *self._bury(nameless(found, attachments)))

    def _still_there(self, read: Link) -> bool:
        """Links are read before routes: a plugin may have unwired the pod in between (``cni/unwire.c``)."""
        try:
            link = find(self.kernel, read.name)
        except OSError:
            return True  # what is wrong is said when it is mended
        return link is not None and (link.index, link.group) == (read.index, read.group)

    def _bury(self, links: Iterable[Link]) -> Iterator[Problem]:
        """Queue for deletion what was nameless a minute ago already. What is made right now is younger."""
        now = self.clock()
        links = tuple(links)
        self._seen = {link.index: self._seen.get(link.index, now) for link in links}
        for link in links:
            if now - self._seen[link.index] >= _GRACE_SECONDS:
                # down at once: a plugin that comes to life must not make a pod of it before it is deleted
                requests = [messages.link_down(link.index), messages.link_bury(link.index)]
                yield from self._send(link.name, requests)

    def _send(self, where: str, requests: Iterable[Request]) -> Iterator[Problem]:
        try:
            self.kernel.batch(tuple(requests), ignore=_GONE)
        except OSError as error:
            yield Problem(where, str(error))

    def _read(self, families: Iterable[int]) -> HostSide:
        links = [Link.parse(reply) for reply in self.kernel.dump(messages.dump_links())]
        routes: set[Route] = set()
        neighbours: set[tuple[int, bytes, bytes]] = set()
        for family in families:
            told = map(route_messages.parse_route, self.kernel.dump(route_messages.dump_routes(family)))
            routes |= {route for route in told if route and (route.table == PODS_TABLE or route.link >= FIRST_INDEX)}
            for reply in self.kernel.dump(route_messages.dump_neighbours(family)):
                ip, mac, permanent = messages.parse_neighbour(reply)
                if permanent:
                    neighbours.add((route_messages.neighbour_link(reply), ip, mac))
        said = {k.index: alias.decode(k.alias, k.name, k.mtu) for k in links if k.alias}
        return HostSide(
            {link.name: link for link in links},
            {index: attachment for index, attachment in said.items() if attachment},
            frozenset(routes),
            frozenset(neighbours),
        )
