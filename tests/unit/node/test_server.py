"""The plugin's socket: what is served at once, what waits, and a plugin that takes its time."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from berth_node import front
from berth_node import server as module
from berth_node.hand import Hand
from berth_node.measures import Measures
from berth_node.server import Server
from berth_node.skel import Call
from berth_node.verbs import Reply

_VERSION = b"CNI_COMMAND=VERSION\0\0{}"


class Recorded:
    """Verbs that answer at once, or when told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.hold: asyncio.Event | None = None
        self.hung_up = False
        self.says = "1.1.0"

    async def run(
        self, call: Call, netns_fd: int | None, gone: asyncio.Event, reply: Reply, hand: Hand | None = None
    ) -> None:
        self.calls.append(call.command)
        if self.hold:
            waits = [asyncio.ensure_future(e.wait()) for e in (self.hold, gone)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in waits:
                one.cancel()
            self.hung_up = gone.is_set()
        reply({"cniVersion": self.says})


@contextmanager
def asking(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(str(path))
        peer.setblocking(False)
        yield peer


def send(peer: socket.socket, body: bytes = _VERSION) -> None:
    request = os.memfd_create("request")
    os.write(request, body)
    socket.send_fds(peer, [b"berth/1 0"], [request])
    os.close(request)


async def answered(peer: socket.socket) -> bytes:
    return (await message(peer))[0]


async def message(peer: socket.socket) -> tuple[bytes, bytes | None]:
    """An answer's text, and what its memfd holds if there is one."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(peer, readable.set)
    try:
        async with asyncio.timeout(20):
            await readable.wait()
    finally:
        loop.remove_reader(peer)
    text, received, _, _ = socket.recv_fds(peer, 16384, 1)
    printed = None
    for descriptor in received:
        printed = os.pread(descriptor, 100_000, 0)
        os.close(descriptor)
    return text, printed


@contextmanager
def opened(tmp_path: Path) -> Iterator[tuple[Server, Recorded]]:
    verbs: Any = Recorded()
    made = Server(tmp_path / "cni.sock", verbs, Measures().requests)
    made.open()
    yield made, verbs


def test_a_request_that_needs_not_wait_becomes_no_task(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as (server, verbs), asking(tmp_path / "cni.sock") as peer:
            send(peer)
            server._accept()
            assert (verbs.calls, server._tasks) == (["VERSION"], set())
            assert await answered(peer) == b"berth/1 0"
            await server.close()

    asyncio.run(main())


def test_a_short_answer_is_in_the_message_for_a_plugin_that_takes_it(tmp_path: Path) -> None:
    printed = b'{"cniVersion":"1.1.0"}\n'

    async def main() -> None:
        with opened(tmp_path) as (server, verbs):
            for takes, says, answer in [
                (b"", "1.1.0", (b"berth/1 0", printed)),
                (b"BERTH_TAKES=short\0", "1.1.0", (b"berth/1 0\n" + printed, None)),
                (b"BERTH_TAKES=short\0", "x" * 9000, (b"berth/1 0", printed.replace(b"1.1.0", b"x" * 9000))),
            ]:
                verbs.says = says
                with asking(tmp_path / "cni.sock") as peer:
                    send(peer, takes + _VERSION)
                    server._accept()
                    assert await message(peer) == answer
            await server.close()

    asyncio.run(main())


def test_the_agents_loop_serves_a_connection_within_select_and_outlives_what_that_raises(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as (server, verbs):
            accept, told = server._accept, []

            def broken_first() -> None:
                told.append(asyncio.current_task())
                if len(told) == 1:
                    raise ValueError("a bug")
                accept()

            door: Any = front.front_door()
            door.shut()
            door.open(server._listener, broken_first)
            with asking(tmp_path / "cni.sock") as peer:
                send(peer)
                assert await answered(peer) == b"berth/1 0"
            assert (verbs.calls, told) == (["VERSION"], [None, None])
            await server.close()

    with asyncio.Runner(loop_factory=front.new_loop) as runner:
        runner.run(main())


def test_a_plugin_that_sends_its_request_late_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WATCH_AFTER", 0.0)

    async def main() -> None:
        with opened(tmp_path) as (server, _), asking(tmp_path / "cni.sock") as peer:
            server._accept()
            for _ in range(20):  # hang-ups would be watched for by now, had it asked for something
                await asyncio.sleep(0)
            send(peer)
            assert await answered(peer) == b"berth/1 0"
            await server.close()

    asyncio.run(main())


def test_a_hang_up_is_noticed_while_the_request_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WATCH_AFTER", 0.0)

    async def main() -> bool:
        with opened(tmp_path) as (server, verbs):
            verbs.hold = asyncio.Event()
            with asking(tmp_path / "cni.sock") as peer:
                send(peer)
                server._accept()
                (task,) = server._tasks
            async with asyncio.timeout(20):
                await asyncio.wait([task])
            await server.close()
            return bool(verbs.hung_up)

    assert asyncio.run(main())


def test_a_connection_that_cannot_be_taken_waits_without_a_spinning_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.0)

    class Exhausted:
        """A listener that finds no descriptor the first time."""

        def __init__(self, real: socket.socket) -> None:
            self.real, self.tries = real, 0

        def accept(self) -> tuple[socket.socket, Any]:
            self.tries += 1
            if self.tries == 1:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.real.accept()

        def fileno(self) -> int:
            return self.real.fileno()

        def close(self) -> None:
            self.real.close()

    async def main() -> None:
        with opened(tmp_path) as (server, _), asking(tmp_path / "cni.sock") as peer:
            real: Any = server._listener
            exhausted: Any = Exhausted(real)
            server._listener = exhausted
            send(peer)
            server._accept()
            assert exhausted.tries == 1
            assert not asyncio.get_running_loop().remove_reader(real)  # nobody asks for it meanwhile
            assert await answered(peer) == b"berth/1 0"
            await server.close()

    asyncio.run(main())


def test_connections_beyond_a_turns_share_are_served_in_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as (server, verbs):
            peers = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(module._AT_ONCE + 3)]
            for peer in peers:
                peer.connect(str(tmp_path / "cni.sock"))
                peer.setblocking(False)
                send(peer)
            server._accept()
            assert len(verbs.calls) == module._AT_ONCE
            assert [await answered(peer) for peer in peers] == [b"berth/1 0"] * len(peers)
            for peer in peers:
                peer.close()
            await server.close()

    asyncio.run(main())
