"""The HTTP side: threaded listeners with keep-alive, on an address, a passed socket, or inside a network namespace."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from typing import Any, Final

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import ThreadedWSGIServer

from tests.sandbox import netns

from .callers import WsgiApp, call_app

__all__ = ["LISTENER", "LOOPBACK", "NETWORK", "Server", "moto_app"]

LISTENER: Final = "berth.listener"
"""The environ key that says how a request came in: ``loopback`` (the sandbox's own) or ``network`` (a namespace)."""
LOOPBACK: Final = "loopback"
NETWORK: Final = "network"

_BACKLOG: Final = 256


def moto_app() -> WsgiApp:
    """moto's dispatcher of requests to services."""
    app: WsgiApp = DomainDispatcherApplication(create_backend_app)
    return app


class _Handler(MotoRequestHandler):
    """werkzeug's own run_wsgi closes each connection. This one reads the whole body first, so it need not."""

    protocol_version = "HTTP/1.1"
    # Answers are small: with Nagle's algorithm each would wait for the client's delayed ACK, 40 ms
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 300

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass

    def handle_expect_100(self) -> bool:
        """S3 clients wait a second for this before they send the body; it must not stay in the buffer."""
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    def run_wsgi(self) -> None:
        environ: dict[str, Any] = self.make_environ()
        if environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read()  # chunked
            del environ["wsgi.input_terminated"], environ["HTTP_TRANSFER_ENCODING"]
        else:
            body = self.rfile.read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ[LISTENER] = getattr(self.server, "listener", NETWORK)
        try:
            answer = call_app(self.server.app, environ)
        except Exception as error:
            self.log_error("request failed: %r", error)
            self.send_error(500, "InternalFailure", repr(error))
            return
        self._send(answer.status, answer.headers, answer.body)

    def _send(self, status: int, headers: tuple[tuple[str, str], ...], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        head = self.command == "HEAD"
        length = next((v for n, v in headers if head and n.lower() == "content-length"), str(len(body)))
        if status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        if not head:
            self.wfile.write(body)
        self.wfile.flush()


class _HttpServer(ThreadedWSGIServer):
    daemon_threads = True
    block_on_close = False
    listener = LOOPBACK

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that has hung up is no error of ours, nor is one that was hung up on."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Server:
    """Serves one WSGI application on any number of sockets. ``close`` ends all of them."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app
        self._servers: list[tuple[_HttpServer, threading.Thread]] = []

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen on an address of the process's own network and return the port. ``OSError`` if it is taken."""
        return self._serve(_listening(host, port), LOOPBACK)

    def listen_fd(self, fd: int, listener: str | None = None) -> int:
        """Listen on a bound socket that someone else made. The descriptor is duplicated, not kept.

        A socket on a loopback address is taken for the sandbox's own, unless ``listener`` says otherwise.
        """
        sock = socket.socket(fileno=os.dup(fd))
        own = str(sock.getsockname()[0]).startswith("127.")
        return self._serve(sock, listener or (LOOPBACK if own else NETWORK))

    def listen_in(self, where: str, host: str, port: int) -> int:
        """Listen on an address inside a named network namespace: a socket stays where it was made."""
        with netns.inside(where):
            sock = _listening(host, port)
        return self._serve(sock, NETWORK)

    def close(self) -> None:
        """Stop accepting. Requests being served end by themselves."""
        for server, thread in self._servers:
            server.shutdown()
            server.server_close()
            thread.join(timeout=5)
        self._servers.clear()

    def _serve(self, sock: socket.socket, listener: str) -> int:
        sock.listen(_BACKLOG)
        host, port = sock.getsockname()[:2]
        server = _HttpServer(host, port, self._app, _Handler, fd=sock.fileno())
        sock.close()  # the server made a duplicate
        server.listener = listener
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name=f"api-{host}:{port}", daemon=True)
        thread.start()
        self._servers.append((server, thread))
        return int(port)


def _listening(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
