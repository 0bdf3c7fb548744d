"""The Lambda Runtime API of one execution environment (Lambda developer guide, "Using the Lambda runtime API")."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

__all__ = ["Invocation", "RuntimeApi"]

_PREFIX: Final = "/2018-06-01/runtime/"


@dataclass(slots=True)
class Invocation:
    """One event on its way through an environment. ``result`` gets (is an error, JSON text) once."""

    id: str
    event: bytes
    function_arn: str
    timeout: float
    started: threading.Event = field(default_factory=threading.Event)
    result: queue.Queue[tuple[bool, str]] = field(default_factory=queue.Queue)


class RuntimeApi:
    """Serves ``next``, ``response`` and ``error`` on a loopback port. ``init_error`` is what the start reported."""

    def __init__(self) -> None:
        self.init_error: str | None = None
        self.ready = threading.Event()
        self._inbox: queue.Queue[Invocation | None] = queue.Queue()
        self._open: dict[str, Invocation] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="lambda-runtime-api", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def put(self, invocation: Invocation) -> None:
        """Give the environment its next event."""
        self._inbox.put(invocation)

    def close(self) -> None:
        self._inbox.put(None)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def next(self) -> Invocation | None:
        """Block until there is an event. The first call says that initialization is over."""
        self.ready.set()
        invocation = self._inbox.get()
        if invocation:
            self._open[invocation.id] = invocation
            invocation.started.set()
        return invocation

    def post(self, path: str, body: str) -> None:
        """Take a response or an error."""
        if path == "init/error":
            self.init_error = body
            self.ready.set()
            return
        _, request_id, kind = path.split("/")
        invocation = self._open.pop(request_id, None)
        if invocation:
            invocation.result.put((kind == "error", body))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    api: RuntimeApi


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        invocation = self.server.api.next()
        if invocation is None:
            self.close_connection = True
            return
        deadline = int((time.time() + invocation.timeout) * 1000)
        self._answer(
            200,
            invocation.event,
            ("Lambda-Runtime-Aws-Request-Id", invocation.id),
            ("Lambda-Runtime-Deadline-Ms", str(deadline)),
            ("Lambda-Runtime-Invoked-Function-Arn", invocation.function_arn),
            ("Content-Type", "application/json"),
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.api.post(self.path.removeprefix(_PREFIX), body.decode(errors="replace"))
        self._answer(202, b'{"status":"OK"}', ("Content-Type", "application/json"))

    def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the environment was killed
