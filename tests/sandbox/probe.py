"""Connectivity, measured strictly: the first packet must pass, and the server must see the client that there is.

One process and one thread hold sockets in many network namespaces at once (a socket stays where it was made), so all
ordered pairs of 50 pods take seconds. Nothing is retried: an echo request is sent once, and a TCP connection whose SYN
had to be repeated counts as failed, since a lost first packet is a bug of the data path that TCP would hide (the
kernel tells by ``tcpi_total_retrans``, tcp(7) TCP_INFO). Servers answer ``<address> <port>`` of whom they saw.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self

from tests.sandbox import netns

__all__ = ["PORT", "EchoServers", "Failure", "Matrix", "Outcome", "Prober", "Target", "tcp_echo", "udp_echo"]

PORT: Final = 7007
_SOL_RAW, _ICMP_FILTER = 255, 1  # linux/socket.h, linux/icmp.h; a set bit of the filter hides that type
_IP_RECVERR: Final = 11
_ECHO_REPLY, _UNREACHABLE, _ECHO_REQUEST = 0, 3, 8
_ICMP: Final = struct.Struct("!BBHHH")
_TOTAL_RETRANS_OFFSET: Final = 100  # struct tcp_info: 8 bytes, then 32-bit counters (linux/tcp.h)


class Failure(StrEnum):
    """How a probe failed."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    RETRANSMITTED = "retransmitted"
    REWRITTEN = "rewritten"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``seen`` is the client's address as the server saw it ("" for ping); ``seconds`` until the answer."""

    failure: Failure | None = None
    seen: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.failure is None


@dataclass(frozen=True, slots=True)
class Target:
    """One end: a pod, or anything with an address in a namespace."""

    name: str
    netns: str
    address: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """Every ordered pair: (source, destination) names → kind → outcome. ``seconds`` is how long it took in all."""

    outcomes: dict[tuple[str, str], dict[str, Outcome]]
    seconds: float

    @property
    def pairs(self) -> int:
        return len(self.outcomes)

    @property
    def connected(self) -> int:
        """Pairs where every kind held."""
        return sum(all(outcome.ok for outcome in kinds.values()) for kinds in self.outcomes.values())

    @property
    def ok(self) -> bool:
        return self.connected == self.pairs

    def failures(self) -> list[str]:
        """One line for each probe that failed."""
        return [
            f"{source} → {target}: {kind} {outcome.failure}{outcome.seen and f' (seen as {outcome.seen})'}"
            for (source, target), kinds in self.outcomes.items()
            for kind, outcome in kinds.items()
            if not outcome.ok
        ]


