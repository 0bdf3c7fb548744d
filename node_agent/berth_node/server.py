"""The plugin's socket: SOCK_SEQPACKET, mode 0600, one request per connection."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from berth_node import eager, front, skel, wire
from berth_node.hand import Hand
from berth_node.measures import COMMANDS, FAILED, HUNG_UP, OK, outcome_of
from berth_node.metrics import Histogram
from berth_node.requests import check_call_netns
from berth_node.skel import Call, CniError
from berth_node.sockets import bound
from berth_node.verbs import Verbs
from berth_node.wire import Request, WireError, receive_request, send_answer

__all__ = ["Server"]

_log = logging.getLogger(__name__)
_BACKLOG: Final = 512  # a node's whole burst of pods at once
_AT_ONCE: Final = 16
"""Connections taken in one turn of the event loop: others have work to do in it, too."""
_PAUSE: Final = 0.1
"""Seconds until a connection is asked for again that could not be taken."""
_MOMENT: Final = 0.0004
"""Seconds that a request is awaited without letting the processor sleep: plugins connect before they have put it
together, to wake the agent meanwhile. Longer ones wait in epoll, which costs about as much."""
_ALONE: Final = 0.002
"""Seconds since the last connection, after which nobody else is kept waiting by that."""
_WATCH_AFTER: Final = 0.05
"""Seconds after which a hang-up is watched for. Sooner, sending the answer tells (EPIPE): most requests are over by
then, and need no entry in epoll."""


class _Peer:
    """A plugin that waits. ``gone`` is set when it has hung up, once it has waited for :data:`_WATCH_AFTER`.

    ``asked``: its request has come. Until then, readable means something else.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.gone, self.asked = connection, asyncio.Event(), False
        self.hand: Hand | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._timer:
            self._timer.cancel()
            asyncio.get_running_loop().remove_reader(self.connection)
        self.connection.close()

    def watch_soon(self) -> None:
        """It was not served at once."""
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER, self._watch)

    def _watch(self) -> None:
        if not self.asked or (self.hand and self.hand.waits):
            self.watch_soon()
            return
        # a plugin sends nothing after its request: readable means that it closed
        asyncio.get_running_loop().add_reader(self.connection, self._hang_up)

    def _hang_up(self) -> None:
        asyncio.get_running_loop().remove_reader(self.connection)
        self.gone.set()


class Server:
    """Accepts connections and serves each at once; what has to wait becomes a task. A hang-up is noticed meanwhile."""

    def __init__(self, path: Path, verbs: Verbs, requests: Histogram) -> None:
        """``requests`` takes in each request's seconds, command and outcome."""
        self._path, self._verbs, self._requests = path, verbs, requests
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._last = 0.0

    def open(self) -> None:
        """Start listening."""
        listener = bound(self._path, socket.SOCK_SEQPACKET, _BACKLOG)
        self._listener = listener
        self._hear(listener)

    def _hear(self, listener: socket.socket) -> None:
        door = front.front_door()
        if door:
            door.open(listener, self._accept)
        else:
            asyncio.get_running_loop().add_reader(listener, self._accept)

    def _hear_no_more(self, listener: socket.socket) -> None:
        door = front.front_door()
        if door:
            door.shut()
        else:
            asyncio.get_running_loop().remove_reader(listener)

    async def close(self, grace: float = 5.0) -> None:
        """Stop accepting, let requests finish for a moment, then drop them: their plugins ask the next agent."""
        if self._listener:
            self._path.unlink(missing_ok=True)
            self._hear_no_more(self._listener)
            self._listener.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        if self._listener is None:
            return
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._pause(self._listener, error)
                return
            connection.setblocking(False)
            peer, now = _Peer(connection), time.perf_counter()
            alone, self._last = now - self._last > _ALONE, now
            task = eager.begin(self._serve(peer, now, now + _MOMENT if alone else now))
            if task:
                peer.watch_soon()
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """No descriptor is left, say: the connection stays where it is, and is asked for again a little later."""
        _log.warning("a connection cannot be taken", extra={"why": str(error)})
        self._hear_no_more(listener)
        asyncio.get_running_loop().call_later(_PAUSE, self._go_on)

    def _go_on(self) -> None:
        if self._listener and self._listener.fileno() >= 0:
            self._hear(self._listener)

    async def _serve(self, peer: _Peer, since: float, awake_until: float) -> None:
        with peer:
            try:
                request = await _receive(peer.connection, awake_until)
            except (WireError, OSError) as error:
                _log.warning("a request that cannot be read", extra={"why": str(error)})
                body = skel.error_body(CniError(skel.DECODING_FAILURE, f"plugin and agent do not match: {error}"))
                _send(peer.connection, 1, skel.encode(body))
                return
            if request is None:
                return
            peer.asked = True
            try:
                outcome = await self._answer(peer, request)
            finally:
                request.close()
            command = request.environment.get("CNI_COMMAND", "")
            self._requests.observe(time.perf_counter() - since, command if command in COMMANDS else "other", outcome)

    async def _answer(self, peer: _Peer, request: Request) -> str:
        """Answer, and say for the metrics what came of it."""
        connection, short = peer.connection, wire.takes_short(request)
        answered = False

        def reply(body: dict[str, Any] | None) -> bool:
            nonlocal answered
            answered = _send(connection, 0, skel.encode(body) if body is not None else b"", short=short)
            return answered

        call: Call | None = None
        try:
            call = skel.read_call(request)
            check_call_netns(call, request.netns_fd, request.netns_errno)
            pair = wire.pair_of(request)
            hand = peer.hand = Hand(connection, pair) if pair else None
            await self._verbs.run(call, request.netns_fd, peer.gone, reply, hand)
            return OK if answered or (hand and hand.done) else HUNG_UP
        except CniError as error:
            command = request.environment.get("CNI_COMMAND", "")
            level = logging.DEBUG if error.code == skel.NOT_AVAILABLE else logging.WARNING
            _log.log(level, "request refused", extra={"command": command, "code": error.code, "why": str(error)})
            _send(connection, 1, skel.encode(skel.error_body(error, call.version if call else skel.VERSIONS[-1])))
            return outcome_of(error.code)
        except Exception as error:
            _log.exception("request failed")
            body = skel.error_body(CniError(999, f"berth: {type(error).__name__}: {error}"))
            _send(connection, 1, skel.encode(body))
            return FAILED


async def _receive(connection: socket.socket, awake_until: float) -> Request | None:
    """The request is nearly always there already, or will be in a moment."""
    while True:
        try:
            return receive_request(connection)
        except BlockingIOError:
            if time.perf_counter() < awake_until:
                continue
            loop = asyncio.get_running_loop()
            readable = asyncio.Event()
            loop.add_reader(connection.fileno(), readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection.fileno())


def _send(connection: socket.socket, code: int, output: bytes, *, short: bool = False) -> bool:
    try:
        send_answer(connection, code, output, short=short)
    except OSError:
        return False
    return True
