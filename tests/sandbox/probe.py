"""Connectivity between all pairs, measured strictly: the first packet must pass, and servers see the true client.

One process and one thread hold sockets in many network namespaces at once (a socket stays where it was made), so all
ordered pairs of 50 pods take a second or two. Nothing is retried; see :mod:`tests.sandbox.echo`.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from tests.sandbox import netns
from tests.sandbox.echo import (
    PORT,
    EchoServers,
    Failure,
    Outcome,
    answer,
    close_all,
    failure_of,
    open_servers,
    read_answer,
    tcp_echo,
    udp_echo,
)

__all__ = ["PORT", "EchoServers", "Failure", "Matrix", "Outcome", "Prober", "Target", "tcp_echo", "udp_echo"]

_SOL_RAW, _ICMP_FILTER = 255, 1  # linux/socket.h, linux/icmp.h; a set bit of the filter hides that type
_ECHO_REPLY, _UNREACHABLE, _ECHO_REQUEST = 0, 3, 8
_ICMP: Final = struct.Struct("!BBHHH")


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
                for server in open_servers(target.netns, self._port, target.address):
                    self._selector.register(server, selectors.EVENT_READ, answer)
                echo = netns.open_socket(target.netns, kind=socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP)
                self._selector.register(echo, selectors.EVENT_READ, self._heard(target))
                hidden = 0xFFFFFFFF & ~(1 << _ECHO_REPLY | 1 << _UNREACHABLE)
                echo.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", hidden))
                echo.setblocking(False)
                self._echoes[target.name] = echo
        except BaseException:
            close_all(self._selector)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        close_all(self._selector)

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
                failure = failure_of(OSError(error, os.strerror(error)))
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
        seen, failure = read_answer(sock)
        if failure is None and seen != self.source.address:
            failure = Failure.REWRITTEN
        self.prober._forget(sock)
        self.prober._done(self.source.name, self.target.name, "tcp", lambda spent: Outcome(failure, seen, spent))


def _echo_request(identifier: int, sequence: int, token: int) -> bytes:
    body = token.to_bytes(4, "big")
    words = struct.unpack("!6H", _ICMP.pack(_ECHO_REQUEST, 0, 0, identifier, sequence) + body)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return _ICMP.pack(_ECHO_REQUEST, 0, ~total & 0xFFFF, identifier, sequence) + body