class EchoServers:
    """TCP and UDP servers in any namespaces, all in one thread; a context manager."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="echo-servers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._wake.close()
        self._thread.join()
        _close_all(self._selector)

    def add(self, where: str, port: int = PORT, address: str = "") -> None:
        """Serve both protocols in a namespace. Raises OSError when the port is taken there."""
        for sock in _servers(where, port, address):
            self._selector.register(sock, selectors.EVENT_READ)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                _answer(key.fileobj)


class Prober:
    """Servers and raw sockets in every target's namespace; :meth:`matrix` may run again and again. Context manager."""

    def __init__(self, targets: Iterable[Target], port: int = PORT) -> None:
        self._targets = tuple(targets)
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._echoes: dict[str, socket.socket] = {}
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._round = 0
        self._results: dict[tuple[str, str], dict[str, Outcome]] = {}
        self._pending: dict[tuple[str, str, str], float] = {}

    def __enter__(self) -> Self:
        try:
            for target in self._targets:
                for server in _servers(target.netns, self._port, target.address):
                    self._selector.register(server, selectors.EVENT_READ, lambda sock: _answer(sock))
                echo = netns.open_socket(target.netns, kind=socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP)
                self._selector.register(echo, selectors.EVENT_READ, self._heard(target))
                hidden = 0xFFFFFFFF & ~(1 << _ECHO_REPLY | 1 << _UNREACHABLE)
                echo.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", hidden))
                echo.setblocking(False)
                self._echoes[target.name] = echo
        except BaseException:
            _close_all(self._selector)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        _close_all(self._selector)

    def matrix(self, kinds: Sequence[str] = ("ping", "tcp"), timeout: float = 5.0, in_flight: int = 200) -> Matrix:
        """Probe every ordered pair. ``timeout`` seconds for each probe; about ``in_flight`` of them at once."""
        begun = time.monotonic()
        self._results, self._pending = {}, {}
        self._round = int.from_bytes(os.urandom(4), "big")  # an answer to an earlier round is not one to this
        for source in self._targets:
            others = [target for target in self._targets if target is not source]
            if "ping" in kinds:
                self._ping(source, others)
            if "tcp" in kinds:
                self._connect(source, others)
            self._pump(in_flight, timeout)
        self._pump(0, timeout)
        for source_name, target_name, kind in self._pending:
            self._set(source_name, target_name, kind, Outcome(Failure.TIMEOUT))
        for key in list(self._selector.get_map().values()):  # connections that never came about
            if isinstance(key.data, _Connection):
                self._forget(key.fileobj)
        return Matrix(self._results, time.monotonic() - begun)

    def _pump(self, allowed: int, timeout: float) -> None:
        """Handle what comes until at most ``allowed`` probes wait, or those that wait are past their time."""
        while len(self._pending) > allowed:
            left = max(self._pending.values()) + timeout - time.monotonic()
            if allowed:  # the oldest one must not hold up the rest
                left = min(left, min(self._pending.values()) + timeout - time.monotonic())
            if left <= 0:
                return
            for key, _ in self._selector.select(left):
                key.data(key.fileobj)

    def _set(self, source: str, target: str, kind: str, outcome: Outcome) -> None:
        self._results.setdefault((source, target), {})[kind] = outcome

    def _done(self, source: str, target: str, kind: str, outcome: Callable[[float], Outcome]) -> None:
        started = self._pending.pop((source, target, kind), None)
        if started is not None:
            self._set(source, target, kind, outcome(time.monotonic() - started))

    def _ping(self, source: Target, targets: Sequence[Target]) -> None:
        for target in targets:
            number = self._targets.index(target)
            self._pending[source.name, target.name, "ping"] = time.monotonic()
            try:
                packet = _echo_request(self._identifier, number, self._round)
                self._echoes[source.name].sendto(packet, (target.address, 0))
            except OSError:
                self._done(source.name, target.name, "ping", lambda _: Outcome(Failure.UNREACHABLE))

    def _heard(self, source: Target) -> Callable[[socket.socket], None]:
        def read(sock: socket.socket) -> None:
            packet, (sender, _) = sock.recvfrom(2048)
            icmp = packet[(packet[0] & 0xF) * 4 :]  # a raw socket gets the IP header too, raw(7)
            kind = icmp[0]
            if kind == _UNREACHABLE:  # it quotes our IP header, then 8 bytes of ours
                icmp = icmp[8 + (icmp[8] & 0xF) * 4 :]
            if len(icmp) < _ICMP.size or _ICMP.unpack_from(icmp)[3] != self._identifier:
                return
            target = self._targets[_ICMP.unpack_from(icmp)[4] % len(self._targets)]
            if kind == _UNREACHABLE:
                self._done(source.name, target.name, "ping", lambda _: Outcome(Failure.UNREACHABLE))
            elif icmp[8:12] == self._round.to_bytes(4, "big"):
                failure = None if sender == target.address else Failure.REWRITTEN
                self._done(source.name, target.name, "ping", lambda spent: Outcome(failure, sender, spent))

        return read

    def _connect(self, source: Target, targets: Sequence[Target]) -> None:
        with netns.inside(source.netns):
            sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in targets]
        for sock, target in zip(sockets, targets, strict=True):
            sock.setblocking(False)
            self._pending[source.name, target.name, "tcp"] = time.monotonic()
            error = sock.connect_ex((target.address, self._port))
            if error in (0, errno.EINPROGRESS):
                self._selector.register(sock, selectors.EVENT_READ, _Connection(self, source, target))
            else:
                sock.close()
                failure = _failure(OSError(error, os.strerror(error)))
                self._done(source.name, target.name, "tcp", lambda _, failure=failure: Outcome(failure))  # type: ignore[misc]

    def _forget(self, sock: Any) -> None:
        self._selector.unregister(sock)
        sock.close()


