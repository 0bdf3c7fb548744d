"""The agent's small HTTP server: ``/metrics``, ``/healthz``, ``/readyz``, for Prometheus and kubelet.

It runs in the event loop beside the pods' requests, so everything about it is bounded: a request's size and time, and
how many are served at once. It reads only, knows GET and HEAD, and closes after one answer. What it tells is no secret,
but counts pods, so it listens on loopback unless told otherwise.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from berth_node.sockets import bound

__all__ = ["Answer", "HttpServer", "listen_address"]

_log = logging.getLogger(__name__)
_HEAD: Final = 8192  # bytes of request line and headers
_SECONDS: Final = 5.0  # for a whole exchange
_AT_ONCE: Final = 16
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    body: str
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


Page = Callable[[], Awaitable[Answer]]


def listen_address(text: str) -> Path | tuple[str, int] | None:
    """``host:port``, ``[v6]:port``, the path of a unix socket, or nothing ("" is off). Raises ValueError.

    Only literal addresses: a name could be resolved to another one at each start.
    """
    if not text:
        return None
    if text.startswith("/"):
        return Path(text)
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise ValueError('expected "ADDRESS:PORT" such as "127.0.0.1:61678", the path of a unix socket, or "" for none')
    return host, number


class HttpServer:
    """Serves ``pages`` (path to page) at ``where``; see :func:`listen_address`. A unix socket has mode 0600."""

    def __init__(self, where: Path | tuple[str, int], pages: Mapping[str, Page]) -> None:
        self._where, self._pages = where, pages
        self._serving = 0

    async def run(self, server: asyncio.Server) -> None:
        """Serve what :meth:`open` gave, until cancelled."""
        try:
            async with server:
                await server.serve_forever()
        finally:
            if isinstance(self._where, Path):
                self._where.unlink(missing_ok=True)

    async def open(self) -> asyncio.Server:
        """Listen. Raises ``OSError`` if it cannot listen there."""
        if not isinstance(self._where, Path):
            return await asyncio.start_server(self._serve, *self._where, limit=_HEAD)
        # in place of a killed agent's: the agent's lock says that none lives
        return await asyncio.start_unix_server(self._serve, sock=bound(self._where), limit=_HEAD)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._serving >= _AT_ONCE:
            writer.close()
            return
        self._serving += 1
        try:
            async with asyncio.timeout(_SECONDS):
                method, answer = await self._answer(reader)
                writer.write(_encode(answer, body=method != "HEAD"))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.CancelledError):
            return  # cancelled when the agent stops; Python 3.11's streams would log that as an error
        finally:
            self._serving -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, Answer]:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return "GET", Answer("not an HTTP request, or a header of more than 8 KB\n", 400)
        parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return "GET", Answer("not an HTTP/1 request\n", 400)
        method, target = parts[0], parts[1].partition("?")[0]
        page = self._pages.get(target)
        if page is None:
            return method, Answer(f"there are {', '.join(sorted(self._pages))}\n", 404)
        if method not in ("GET", "HEAD"):
            return "GET", Answer("only GET and HEAD\n", 405)
        try:
            return method, await page()
        except Exception:
            _log.exception("page failed", extra={"page": target})
            return method, Answer("this page failed; the agent's log says why\n", 500)


def _encode(answer: Answer, *, body: bool) -> bytes:
    content = answer.body.encode()
    head = (
        f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (content if body else b"")
