"""Many probes at once between spots: TCP connections, datagrams, pings; what arrived, and what was answered.

Silence is the usual outcome, so all probes are sent first and then waited for once. A TCP connection is refused by
nobody here: every spot serves every port that is asked for, so a refusal is told as such and fails a test.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.flat.place import Spot
from tests.sandbox import netns
from tests.sandbox.echo import answer, open_servers
from tests.sandbox.ping import echo_request

__all__ = ["Heard", "Probe", "run"]

_SOL_RAW, _ICMP_FILTER, _IP_TRANSPARENT = 255, 1, 19
_REQUEST, _REPLY = 8, 0


@dataclass(frozen=True, slots=True)
class Probe:
    """``client_port`` is also the ping's identifier, and names the probe in what is sent: unique in a run."""

    source: Spot
    target: Spot
    protocol: str
    port: int
    client_port: int


@dataclass(slots=True)
class Heard:
    """``arrived`` is None where it cannot be seen (TCP without an answer); ``seen_as`` the source that arrived."""

    arrived: bool | None = False
    answered: bool = False
    seen_as: str = ""
    odd: str = ""


class _Run:
    def __init__(self, spots: Iterable[Spot]) -> None:
        self.poll = select.epoll()
        self.handlers: dict[int, tuple[socket.socket, object]] = {}
        self.heard: dict[int, Heard] = {}
        self.probes: dict[int, Probe] = {}
        self.open: list[socket.socket] = []
        self.pings: dict[str, socket.socket] = {}
        self.spots = tuple(spots)

    def watch(self, sock: socket.socket, handler: object, events: int = select.EPOLLIN) -> None:
        sock.setblocking(False)
        self.open.append(sock)
        self.handlers[sock.fileno()] = (sock, handler)
        self.poll.register(sock.fileno(), events)

    def close(self) -> None:
        self.poll.close()
        for sock in self.open:
            sock.close()

    # ------------------------------------------------------------------------------------------------ servers
    def serve(self, ports: Mapping[str, Sequence[int]]) -> None:
        for where in {s.netns for s in self.spots}:
            for port in sorted({p for group in ports.values() for p in group}):
                for sock in open_servers(where, port, ""):
                    self.watch(sock, self.asked_datagram if sock.type == socket.SOCK_DGRAM else self.asked_connection)
            raw = netns.open_socket(where, kind=socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP)
            hidden = 0xFFFFFFFF & ~(1 << _REQUEST | 1 << _REPLY)
            raw.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", hidden))
            raw.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
            self.pings[where] = raw
            self.watch(raw, self.pinged)

    def asked_connection(self, sock: socket.socket) -> None:
        answer(sock)

    def asked_datagram(self, sock: socket.socket) -> None:
        data, _, _, peer = sock.recvmsg(64, 0, socket.MSG_PEEK)
        if data.startswith(b"probe ") and (heard := self.heard.get(int(data.split()[1]))):
            heard.arrived, heard.seen_as = True, peer[0]
        answer(sock)

    def pinged(self, sock: socket.socket) -> None:
        packet, peer = sock.recvfrom(2048)
        start = (packet[0] & 0xF) * 4
        kind, _, _, identifier, sequence = struct.unpack_from("!BBHHH", packet, start)
        del identifier  # a node that rewrites a ping may choose another; the sequence number stays
        probe, heard = self.probes.get(sequence), self.heard.get(sequence)
        if probe is None or heard is None:
            return
        if kind == _REQUEST:
            heard.arrived, heard.seen_as = True, peer[0]
        elif peer[0] == probe.target.address and socket.inet_ntoa(packet[16:20]) == probe.source.address:
            heard.answered = True

    # ------------------------------------------------------------------------------------------------ clients
    def send(self, probes: Sequence[Probe]) -> None:
        by_place: dict[str, list[Probe]] = {}
        for probe in probes:
            by_place.setdefault(probe.source.netns, []).append(probe)
            self.probes[probe.client_port], self.heard[probe.client_port] = probe, Heard()
        for where, group in by_place.items():
            with netns.inside(where):
                for probe in group:
                    self.send_one(probe)

    def send_one(self, probe: Probe) -> None:
        try:
            if probe.protocol == "icmp":
                self.ping(probe)
            elif probe.protocol == "udp":
                self.datagram(probe)
            else:
                self.connect(probe)
        except OSError as error:
            self.heard[probe.client_port].odd = errno.errorcode.get(error.errno or 0, str(error))

    def ping(self, probe: Probe) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF))
        with sock:
            sock.bind((probe.source.address, 0))
            sock.sendto(echo_request(probe.client_port, probe.client_port, b"flat"), (probe.target.address, 0))

    def datagram(self, probe: Probe) -> None:
        sock = self.client(probe, socket.SOCK_DGRAM)
        self.watch(sock, self.answered)
        sock.send(f"probe {probe.client_port}".encode())

    def connect(self, probe: Probe) -> None:
        self.heard[probe.client_port].arrived = None
        self.watch(self.client(probe, socket.SOCK_STREAM), self.answered, select.EPOLLIN | select.EPOLLRDHUP)

    def client(self, probe: Probe, kind: socket.SocketKind) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        sock.bind((probe.source.address, probe.client_port))
        error = sock.connect_ex((probe.target.address, probe.port))
        if error not in (0, errno.EINPROGRESS):
            sock.close()
            raise OSError(error, "connect")
        return sock

    def answered(self, sock: socket.socket) -> None:
        heard = self.heard[sock.getsockname()[1]]
        try:
            data = sock.recv(200)
            heard.answered, heard.arrived = bool(data), True
        except BlockingIOError:
            return
        except OSError as error:
            heard.odd = errno.errorcode.get(error.errno or 0, str(error))
        self.poll.unregister(sock.fileno())
        del self.handlers[sock.fileno()]

    def listen(self, quiet: float) -> None:
        """Until nothing has come for ``quiet`` seconds."""
        last = time.monotonic()
        while (left := last + quiet - time.monotonic()) > 0:
            for number, _ in self.poll.poll(left):
                if number in self.handlers:
                    sock, handler = self.handlers[number]
                    handler(sock)  # type: ignore[operator]
                    last = time.monotonic()


def run(
    spots: Sequence[Spot], probes: Sequence[Probe], ports: Mapping[str, Sequence[int]], quiet: float
) -> dict[Probe, Heard]:
    """Send every probe and wait until nothing has come for ``quiet`` seconds."""
    running = _Run(spots)
    try:
        running.serve(ports)
        for start in range(0, len(probes), 150):
            running.send(probes[start : start + 150])
            running.listen(0.01)
        running.listen(quiet)
        return {running.probes[n]: heard for n, heard in running.heard.items()}
    finally:
        running.close()
