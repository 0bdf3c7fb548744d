"""Forgets the connections of addresses that pods gave back, before another pod gets one of them.

An entry that outlives its pod would be the next pod's: a reply of an old peer is let in as established, and a Service's
datagrams go on to an address whose pod is another one now. The kernel keeps an idle TCP connection for five days.

Wire format: ``linux/netfilter/nfnetlink_conntrack.h``. Since Linux 6.11 one request deletes whatever matches a filter
(CTA_FILTER): 1 ms for a table of 6000 entries of which none matches, in the kernel alone. Before, a deletion takes one
whole tuple, so the entries are listed first, with the same filter (honoured since 5.8; earlier kernels list all, so
each entry is looked at here too), and deleted one by one. Such a kernel answers the first way with EINVAL, as the tuple
in the filter lacks its ports, and deletes nothing.

Of IPv6 the kernel's filter lets through whatever does *not* have the address (ctnetlink_filter_match_tuple takes
ipv6_addr_cmp's 0, which means equal, for "different"; up to Linux 6.18 at least): by the first way it would delete all
other connections of the node. So IPv6's entries are all listed, once for a whole batch of addresses.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
import threading
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from .rtnl import Reply, Request, Rtnl, RtnlError, attribute, attributes, nested

__all__ = ["Conntrack"]

_NETLINK_NETFILTER: Final = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK; IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _SOURCE = 1, {socket.AF_INET: 1, socket.AF_INET6: 3}
_BY_SOURCE: Final = 1  # CTA_FILTER_F_CTA_IP_SRC; CTA_FILTER's attributes are numbered as the tuples are
_GONE: Final = frozenset({errno.ENOENT})
_NESTED: Final = 0x8000
_FAMILY: Final = struct.Struct(">BBH")
_AT_ONCE: Final = 16
"""Addresses per message: each is two walks of the table, during which the kernel's lock of the subsystem is held."""


class Conntrack:
    """A socket of the network namespace of the thread that makes it. Any thread may call it: it waits for its turn."""

    def __init__(self, *, filters: bool = True) -> None:
        """``filters``: try the way of Linux 6.11 first."""
        self._rtnl = Rtnl(_NETLINK_NETFILTER)
        self._filters = filters
        self._turn = threading.Lock()

    def close(self) -> None:
        """Close the socket, once a flush under way is done."""
        with self._turn:
            self._rtnl.close()

    def flush(self, addresses: Collection[str]) -> None:
        """Delete each entry that one of the addresses began (original source) or answers (reply source).

        What was rewritten on its way to a pod has the pod as its reply's source, so these two are all. Raises OSError.
        """
        with self._turn:
            self._flush6([socket.inet_pton(socket.AF_INET6, a) for a in addresses if ":" in a])
            every = [a for a in addresses if ":" not in a]
            for start in range(0, len(every), _AT_ONCE):
                some = every[start : start + _AT_ONCE]
                if self._filters:
                    try:
                        self._rtnl.batch([r for a in some for r in _matching(_DELETE, a)])
                        continue
                    except RtnlError as error:
                        if error.errno != errno.EINVAL:
                            raise
                        self._filters = False
                self._delete_one_by_one(some)

    def _flush6(self, ips: Collection[bytes]) -> None:
        if not ips:
            return
        request = Request(_GET, 0, _FAMILY.pack(socket.AF_INET6, 0, 0), "IPv6 connections")
        named = re.compile(b"|".join(map(re.escape, ips)), re.DOTALL).search  # most entries need not be taken apart
        self._delete(self._rtnl.dump(request, named), socket.AF_INET6, frozenset(ips))

    def _delete_one_by_one(self, addresses: Collection[str]) -> None:
        for address in addresses:
            for request in _matching(_GET, address):
                self._delete(self._rtnl.dump(request), socket.AF_INET, frozenset({socket.inet_aton(address)}))

    def _delete(self, replies: Iterable[Reply], family: socket.AddressFamily, ips: frozenset[bytes]) -> None:
        found = [r for reply in replies for r in _deletion(reply, family, ips)]
        for start in range(0, len(found), 100):
            self._rtnl.batch(found[start : start + 100], ignore=_GONE)


def _matching(kind: int, address: str) -> Iterator[Request]:
    """Requests about the entries that the IPv4 address began, and about those that it answers."""
    family = socket.AF_INET
    ip = attribute(_SOURCE[family], socket.inet_pton(family, address))
    for which in (_TUPLE_ORIG, _TUPLE_REPLY):
        like = nested(which | _NESTED, nested(_TUPLE_IP | _NESTED, ip))
        filtered = nested(_FILTER | _NESTED, attribute(which, struct.pack("=I", _BY_SOURCE)))
        yield Request(kind, 0, _FAMILY.pack(family, 0, 0) + like + filtered, f"connections of {address}")


def _deletion(reply: Reply, family: socket.AddressFamily, ips: frozenset[bytes]) -> Iterator[Request]:
    """The request that deletes a listed entry, if it is one of these addresses."""
    found = attributes(reply.body, 4)
    tuples = [attributes(found.get(which, b"")) for which in (_TUPLE_ORIG, _TUPLE_REPLY)]
    sources = [attributes(t.get(_TUPLE_IP, b"")).get(_SOURCE[family]) for t in tuples]
    if ips.isdisjoint(source for source in sources if source):
        return
    # the id is what tells a later connection with the same ports from the one that was listed
    body = _FAMILY.pack(family, 0, 0) + attribute(_TUPLE_ORIG | _NESTED, found[_TUPLE_ORIG])
    body += b"".join(attribute(which, found[which]) for which in (_ID, _ZONE) if which in found)
    yield Request(_DELETE, 0, body, "a connection of a returned address")
