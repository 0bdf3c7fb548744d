"""Servers that say who is asking, and clients that say how it went, in any network namespace."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType
from typing import Final, Self

from tests.sandbox import netns

__all__ = ["PORT", "Servers", "ping", "tcp", "udp"]

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


def ping(where: str, address: str) -> bool:
    """Whether one echo comes back within two seconds."""
    return netns.run(where, ["ping", "-c1", "-W2", "-n", address], check=False).returncode == 0
