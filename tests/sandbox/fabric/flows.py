"""Flow records from real packets: the router's kernel tells of each packet that an interface sent, got or was denied.

Rules of ``filters.py`` log a packet's first bytes to a netlink group (NFLOG) with what became of it, for the VPCs that
have a flow log. A packet between two interfaces is seen by both, as on AWS: leaving the one and coming in at the other.
What stays within a node never gets here, as there too.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.sandbox import netns

__all__ = ["GROUP", "PREFIXES", "Flow", "FlowRecorder", "Seen", "seen"]

GROUP: Final = 53
PREFIXES: Final = ("accept", "group-out", "group-in", "acl-out", "acl-in")
"""What became of a packet: it passed, or what stopped it, on its way out of an interface or into one."""

_NFNETLINK, _ULOG, _COMMAND_BIND, _COPY_PACKET = 12, 4, 1, 2
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_IN, _OUT, _PAYLOAD, _PREFIX = 4, 5, 9, 10
_SNAP_BYTES: Final = 64
_BUFFER_BYTES: Final = 8 << 20
_SO_RCVBUFFORCE: Final = 33
_PORTS: Final = frozenset({6, 17})


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet's header, and what became of it: the router's indexes of the ports it came by and was to leave by."""

    prefix: str
    came_by: int
    leaves_by: int
    source: str
    destination: str
    protocol: int
    source_port: int
    destination_port: int
    length: int
    tcp_flags: int


@dataclass(frozen=True, slots=True)
class Flow:
    """What a flow-log record is about: the packets of one direction at one interface, addresses as in the packet."""

    interface: str
    egress: bool
    accepted: bool
    source: str
    destination: str
    source_port: int
    destination_port: int
    protocol: int


@dataclass(slots=True)
class Traffic:
    """``first`` and ``last`` are Unix seconds."""

    first: float
    last: float
    packets: int = 0
    octets: int = 0
    tcp_flags: int = 0


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def seen(message: bytes) -> Seen | None:
    """One NFLOG message (linux/netfilter/nfnetlink_log.h), without its netlink header; None if it has no IPv4."""
    told = dict(_attributes(message[4:]))
    packet = told.get(_PAYLOAD, b"")
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    header = (packet[0] & 15) * 4
    protocol = packet[9]
    first_part = struct.unpack_from("!H", packet, 6)[0] & 0x1FFF == 0
    ports = (0, 0)
    if protocol in _PORTS and first_part and len(packet) >= header + 4:
        ports = struct.unpack_from("!HH", packet, header)
    flags = packet[header + 13] & 0x17 if protocol == 6 and len(packet) > header + 13 else 0
    index = {kind: struct.unpack("!I", told[kind])[0] for kind in (_IN, _OUT) if kind in told}
    return Seen(
        told.get(_PREFIX, b"").rstrip(b"\0").decode(),
        index.get(_IN, 0),
        index.get(_OUT, 0),
        str(ipaddress.IPv4Address(packet[12:16])),
        str(ipaddress.IPv4Address(packet[16:20])),
        protocol,
        *ports,
        struct.unpack_from("!H", packet, 2)[0],
        # SYN, FIN, RST and a SYN's ACK are what a record's tcp-flags may have
        flags & 0x07 | (flags & 0x10 if flags & 0x02 else 0),
    )


def _flows(packet: Seen, eni: Callable[[int], str | None]) -> Iterator[Flow]:
    """The records of one packet: at the interface that sent it, and at the one it was for."""
    ends = (packet.source, packet.destination, packet.source_port, packet.destination_port, packet.protocol)
    sender, receiver = eni(packet.came_by), eni(packet.leaves_by)
    denied_out = packet.prefix.endswith("-out")
    if sender:
        yield Flow(sender, True, not denied_out, *ends)
    if receiver and not denied_out:
        yield Flow(receiver, False, packet.prefix == "accept", *ends)


@dataclass(slots=True)
class FlowRecorder:
    """Adds packets up until they are taken. ``eni_of`` maps the router's port names to interfaces."""

    eni_of: Mapping[str, str]
    _kept: dict[Flow, Traffic] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _socket: socket.socket | None = None
    _stop: tuple[int, int] = (-1, -1)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen in the router's namespace; nothing if that is so already. OSError where the kernel has no NFLOG."""
        if self._socket is not None:
            return
        with netns.inside("vpc"):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NFNETLINK)
        self._socket.bind((0, 0))
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._configure(struct.pack("=HHB3x", 5, 1, _COMMAND_BIND))
        self._configure(struct.pack("=HH", 10, 2) + struct.pack("!IB", _SNAP_BYTES, _COPY_PACKET) + b"\0\0\0")
        # each packet at once: the kernel would keep them back for up to a second
        self._configure(struct.pack("=HH", 8, 5) + struct.pack("!I", 1))
        self._stop = os.pipe()
        self._thread = threading.Thread(target=self._listen, name="flow recorder", daemon=True)
        self._thread.start()

    def _configure(self, attribute: bytes) -> None:
        assert self._socket is not None
        body = struct.pack("=BBH", socket.AF_UNSPEC, 0, socket.htons(GROUP)) + attribute
        request, acknowledge = 1, 4
        header = _HEADER.pack(_HEADER.size + len(body), (_ULOG << 8) | 1, request | acknowledge, 1, 0)
        self._socket.send(header + body)
        error = -struct.unpack_from("=i", self._socket.recv(1 << 12), _HEADER.size)[0]
        if error:
            raise OSError(error, os.strerror(error))

    def _listen(self) -> None:
        assert self._socket is not None
        while True:
            ready, _, _ = select.select([self._socket.fileno(), self._stop[0]], [], [])
            if self._stop[0] in ready:
                return
            with self._lock:
                self._drain()

    def _drain(self) -> None:
        """Take in what the kernel has told so far. The lock must be held."""
        assert self._socket is not None
        while True:
            try:
                data = self._socket.recv(1 << 17, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                continue  # more came than the buffer holds: flow logs then miss some, as on AWS
            self._take_in(data, time.time())

    def _take_in(self, data: bytes, now: float) -> None:
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size:
                return
            packet = seen(data[at + _HEADER.size : at + length]) if kind >> 8 == _ULOG else None
            for flow in _flows(packet, self._eni) if packet else ():
                self._count(flow, packet, now)
            at += (length + 3) & ~3

    def _count(self, flow: Flow, packet: Seen | None, now: float) -> None:
        assert packet is not None
        traffic = self._kept.setdefault(flow, Traffic(now, now))
        traffic.last = now
        traffic.packets += 1
        traffic.octets += packet.length
        traffic.tcp_flags |= packet.tcp_flags

    def _eni(self, index: int) -> str | None:
        if index not in self._names:
            with contextlib.suppress(OSError), netns.inside("vpc"):
                self._names[index] = socket.if_indextoname(index)
        return self.eni_of.get(self._names.get(index, ""))

    def take(self) -> dict[Flow, Traffic]:
        """What was seen since the last time."""
        with self._lock:
            if self._socket is not None:
                self._drain()
            taken, self._kept = self._kept, {}
        return taken

    def close(self) -> None:
        """Safe to repeat."""
        if self._thread is not None:
            os.write(self._stop[1], b".")
            self._thread.join(timeout=5)
            for descriptor in self._stop:
                os.close(descriptor)
            self._thread = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
