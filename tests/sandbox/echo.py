"""Echo servers and single probes in any network namespace. Servers say whom they saw, and their name.

Nothing is retried, and a TCP connection whose SYN had to be repeated counts as failed: a lost first packet is a bug of
the data path that TCP would hide (the kernel tells by ``tcpi_total_retrans``, tcp(7) TCP_INFO).
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self

from tests.sandbox import netns

__all__ = ["PORT", "EchoServers", "Failure", "Outcome", "tcp_echo", "udp_echo"]

PORT: Final = 7007
_IP_PKTINFO, _IP_RECVERR = 8, 11
_IPV6_RECVERR: Final = 25
_TOTAL_RETRANS_OFFSET: Final = 100  # struct tcp_info: 8 bytes, then 32-bit counters (linux/tcp.h)


class Failure(StrEnum):
    """How a probe failed."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    RETRANSMITTED = "retransmitted"
    REWRITTEN = "rewritten"
    ANOTHER = "answered by another"
    TOO_BIG = "too big"
    EXPIRED = "time exceeded"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``seen`` is the client's address as the server saw it ("" for ping); ``seconds`` until the answer.

    ``server`` is the name that the server was given, or the address that a ping heard from; ``mtu`` is for pings alone.
    """

    failure: Failure | None = None
    seen: str = ""
    seconds: float = 0.0
    server: str = ""
    mtu: int = 0

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def told(self) -> str:
        """``<server> <client's address as seen>``, or how it failed: one text to compare and to show."""
        return f"{self.server} {self.seen}".strip() if self.ok else str(self.failure)


class EchoServers:
    """TCP and UDP servers in any namespaces, all in one thread; a context manager."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, "")
        self._thread = threading.Thread(target=self._serve, name="echo-servers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._wake.close()
        self._thread.join()
        close_all(self._selector)

    def add(self, where: str, port: int = PORT, address: str = "", *, name: str = "") -> None:
        """Serve TCP and UDP in a namespace; ``address`` is ``""`` for any of IPv4, ``::`` for any of IPv6.

        ``name`` is told to clients. Raises OSError when the port is taken.
        """
        for sock in open_servers(where, port, address):
            self._selector.register(sock, selectors.EVENT_READ, name)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                answer(key.fileobj, key.data)


def tcp_echo(where: str, address: str, port: int = PORT, *, timeout: float = 3.0, source: str = "") -> Outcome:
    """Connect from a namespace to a server of ours. ``source`` is the address to bind, any by default."""
    with netns.open_socket(where, netns.family_of(address)) as sock:
        return _ask(sock, address, port, timeout, source)


def udp_echo(where: str, address: str, port: int = PORT, *, timeout: float = 3.0, source: str = "") -> Outcome:
    """As :func:`tcp_echo`, with one datagram. ICMP errors show: the socket is connected, and asks for all of them."""
    with netns.open_socket(where, netns.family_of(address), socket.SOCK_DGRAM) as sock:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
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
        return Outcome(failure_of(error))
    return replace(read_answer(sock), seconds=time.monotonic() - started)


def read_answer(sock: socket.socket) -> Outcome:
    """What came of a connection; how long it took is left out."""
    try:
        words = sock.recv(200).decode(errors="replace").split()
    except OSError as error:
        return Outcome(failure_of(error))
    if not words:
        return Outcome(Failure.RESET)
    failure = None
    if sock.type == socket.SOCK_STREAM:
        information = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        if struct.unpack_from("=I", information, _TOTAL_RETRANS_OFFSET)[0]:
            failure = Failure.RETRANSMITTED
    return Outcome(failure, words[0], server=" ".join(words[2:]))


def failure_of(error: OSError) -> Failure:
    """An error of connect(2), send(2) or recv(2) by its kind."""
    if isinstance(error, TimeoutError):
        return Failure.TIMEOUT
    if isinstance(error, ConnectionRefusedError):
        return Failure.REFUSED
    if error.errno == errno.EMSGSIZE:
        return Failure.TOO_BIG
    return Failure.RESET if isinstance(error, ConnectionResetError) else Failure.UNREACHABLE


def open_servers(where: str, port: int, address: str) -> list[socket.socket]:
    """A listener and a UDP socket in a namespace, both non-blocking. ``address`` is as in :meth:`EchoServers.add`."""
    made: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            made.append(sock := netns.open_socket(where, netns.family_of(address), kind))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:  # the port stays free for a server of IPv4
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            sock.setblocking(False)
            if kind == socket.SOCK_STREAM:
                sock.listen(256)
            elif sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def answer(sock: Any, name: str = "") -> None:
    """Tell one client ``<its address> <its port> <name>``. A client that is gone meanwhile is fine."""
    try:
        if sock.type == socket.SOCK_STREAM:
            connection, peer = sock.accept()
            with connection:
                connection.sendall(f"{peer[0]} {peer[1]} {name}\n".encode())
        else:
            _, ancillary, _, peer = sock.recvmsg(2048, 64)
            sock.sendmsg([f"{peer[0]} {peer[1]} {name}\n".encode()], _from_where_it_went(ancillary), 0, peer)
    except OSError:
        return


def _from_where_it_went(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Answer from the address that was asked, not from the one that the route back prefers (a node has several)."""
    found = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            found.append((level, kind, struct.pack("=I4s4s", 0, data[8:12], bytes(4))))  # struct in_pktinfo, ip(7)
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            found.append((level, kind, data[:16] + bytes(4)))  # struct in6_pktinfo, ipv6(7)
    return found


def close_all(selector: selectors.BaseSelector) -> None:
    """Close a selector and all that is registered with it."""
    for key in list(selector.get_map().values()):
        selector.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr]
    selector.close()
