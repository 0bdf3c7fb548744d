"""Servers that say who is asking, and clients that say how it went, in any network namespace."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self

from tests.sandbox import netns

__all__ = ["PORT", "Servers", "tcp", "tcp_all", "udp"]

PORT: Final = 8080


class Servers:
    """TCP and UDP servers, one thread for all. Each answers ``<name> <the client's address>``."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._serve, name="servers")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._wake.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def add(self, where: str, name: str, address: str = "0.0.0.0", port: int = PORT) -> None:
        """Serve TCP and UDP in a namespace."""
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            sock = netns.open_socket(where, kind=kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.setblocking(False)
            if kind == socket.SOCK_STREAM:
                sock.listen(64)
            self._selector.register(sock, selectors.EVENT_READ, name)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock.type == socket.SOCK_STREAM:
                    connection, peer = sock.accept()
                    with connection:
                        connection.sendall(f"{key.data} {peer[0]}".encode())
                else:
                    _, peer = sock.recvfrom(2048)
                    sock.sendto(f"{key.data} {peer[0]}".encode(), peer)


def tcp(where: str, address: str, port: int = PORT, timeout: float = 2.0, source: str = "") -> str:
    """The server's answer, or ``refused``, ``silence``, ``unreachable``."""
    with netns.open_socket(where) as sock:
        sock.settimeout(timeout)
        sock.bind((source, 0))
        try:
            sock.connect((address, port))
            return sock.recv(100).decode()
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silence"
        except OSError as error:
            return f"unreachable ({error.strerror})"


def tcp_all(where: str, addresses: Iterable[str], port: int = PORT, timeout: float = 5.0) -> dict[str, str]:
    """Connect to each address at once from a namespace. Address → the answer, or as :func:`tcp`.

    The time-out is above TCP's first retransmission (1 s, RFC 6298), so that a lost SYN shows as slow, not as silence.
    """
    answers: dict[str, str] = {}
    with selectors.DefaultSelector() as selector:
        with netns.inside(where):
            for address in addresses:
                sock = socket.socket()
                sock.setblocking(False)
                if (error := sock.connect_ex((address, port))) in (0, errno.EINPROGRESS):
                    selector.register(sock, selectors.EVENT_READ, address)
                else:
                    answers[address] = f"unreachable ({os.strerror(error)})"
                    sock.close()
        deadline = time.monotonic() + timeout
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                answers[key.data] = _answer(key.fileobj)
                selector.unregister(key.fileobj)
        for key in list(selector.get_map().values()):
            answers[key.data] = "silence"
            key.fileobj.close()  # type: ignore[union-attr]
    return answers


def _answer(sock: Any) -> str:
    with sock:
        try:
            return str(sock.recv(100), "ascii") or "closed"
        except ConnectionRefusedError:
            return "refused"
        except OSError as error:
            return f"unreachable ({error.strerror})"


def udp(where: str, address: str, port: int = PORT, timeout: float = 2.0, source: str = "") -> str:
    """As :func:`tcp`, over UDP. The socket is connected, so ICMP errors come back as ``refused``."""
    with netns.open_socket(where, kind=socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.bind((source, 0))
        try:
            sock.connect((address, port))
            sock.send(b"who am I?")
            return sock.recv(100).decode()
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silence"
        except OSError as error:
            return f"unreachable ({error.strerror})"
