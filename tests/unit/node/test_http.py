"""The agent's HTTP server: what it answers, and what it does not put up with."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from berth_node import http
from berth_node.http import Answer, HttpServer, listen_address


async def _fine() -> Answer:
    return Answer("fine\n")


async def _broken() -> Answer:
    raise ValueError("a bug")


def exchange(path: Path, *requests: bytes) -> list[bytes]:
    """Each request's whole answer, each by a connection of its own, from a server at ``path``."""

    async def one(request: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    modes: list[int] = []

    async def whole() -> list[bytes]:
        server = HttpServer(path, {"/metrics": _fine, "/broken": _broken})
        serving = asyncio.ensure_future(server.run(await server.open()))
        modes.append(stat.S_IMODE(os.stat(path).st_mode))
        answers = await asyncio.gather(*(one(r) for r in requests))
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return list(answers)

    answers = asyncio.run(whole())
    assert modes == [0o600]
    return answers


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET /metrics?a=b HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 "),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"HTTP/1.1 500 "),
        (b"\x16\x03\x01 hello\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"HTTP/1.1 400 "),
    ],
)
def test_each_request_has_its_answer(tmp_path: Path, request_: bytes, told: bytes) -> None:
    (answer,) = exchange(tmp_path / "s", request_)
    assert answer.startswith(told)
    assert b"Connection: close" in answer


def test_head_has_the_length_and_no_body(tmp_path: Path) -> None:
    (answer,) = exchange(tmp_path / "s", b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 5\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_who_sends_nothing_is_dropped_and_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_SECONDS", 0.2)
    slow, quick = exchange(tmp_path / "s", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n")
    assert slow == b""
    assert quick.endswith(b"fine\n")


def test_more_at_once_than_it_serves_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_AT_ONCE", 2)
    monkeypatch.setattr(http, "_SECONDS", 0.5)
    request = b"GET /metrics HTTP/1.1\r\n\r\n"
    assert exchange(tmp_path / "s", b"GET /met", b"GET /met", request)[2] == b""
    assert exchange(tmp_path / "s", b"GET /met", request)[1].endswith(b"fine\n")


def test_the_socket_of_a_killed_agent_is_replaced_and_ours_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.touch()
    assert exchange(path, b"GET /metrics HTTP/1.1\r\n\r\n")[0].endswith(b"fine\n")
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", None),
        ("/run/berth/m.sock", Path("/run/berth/m.sock")),
        ("127.0.0.1:61678", ("127.0.0.1", 61678)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_where_to_listen(text: str, where: object) -> None:
    assert listen_address(text) == where


@pytest.mark.parametrize("text", ["61678", "localhost:80", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "1.2.3.4:x"])
def test_a_place_that_is_none_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r'such as "127\.0\.0\.1:61678"'):
        listen_address(text)
