"""The instance metadata service, version 2, for all instances of the sandbox.

It listens in the VPC's router at 169.254.169.254:80 and knows an instance by the address that a request comes from.
Rules (EC2 user guide, "Use the Instance Metadata Service"): ``PUT /latest/api/token`` with a lifetime of 1 to 21600 s
gives a token, bound to the instance; a PUT with X-Forwarded-For, or to a path with a version, is forbidden; a GET
without a valid token is 401, since version 1 is off (``HttpTokens=required``).

The answer to a PUT leaves with the instance's hop limit as IP TTL: with the default of 1 it reaches the instance and
dies on the way to a pod. What an instance sees of its interfaces may lag behind: AWS gives no figure.

Not here: throttling (AWS publishes no numbers), the IPv6 address, signatures of the identity document.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any, Final, Self

from tests.sandbox import netns
from tests.sandbox.imds_tree import VERSIONS, metadata_tree, resolve
from tests.sandbox.world import Eni, Instance, World

__all__ = ["ADDRESS", "Imds", "Tokens", "Views"]

ADDRESS: Final = ("169.254.169.254", 80)
MAX_TOKEN_SECONDS: Final = 21600
_TTL_HEADER: Final = "X-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_HEADER: Final = "X-aws-ec2-metadata-token"
_DEFAULT_TTL: Final = 64
_POLL_SECONDS: Final = 0.05
_ANSWERING: Final = frozenset({"pending", "running", "stopping", "shutting-down"})
_ERROR_PAGE: Final = """<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
\t"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>{0} - {1}</title>
 </head>
 <body>
  <h1>{0} - {1}</h1>
 </body>
</html>
"""
_log = logging.getLogger(__name__)


class Tokens:
    """Session tokens: valid for one instance and for so many seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._issued: dict[str, tuple[str, float]] = {}

    def issue(self, instance_id: str, seconds: int) -> str:
        now = self._clock()
        token = secrets.token_urlsafe(41) + "=="
        with self._lock:
            self._issued = {t: entry for t, entry in self._issued.items() if entry[1] > now}
            self._issued[token] = (instance_id, now + seconds)
        return token

    def remaining(self, instance_id: str, token: str) -> int | None:
        """Seconds that the token is still good for, or None if it is not, or not this instance's."""
        with self._lock:
            owner, expires = self._issued.get(token, ("", 0.0))
        left = expires - self._clock()
        return int(left) if owner == instance_id and left > 0 else None


class Views:
    """Remembers worlds, so that an instance can be shown its interfaces as they were ``lag_seconds`` ago.

    An instance that is younger than that sees what it booted with.
    """

    def __init__(self, lag_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lag = lag_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, World]] = deque()

    def observe(self, world: World) -> None:
        """To be called with each new world, as soon as there is one; an unchanged one costs a comparison."""
        with self._lock:
            now = self._clock()
            if not self._seen or (self._seen[-1][1] is not world and self._seen[-1][1] != world):
                self._seen.append((now, world))
            while len(self._seen) > 1 and self._seen[1][0] <= now - self._lag:
                self._seen.popleft()

    def of(self, instance_id: str) -> World:
        """The world whose interfaces the instance is to see now."""
        with self._lock:
            now = self._clock()
            settled = [world for at, world in self._seen if at <= now - self._lag]
            worlds = [*settled[-1:], *(world for at, world in self._seen if at > now - self._lag)]
        return next((world for world in worlds if world.enis_of(instance_id)), worlds[-1] if worlds else World())


def _owners(world: World) -> Mapping[str, Instance]:
    """Each address that an instance may send from, and the instance."""
    answering = {i.id: i for i in world.instances if i.state in _ANSWERING}
    attached = ((e, answering[e.instance_id]) for e in world.enis if e.instance_id in answering)
    return {address: instance for eni, instance in attached for address in _addresses(eni)}


def _addresses(eni: Eni) -> Iterable[str]:
    yield from eni.addresses
    for prefix in eni.prefixes:
        yield from map(str, ip_network(prefix))


