"""Connectivity between all pairs, measured strictly: the first packet must pass, and servers see the true client.

One process and one thread hold sockets in many network namespaces at once (a socket stays where it was made), so all
ordered pairs of 50 pods take a second or two. Nothing is retried; see :mod:`tests.sandbox.echo`.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Self

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
from tests.sandbox.ping import echo_request, icmp_socket, parse

__all__ = ["PORT", "EchoServers", "Failure", "Matrix", "Outcome", "Prober", "Target", "tcp_echo", "udp_echo"]


@dataclass(frozen=True, slots=True)
class Target:
    """One end: a pod, or anything with an address in a namespace. All targets of a prober are of one family."""

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
            f"{source} → {target}: {kind} {outcome.failure}{_details(outcome)}"
            for (source, target), kinds in self.outcomes.items()
            for kind, outcome in kinds.items()
            if not outcome.ok
        ]


def _details(outcome: Outcome) -> str:
    said = [outcome.server and f"by {outcome.server}", outcome.seen and f"seen as {outcome.seen}"]
    return f" ({', '.join(filter(None, said))})" if any(said) else ""


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
                    self._selector.register(server, selectors.EVENT_READ, partial(answer, name=target.name))
                echo = icmp_socket(target.netns, netns.family_of(target.address))
                self._selector.register(echo, selectors.EVENT_READ, self._heard(target))
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

    def _done(self, source: str, target: str, kind: str, outcome: Outcome) -> None:
        started = self._pending.pop((source, target, kind), None)
        if started is not None:
            self._set(source, target, kind, replace(outcome, seconds=time.monotonic() - started))

    def _ping(self, source: Target, targets: Sequence[Target]) -> None:
        for target in targets:
            number = self._targets.index(target)
            self._pending[source.name, target.name, "ping"] = time.monotonic()
            try:
                family = netns.family_of(target.address)
                packet = echo_request(self._identifier, number, self._round.to_bytes(4, "big"), family)
                self._echoes[source.name].sendto(packet, (target.address, 0))
            except OSError as error:
                self._done(source.name, target.name, "ping", Outcome(failure_of(error)))

    def _heard(self, source: Target) -> Callable[[socket.socket], None]:
        def read(sock: socket.socket) -> None:
            heard = parse(*sock.recvfrom(2048), sock.family)
            if heard is None or heard.identifier != self._identifier:
                return
            if not self._round.to_bytes(4, "big").startswith(heard.body[:4]):  # an error may quote less
                return
            target, failure = self._targets[heard.sequence % len(self._targets)], heard.failure
            if failure is None and heard.sender != target.address:
                failure = Failure.REWRITTEN
            self._done(source.name, target.name, "ping", Outcome(failure, server=heard.sender, mtu=heard.mtu))

        return read

    def _connect(self, source: Target, targets: Sequence[Target]) -> None:
        with netns.inside(source.netns):
            sockets = [socket.socket(netns.family_of(t.address), socket.SOCK_STREAM) for t in targets]
        for sock, target in zip(sockets, targets, strict=True):
            sock.setblocking(False)
            self._pending[source.name, target.name, "tcp"] = time.monotonic()
            error = sock.connect_ex((target.address, self._port))
            if error in (0, errno.EINPROGRESS):
                self._selector.register(sock, selectors.EVENT_READ, _Connection(self, source, target))
            else:
                sock.close()
                failure = failure_of(OSError(error, os.strerror(error)))
                self._done(source.name, target.name, "tcp", Outcome(failure))

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
        outcome = read_answer(sock)
        if outcome.ok and outcome.server != self.target.name:
            outcome = replace(outcome, failure=Failure.ANOTHER)
        if outcome.ok and outcome.seen != self.source.address:
            outcome = replace(outcome, failure=Failure.REWRITTEN)
        self.prober._forget(sock)
        self.prober._done(self.source.name, self.target.name, "tcp", outcome)
