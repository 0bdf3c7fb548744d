"""What the kernel tells of changes by others, so that what they take away is made again at once and not by a timer.

Two sockets listen: rtnetlink for links, neighbours, IPv4 addresses, routes and rules (IPv6's once pods
have it); nfnetlink for nftables. Each
message names the port of the socket whose request caused it (``nlmsg_pid``), or 0, so our own requests are told from
others'. The ``nft`` program's port is not known beforehand: what nftables tells while we load our table may be ours.

Of neighbours only those on pods' links matter, where every entry is permanent.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from ..seams import Change, only_links
from . import nft, pairs, ports, route_messages, socket_filter
from .messages import IFF_UP, ROUTE_PROTOCOL
from .pods import FIRST_INDEX, PODS_TABLE
from .socket_filter import Test

__all__ = ["KernelNotices", "judge_nftables", "judge_routing", "messages_of"]

_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_RTM_NEWADDR, _RTM_DELADDR = 20, 21
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_RTM_NEWRULE, _RTM_DELRULE = 32, 33
_TABLES: Final = range(PODS_TABLE, PODS_TABLE + 1_000_000)
_ADD_MEMBERSHIP, _IPV6_GROUPS = 1, (11, 19)  # NETLINK_ADD_MEMBERSHIP; RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE
# RTMGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE; NFNLGRP_NFTABLES (linux/rtnetlink.h, nfnetlink.h)
_ROUTING_GROUPS: Final = 0x1 | 0x4 | 0x10 | 0x40 | 0x80
_NETLINK_NETFILTER, _NFTABLES_GROUP = 12, 1 << 6
_NFTABLES: Final = 10
_NEW_GENERATION: Final = 15
_DELETIONS: Final = frozenset({2, 5, 8, 11, 14, 20, 24})
"""``NFT_MSG_DEL*``: table, chain, rule, set, element, object, flow table."""
_OUR_TABLES: Final = (nft.TABLE.encode(), ports.TABLE.encode())
_SOL_NETLINK: Final = 270
_HEADER: Final = struct.Struct("=IHHII")
_NEIGH: Final = struct.Struct("=BxxxiHBB")
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_LINK: Final = struct.Struct("=BxHiII")
# of nlmsghdr; of ifinfomsg behind it
_TYPE_AT, _PORT_AT = 4, 12
_INDEX_AT, _FLAGS_AT = 20, 24
_RECEIVE: Final = 1 << 16
_AT_ONCE: Final = 256
"""Datagrams read in one call: the event loop has more to do. The descriptor stays readable for the rest."""

_OVERFLOW: Final = Change("more than could be read")


def judge_routing(kind: int, body: bytes, leaving: set[int]) -> Change | None:
    """One rtnetlink message that no request of ours caused. ``leaving`` are pods' links that we take away; one that
    has gone is taken out of it."""
    if kind in (_RTM_NEWROUTE, _RTM_DELROUTE):
        return _judge_route(body, leaving)
    if kind in (_RTM_NEWRULE, _RTM_DELRULE):
        protocol, table = route_messages.owner_of_rule(body)
        if protocol == ROUTE_PROTOCOL:
            return Change(f"a rule for table {table}", lost=True)
    elif kind in (_RTM_NEWADDR, _RTM_DELADDR):
        return Change("an address")
    elif kind in (_RTM_NEWLINK, _RTM_DELLINK):
        return _judge_link(kind, body, leaving)
    elif kind in (_RTM_NEWNEIGH, _RTM_DELNEIGH):
        return _judge_neighbour(kind, body, leaving)
    return None


def _judge_route(body: bytes, leaving: set[int]) -> Change | None:
    protocol, table, link = route_messages.owner_of_route(body)
    if protocol != ROUTE_PROTOCOL and table not in _TABLES:
        return None
    if body[0] == socket.AF_INET6 and link >= FIRST_INDEX:
        # unlike IPv4's, IPv6's routes are told of when their link goes, and nobody is to blame for that
        return None if link in leaving else _of_a_pod("a route by a pod's host link", link)
    return Change(f"a route in table {table}", lost=True)


def _judge_neighbour(kind: int, body: bytes, leaving: set[int]) -> Change | None:
    family, index, state, _flags, _type = _NEIGH.unpack_from(body)
    if family not in (socket.AF_INET, socket.AF_INET6) or index < FIRST_INDEX or index in leaving:
        return None
    # what the kernel learns by itself is not permanent, and multicast entries (NOARP) come and go with its groups
    told = state & _NUD_PERMANENT if kind == _RTM_NEWNEIGH else not state & _NUD_NOARP
    return _of_a_pod("a neighbour on a pod's host link", index) if told else None


def _of_a_pod(what: str, index: int) -> Change:
    return Change(f"{what} ({index})", links=frozenset((index,)))


def _judge_link(kind: int, body: bytes, leaving: set[int]) -> Change | None:
    _family, _type, index, flags, _change = _LINK.unpack_from(body)
    if index < FIRST_INDEX:
        return Change(f"link {index}")
    if index in leaving:
        if kind == _RTM_DELLINK:
            leaving.discard(index)
        return None
    if kind == _RTM_DELLINK:
        # nobody's fault: a runtime that removes a pod's namespace before it calls DEL takes the link with it
        return _of_a_pod("a pod's host link is gone", index)
    # a pod's link that comes up tells so by itself, some time after the request
    return None if flags & IFF_UP else _of_a_pod("a pod's host link is down", index)


def judge_nftables(kind: int, body: bytes) -> Change | None:
    """One nftables message: the name of the table is the first attribute of every kind of object."""
    if kind >> 8 != _NFTABLES or kind & 0xFF == _NEW_GENERATION:
        return None
    table = body[8 : body.find(b"\0", 8)]
    if table not in _OUR_TABLES:
        return None
    # host ports' table is loaded with the first pod that has some, outside of configure()
    lost = kind & 0xFF in _DELETIONS and table == _OUR_TABLES[0]
    return Change(f"the nftables table {table.decode()}", lost=lost, maybe_ours=True)


def messages_of(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The messages of a datagram: type, port of who caused it, body. nftables tells many in one."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, port, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


class KernelNotices:
    """A :class:`berth_node.seams.Notices` of the network namespace of the thread that makes it.

    ``sockets`` and ``elements`` are the ports of our own, on either side; ``leaving`` is shared with the thread that
    unwires pods (one operation of a set is atomic).
    """

    def __init__(self, sockets: Iterable[int], elements: Iterable[int], leaving: set[int]) -> None:
        self._sockets = frozenset(sockets)
        self._elements = frozenset(elements)
        self._leaving = leaving
        self._ipv6 = False
        # each pod makes the kernel tell of a dozen things, while its plugin waits for the thread that would read them
        self._routing = _listen(socket.NETLINK_ROUTE, _ROUTING_GROUPS, _unheard(self._sockets))
        self._nftables = _listen(_NETLINK_NETFILTER, _NFTABLES_GROUP)

    def hear_ipv6(self) -> None:
        """Listen to IPv6's routes and rules too. Again is fine. Its addresses come and go with each advertisement."""
        if not self._ipv6:
            for group in _IPV6_GROUPS:
                self._routing.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            self._ipv6 = True

    @property
    def descriptors(self) -> tuple[int, ...]:
        """See :attr:`berth_node.seams.Notices.descriptors`."""
        return self._routing.fileno(), self._nftables.fileno()

    def read(self) -> Change | None:
        """See :meth:`berth_node.seams.Notices.read`."""
        worst: Change | None = None
        links: frozenset[int] | None = None
        for change in self._read():
            links = only_links(links, change)
            if worst is None or (change.lost, not change.maybe_ours) > (worst.lost, not worst.maybe_ours):
                worst = change
        return replace(worst, links=links or frozenset()) if worst else None

    def _read(self) -> Iterator[Change]:
        for data in self._datagrams(self._routing):
            for kind, port, body in messages_of(data):
                ours = port in self._sockets or port >> 16 == pairs.PORTS
                if not ours and (change := judge_routing(kind, body, self._leaving)):
                    yield change
            if not data:
                self._leaving.clear()
                yield _OVERFLOW
        for data in self._datagrams(self._nftables):
            for kind, port, body in messages_of(data):
                if port not in self._elements and (change := judge_nftables(kind, body)):
                    yield change
            if not data:
                yield _OVERFLOW

    def _datagrams(self, listening: socket.socket) -> Iterator[bytes]:
        """What waits to be read; an empty one stands for what the kernel had to drop."""
        for _ in range(_AT_ONCE):
            try:
                yield listening.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield b""

    def close(self) -> None:
        """Close the sockets."""
        self._routing.close()
        self._nftables.close()


def _unheard(own: Iterable[int]) -> bytes:
    """What :func:`judge_routing` would find nothing in: what our own sockets and plugins' asked for, and pods' links
    that are up."""
    up = Test(_FLAGS_AT, 4, IFF_UP, bits=True)
    a_pods = Test(_INDEX_AT, 4, 0x1_0000_0000 - FIRST_INDEX, bits=True)
    ours = [[Test(_PORT_AT, 4, port)] for port in own]
    plugins = [Test(_PORT_AT + (2 if sys.byteorder == "little" else 0), 2, pairs.PORTS)]
    return socket_filter.dropping(*ours, plugins, [Test(_TYPE_AT, 2, _RTM_NEWLINK), a_pods, up])


def _listen(protocol: int, groups: int, unheard: bytes = b"") -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    listening = socket.socket(socket.AF_NETLINK, kind, protocol)
    if unheard:
        socket_filter.attach(listening, unheard)
    listening.bind((0, groups))
    return listening