class Imds:
    """The service. ``snapshot`` gives the newest world and must be cheap: it is polled 20 times a second.

    ``credentials`` gives an instance's role session: AccessKeyId, SecretAccessKey, Token, Expiration (ISO 8601, UTC).
    The namespace ``vpc`` must be there, with the service's address in it (``Fabric.start``).
    """

    def __init__(
        self,
        snapshot: Callable[[], World],
        credentials: Callable[[Instance], Mapping[str, str]],
        lag_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._snapshot = snapshot
        self._credentials = credentials
        self._views = Views(lag_seconds, clock)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server: _Server | None = None
        self._index: tuple[World, Mapping[str, Instance]] = (World(), {})
        self.tokens = Tokens(clock)

    def start(self) -> None:
        """Listens. Raises FileNotFoundError if there is no namespace ``vpc``."""
        self.observe()
        self._server = _Server(self, netns.open_socket("vpc"))
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.1,), name="imds", daemon=True),
            threading.Thread(target=self._poll, name="imds-poll", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stops listening; safe to repeat."""
        self._stopping.set()
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for thread in self._threads:
            thread.join()
        self._threads = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def observe(self) -> World:
        """Takes note of the newest world now, rather than at the next poll."""
        world = self._snapshot()
        self._views.observe(world)
        return world

    def _poll(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            self.observe()

    def instance_at(self, address: str) -> Instance | None:
        """The instance that sends from ``address``."""
        world = self.observe()
        known, owners = self._index
        if known is not world:
            owners = _owners(world)
            self._index = (world, owners)
        return owners.get(address)

    def text(self, instance: Instance, path: str) -> str | None:
        """What ``path`` holds for the instance, or None for 404."""
        if path == "/":
            return "\n".join(VERSIONS)
        version, _, rest = path.removeprefix("/").partition("/")
        if version not in VERSIONS:
            return None
        world = self._views.of(instance.id)
        tree = metadata_tree(instance, world, lambda: self._credentials(instance), datetime.now(UTC))
        return resolve(tree, f"/{rest}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, imds: Imds, listener: socket.socket) -> None:
        super().__init__(ADDRESS, _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.imds = imds
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(ADDRESS)
            self.server_activate()
        except OSError:
            self.server_close()
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a client of instance metadata at %s went away", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "EC2ws"
    sys_version = ""
    timeout = 30
    disable_nagle_algorithm = True
    server: _Server

    def _instance(self) -> Instance | None:
        found = self.server.imds.instance_at(self.client_address[0])
        if found is None:
            self.close_connection = True  # whoever it is, there is nothing to tell
        return found

    def do_GET(self) -> None:
        instance = self._instance()
        if instance is None:
            return
        token = self.headers.get(_TOKEN_HEADER, "")
        left = self.server.imds.tokens.remaining(instance.id, token)
        if left is None:
            self._refuse(HTTPStatus.UNAUTHORIZED)
            return
        text = self.server.imds.text(instance, self.path.partition("?")[0])
        if text is None:
            self._refuse(HTTPStatus.NOT_FOUND)
        else:
            self._answer(HTTPStatus.OK, text, {_TTL_HEADER: str(left)})

    def do_PUT(self) -> None:
        instance = self._instance()
        if instance is None:
            return
        seconds = self.headers.get(_TTL_HEADER, "").strip()
        if self.headers.get("Content-Length", "0") != "0":
            self.close_connection = True  # the body is not read
        if self.path != "/latest/api/token" or "X-Forwarded-For" in self.headers:
            self._refuse(HTTPStatus.FORBIDDEN, instance.hop_limit)
        elif not (seconds.isascii() and seconds.isdecimal() and 1 <= int(seconds) <= MAX_TOKEN_SECONDS):
            self._refuse(HTTPStatus.BAD_REQUEST, instance.hop_limit)
        else:
            token = self.server.imds.tokens.issue(instance.id, int(seconds))
            self._answer(HTTPStatus.OK, token, {_TTL_HEADER: str(int(seconds))}, instance.hop_limit)

    def _refuse(self, status: HTTPStatus, hop_limit: int = _DEFAULT_TTL) -> None:
        self._answer(status, _ERROR_PAGE.format(status.value, status.phrase), {}, hop_limit, "text/html")

    def _answer(
        self,
        status: HTTPStatus,
        text: str,
        headers: Mapping[str, str],
        hop_limit: int = _DEFAULT_TTL,
        kind: str = "text/plain",
    ) -> None:
        """Sends the answer with ``hop_limit`` as IP TTL."""
        body = text.encode()
        self.connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hop_limit)
        self.send_response(status)
        for name, value in {**headers, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("%s %s", self.client_address[0], format % args)
