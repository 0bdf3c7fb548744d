"""What systemd is told."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from berth_node.notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """A notification socket, as systemd has one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(tmp_path / "notify"))
        s.settimeout(5)
        yield s


def heard(systemd: socket.socket) -> list[str]:
    systemd.setblocking(False)
    messages = []
    try:
        while True:
            messages.append(systemd.recv(4096).decode())
    except BlockingIOError:
        return messages


def run(notifier: Notifier, alive: bool, seconds: float) -> None:
    async def is_alive() -> bool:
        return alive

    async def whole() -> None:
        try:
            async with asyncio.timeout(seconds):
                await notifier.run(lambda: "ready; 3 pods", is_alive)
        except TimeoutError:
            pass

    asyncio.run(whole())


def test_it_is_ready_says_what_it_does_once_and_lives(systemd: socket.socket) -> None:
    run(Notifier({"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "60000"}), True, 0.3)
    told = heard(systemd)
    assert told[:3] == ["READY=1", "STATUS=ready; 3 pods", "WATCHDOG=1"]
    assert set(told[3:]) == {"WATCHDOG=1"}, "a status that stays the same is told once"


def test_an_agent_that_is_stuck_gives_no_sign_of_life(systemd: socket.socket) -> None:
    run(Notifier({"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "60000"}), False, 0.3)
    assert "WATCHDOG=1" not in heard(systemd)


def test_without_a_watchdog_it_gives_none(systemd: socket.socket) -> None:
    run(Notifier({"NOTIFY_SOCKET": systemd.getsockname()}), True, 0.1)
    assert heard(systemd) == ["READY=1", "STATUS=ready; 3 pods"]


def test_a_socket_in_the_abstract_namespace_is_reached(tmp_path: Path) -> None:
    name = f"berth-test-{tmp_path.name}-{id(tmp_path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind("\0" + name)
        Notifier({"NOTIFY_SOCKET": "@" + name}).tell("STOPPING=1")
        assert heard(s) == ["STOPPING=1"]


def test_without_systemd_nothing_happens_and_a_dead_socket_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier({}).tell("READY=1")
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).tell("READY=1")
    assert [r.getMessage() for r in caplog.records] == ["systemd cannot be told"]