@dataclass(frozen=True, slots=True)
class _Connection:
    """What to do when a connection has an answer, or failed."""

    prober: Prober
    source: Target
    target: Target

    def __call__(self, sock: socket.socket) -> None:
        seen, failure = _read_answer(sock)
        if failure is None and seen != self.source.address:
            failure = Failure.REWRITTEN
        self.prober._forget(sock)
        self.prober._done(self.source.name, self.target.name, "tcp", lambda spent: Outcome(failure, seen, spent))


def tcp_echo(where: str, address: str, port: int = PORT, *, timeout: float = 3.0, source: str = "") -> Outcome:
    """Connect from a namespace to a server of ours. ``source`` is the address to bind, any by default."""
    with netns.open_socket(where) as sock:
        return _ask(sock, address, port, timeout, source)


def udp_echo(where: str, address: str, port: int = PORT, *, timeout: float = 3.0, source: str = "") -> Outcome:
    """As :func:`tcp_echo`, with one datagram. ICMP errors show: the socket is connected, and asks for all of them."""
    with netns.open_socket(where, kind=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)  # else only "port unreachable" is told, ip(7)
        return _ask(sock, address, port, timeout, source)


def _ask(sock: socket.socket, address: str, port: int, timeout: float, source: str) -> Outcome:
    sock.settimeout(timeout)
    sock.bind((source, 0))
    started = time.monotonic()
    try:
        sock.connect((address, port))
        if sock.type == socket.SOCK_DGRAM:
            sock.send(b"who?")
    except OSError as error:
        return Outcome(_failure(error))
    seen, failure = _read_answer(sock)
    return Outcome(failure, seen, time.monotonic() - started)


def _read_answer(sock: socket.socket) -> tuple[str, Failure | None]:
    """(the address that the server saw, how it failed)."""
    try:
        answer = sock.recv(100).decode(errors="replace").split()
    except OSError as error:
        return "", _failure(error)
    if not answer:
        return "", Failure.RESET
    if sock.type == socket.SOCK_STREAM:
        information = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        if struct.unpack_from("=I", information, _TOTAL_RETRANS_OFFSET)[0]:
            return answer[0], Failure.RETRANSMITTED
    return answer[0], None


def _failure(error: OSError) -> Failure:
    if isinstance(error, TimeoutError):
        return Failure.TIMEOUT
    if isinstance(error, ConnectionRefusedError):
        return Failure.REFUSED
    return Failure.RESET if isinstance(error, ConnectionResetError) else Failure.UNREACHABLE


def _servers(where: str, port: int, address: str) -> list[socket.socket]:
    made: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            made.append(sock := netns.open_socket(where, kind=kind))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.setblocking(False)
            if kind == socket.SOCK_STREAM:
                sock.listen(256)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def _answer(sock: Any) -> None:
    """Tell one client who it is. A client that is gone meanwhile is fine."""
    try:
        if sock.type == socket.SOCK_STREAM:
            connection, peer = sock.accept()
            with connection:
                connection.sendall(f"{peer[0]} {peer[1]}\n".encode())
        else:
            _, peer = sock.recvfrom(2048)
            sock.sendto(f"{peer[0]} {peer[1]}\n".encode(), peer)
    except OSError:
        return


def _close_all(selector: selectors.BaseSelector) -> None:
    for key in list(selector.get_map().values()):
        selector.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr]
    selector.close()


def _echo_request(identifier: int, sequence: int, token: int) -> bytes:
    body = token.to_bytes(4, "big")
    words = struct.unpack("!6H", _ICMP.pack(_ECHO_REQUEST, 0, 0, identifier, sequence) + body)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return _ICMP.pack(_ECHO_REQUEST, 0, ~total & 0xFFFF, identifier, sequence) + body
