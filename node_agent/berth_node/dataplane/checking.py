"""What a pod's links, routes and neighbours lack of what wiring made: for CHECK, and for a name met again."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Final

from ..seams import POD_GATEWAY, POD_GATEWAY6, PODS_TABLE, Attachment, Problem
from . import alias, messages
from .messages import AF_INET, AF_INET6, Link, packed
from .rtnl import Rtnl, RtnlError

__all__ = ["find", "holds", "host_problems", "mac_of_pod", "pod_problems"]

_GATEWAYS: Final = {
    AF_INET: (packed(POD_GATEWAY), POD_GATEWAY),
    AF_INET6: (packed(POD_GATEWAY6), POD_GATEWAY6),
}


def find(rtnl: Rtnl, name: str) -> Link | None:
    """The link of this name, if there is one."""
    try:
        return Link.parse(rtnl.get(messages.get_link(name)))
    except RtnlError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def holds(link: Link, attachment: Attachment) -> bool:
    """Whether a link says that it is this attachment's."""
    told = alias.decode(link.alias, link.name, link.mtu)
    if told is None:
        return False
    # the alias of an id that is too long holds it shortened already
    return alias.key(told) == alias.key(attachment) and told.addresses == attachment.addresses


def mac_of_pod(rtnl: Rtnl, link: Link, attachment: Attachment) -> bytes:
    """The pod's MAC as the host link's neighbour entry has it; empty if there is none."""
    ip = packed(attachment.address)
    for reply in rtnl.dump(messages.dump_neighbours(link.index, AF_INET if len(ip) == 4 else AF_INET6)):
        neighbour, mac, permanent = messages.parse_neighbour(reply)
        if neighbour == ip and permanent:
            return mac
    return b""


def host_problems(rtnl: Rtnl, link: Link, attachment: Attachment) -> Iterator[Problem]:
    """Of the host's side."""
    if not holds(link, attachment):
        yield Problem(link.name, f"the link belongs to another attachment: {link.alias.decode(errors='replace')}")
    if not link.up:
        yield Problem(link.name, "the host link is down")
    elif link.operstate != messages.OPERSTATE_UP:
        yield Problem(link.name, "the pod's end of the link is down")
    if link.mtu != attachment.mtu:
        # the pod's end may have been given another one by a chained plugin
        yield Problem(link.name, f"the host link's MTU is {link.mtu}, and was made {attachment.mtu}")
    mac, table = mac_of_pod(rtnl, link, attachment), attachment.table or PODS_TABLE
    for address in attachment.addresses:
        ip = packed(address)
        family = AF_INET if len(ip) == 4 else AF_INET6
        if (ip, 8 * len(ip), b"") not in _routes(rtnl, link.index, table, family):
            yield Problem(link.name, f"no route to {address} by this link in table {table}")
        known = map(messages.parse_neighbour, rtnl.dump(messages.dump_neighbours(link.index, family)))
        if not mac or (ip, mac, True) not in known:
            yield Problem(link.name, f"no permanent neighbour for {address}")


def pod_problems(pod: Rtnl, host: Link, attachment: Attachment, mac: bytes) -> Iterator[Problem]:
    """Of the pod's side, by a socket of its namespace. ``mac`` is what the host has for it."""
    where = f"{attachment.ifname} in the pod"
    link = find(pod, attachment.ifname)
    if link is None:
        yield Problem(where, "the interface is gone")
        return
    if not link.up:
        yield Problem(where, "the interface is down")
    if link.mac != mac.hex(":"):
        yield Problem(where, f"its MAC is {link.mac}, the host's neighbour entry has {mac.hex(':')}")
    for address in attachment.addresses:
        yield from _family_problems(pod, link, host, packed(address), where)


def _family_problems(pod: Rtnl, link: Link, host: Link, ip: bytes, where: str) -> Iterator[Problem]:
    bits = 8 * len(ip)
    family = AF_INET if bits == 32 else AF_INET6
    gateway, name = _GATEWAYS[family]
    if (ip, bits) not in map(messages.parse_address, pod.dump(messages.dump_addresses(link.index, family))):
        yield Problem(where, f"it lacks the address {socket.inet_ntop(family, ip)}/{bits}")
    wanted = {(b"", 0, gateway)} | ({(gateway, bits, b"")} if family == AF_INET else set())
    if not wanted <= _routes(pod, link.index, messages.MAIN_TABLE, family):
        yield Problem(where, f"it lacks the routes by {name}")
    neighbours = map(messages.parse_neighbour, pod.dump(messages.dump_neighbours(link.index, family)))
    if (gateway, bytes.fromhex(host.mac.replace(":", "")), True) not in neighbours:
        yield Problem(where, f"it lacks the permanent neighbour {name} at {host.mac}")


def _routes(rtnl: Rtnl, index: int, table: int, family: int) -> set[tuple[bytes, int, bytes]]:
    try:
        return {messages.parse_route(r) for r in rtnl.dump(messages.dump_routes(index, table, family))}
    except RtnlError as error:
        if error.errno == errno.ENOENT:  # a table is there from its first route on, a fresh namespace's main one too
            return set()
        raise
