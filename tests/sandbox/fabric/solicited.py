"""What the VPC's router says of itself and of neighbours over IPv6: one thread with one packet socket.

Linux forwards, and answers for the router's own link-local addresses. It sends no router advertisements, and proxies
neighbours by single addresses only, where an interface owns 2^48 of each prefix. Both are done here. In a VPC answers
to neighbour solicitations are synthesized from what is assigned: the neighbour is never asked, and multicast reaches
nobody but the router.

A probe for a duplicate address (a solicitation from ``::``) gets no answer.
"""

from __future__ import annotations

import ctypes
import heapq
import ipaddress
import logging
import selectors
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Final

from tests.sandbox import netns
from tests.sandbox.fabric import ndp
from tests.sandbox.fabric.ipv6 import Link

__all__ = ["Responder"]

_log = logging.getLogger(__name__)
_ETH_P_IPV6: Final = 0x86DD
_SO_ATTACH_FILTER: Final = 26
_PACKET_OUTGOING: Final = 4
_SOON: Final = (0.0, 0.05, 0.3, 1.0)
"""Seconds: a link that came up a moment ago loses what is sent before the kernel's link watch ran."""
_PERIOD: Final = 60.0
"""AWS's own interval is not documented; RFC 4861 allows up to 1800 s."""
# linux/filter.h; offsets in the frame: next header at 20, ICMPv6 type at 54
_FILTER: Final = (
    (0x30, 0, 0, 20),  # load byte: next header
    (0x15, 0, 4, 58),  # ICMPv6, else drop
    (0x30, 0, 0, 54),  # load byte: type
    (0x15, 1, 0, ndp.ROUTER),
    (0x15, 0, 1, ndp.NEIGHBOUR),
    (0x06, 0, 0, 0xFFFF),  # take it
    (0x06, 0, 0, 0),
)


class Responder:
    """Answers on all links of the namespace ``vpc``. ``follow`` may be called from any thread."""

    def __init__(self) -> None:
        self._links: Mapping[str, Link] = {}
        self._owners: Mapping[tuple[str, str], str] = {}
        self._due: list[tuple[float, str]] = []
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._socket = _packet_socket()
        self._thread = threading.Thread(target=self._run, name="router-advertisements", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; the sockets are closed then."""
        self._wake.close()
        self._thread.join()
        self._socket.close()
        self._woken.close()

    def follow(self, links: Mapping[str, Link], owners: Mapping[tuple[str, str], str]) -> None:
        """From now on answer for these. A link that is new or has changed hears of its router at once."""
        with self._lock:
            changed = [port for port, link in links.items() if self._links.get(port) != link]
            self._links, self._owners = links, owners
            for port in changed:
                self._schedule(port)
        if changed:
            self._wake.send(b"x")

    def _schedule(self, port: str) -> None:
        now = time.monotonic()
        for delay in _SOON:
            heapq.heappush(self._due, (now + delay, port))

    def _run(self) -> None:
        unsolicited = time.monotonic() + _PERIOD
        with selectors.DefaultSelector() as selector:
            for sock in (self._woken, self._socket):
                selector.register(sock, selectors.EVENT_READ)
            while True:
                with self._lock:
                    due = min(self._due[0][0] if self._due else unsolicited, unsolicited)
                ready = {key.fileobj for key, _ in selector.select(max(due - time.monotonic(), 0))}
                if self._woken in ready and not self._woken.recv(4096):
                    return
                if self._socket in ready:
                    self._hear()
                if time.monotonic() >= unsolicited:
                    unsolicited += _PERIOD
                    for port in self._links:
                        self._advertise(port)
                self._advertise_due()

    def _advertise_due(self) -> None:
        while True:
            with self._lock:
                if not self._due or self._due[0][0] > time.monotonic():
                    return
                _, port = heapq.heappop(self._due)
            self._advertise(port)

    def _advertise(self, port: str) -> None:
        if link := self._links.get(port):
            self._send(port, ndp.router_advertisement(link.mac, link.cidrs))

    def _hear(self) -> None:
        try:
            frame, (port, _, kind, *_) = self._socket.recvfrom(2048)
        except OSError:
            _log.debug("a link went away while it was listened to", exc_info=True)
            return
        asked = ndp.parse(frame) if kind != _PACKET_OUTGOING else None
        link = self._links.get(port)
        if asked is None or link is None:
            return
        if asked.kind == ndp.ROUTER:
            with self._lock:
                self._schedule(port)
        elif asked.source != "::" and (mac := self._owner(link.subnet, asked.target)):
            self._send(port, ndp.neighbour_advertisement(asked, mac))

    def _owner(self, subnet: str, target: str) -> str | None:
        address = ipaddress.IPv6Address(target)
        blocks = (f"{address}/128", str(ipaddress.IPv6Network((address, 80), strict=False)))
        return next((mac for block in blocks if (mac := self._owners.get((subnet, block)))), None)

    def _send(self, port: str, frame: bytes) -> None:
        try:
            self._socket.sendto(frame, (port, _ETH_P_IPV6))
        except OSError:  # the link went away, or is down
            _log.debug("nothing was said on %s", port, exc_info=True)


def _packet_socket() -> socket.socket:
    """Whole frames of all links of the router: solicitations, and what came before the filter was there."""
    sock = netns.open_socket("vpc", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IPV6))
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _FILTER)
    buffer = ctypes.create_string_buffer(program)
    fprog = struct.pack("HL", len(_FILTER), ctypes.addressof(buffer))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
    sock.setblocking(False)
    return sock
