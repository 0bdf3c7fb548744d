"""What changes in a namespace's kernel while a block runs."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.sandbox import netns

__all__ = ["changes"]

# RTMGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE; _IPV6_ROUTE, RTNLGRP_IPV6_RULE; NFNLGRP_NFTABLES
# (linux/rtnetlink.h, nfnetlink.h)
_ROUTE_GROUPS: Final = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x400 | 1 << 18
_NETFILTER, _NFTABLES_GROUP = 12, 1 << 6


@contextmanager
def changes(where: str) -> Iterator[list[str]]:
    """Lists, when the block has ended, every change of links, addresses, neighbours, routes, rules and nftables."""
    seen: list[str] = []
    with netns.inside(where):
        sockets = {
            "rtnetlink": (socket.NETLINK_ROUTE, _ROUTE_GROUPS),
            "nftables": (_NETFILTER, _NFTABLES_GROUP),
        }
        listening = {}
        for name, (protocol, groups) in sockets.items():
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
            sock.bind((0, groups))
            listening[name] = sock
    try:
        yield seen
        for name, sock in listening.items():
            while True:
                try:
                    data = sock.recv(1 << 16)
                except BlockingIOError:
                    break
                seen.append(f"{name} message {struct.unpack_from('=H', data, 4)[0]}")
    finally:
        for sock in listening.values():
            sock.close()
