"""The CRI client's side of HTTP/2 and protocol buffers, against frames written by hand."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from berth_node import cri
from berth_node.collecting import choose_socket
from hypothesis import given
from hypothesis import strategies as st

END_STREAM, ACK = 1, 1
TRAILERS = cri._frame(1, 5, 1, b"\x88")


def answer(*ids: str, size: int | None = None) -> bytes:
    body = cri.message(*[(1, cri.message((1, i), (3, 1))) for i in ids])
    return struct.pack("!BI", 0, len(body) if size is None else size) + body


def in_frames(data: bytes, length: int = 16384) -> bytes:
    return b"".join(cri._frame(0, 0, 1, data[at : at + length]) for at in range(0, len(data), length))


@contextmanager
def server(path: Path, *frames: bytes) -> Iterator[Callable[[], bytes]]:
    """Answers one connection with these frames, then closes; gives what the client wrote."""
    got = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                got.extend(connection.recv(65536))
                connection.sendall(b"".join(frames))
                connection.shutdown(socket.SHUT_WR)
                while chunk := connection.recv(65536):
                    got.extend(chunk)

        thread = threading.Thread(target=serve)
        thread.start()

        def written() -> bytes:
            thread.join(10)
            return bytes(got)

        yield written
        thread.join(10)


def test_a_listing_of_many_frames_with_settings_and_pings_between_is_read_whole(tmp_path: Path) -> None:
    ids = tuple(f"{n:064x}" for n in range(2000))  # 140 kB: more than HTTP/2's first window
    data = in_frames(answer(*ids))
    ping, settings = cri._frame(6, 0, 0, b"pingpong"), cri._frame(4, 0, 0, b"")
    with server(tmp_path / "s", settings, cri._frame(1, 4, 1, b"\x88"), ping, data, TRAILERS) as written:
        assert cri.list_sandboxes(str(tmp_path / "s")) == ids
    sent = written()
    assert sent.startswith(b"PRI * HTTP/2.0")
    assert b"/runtime.v1.RuntimeService/ListPodSandbox" in sent
    assert cri._frame(4, ACK, 0, b"") in sent
    assert cri._frame(6, ACK, 0, b"pingpong") in sent


def test_padded_data_is_unpadded(tmp_path: Path) -> None:
    data = answer("abc")
    with server(tmp_path / "s", cri._frame(0, 8, 1, b"\x03" + data + b"\0\0\0"), TRAILERS):
        assert cri.list_sandboxes(str(tmp_path / "s")) == ("abc",)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([TRAILERS], "refused"),
        ([in_frames(answer("abc"))], "closed before"),
        ([in_frames(answer("abc")[:-1]), TRAILERS], "not one plain message"),
        ([in_frames(b"\x01" + answer("abc")[1:]), TRAILERS], "not one plain message"),
        ([cri._frame(3, 0, 1, b"\0\0\0\x07")], "reset the call with error 7"),
        ([cri._frame(7, 0, 0, b"\0\0\0\0\0\0\0\x02tired")], "goes away: tired"),
        ([in_frames(struct.pack("!BI", 0, 4) + b"\x0a\x7fab"), TRAILERS], "cut short"),
        ([in_frames(struct.pack("!BI", 0, 4) + b"\x0a\x02\x18\x01"), TRAILERS], "without an id"),
    ],
)
def test_what_is_no_whole_listing_is_an_error_and_not_an_empty_one(
    tmp_path: Path, frames: list[bytes], said: str
) -> None:
    with server(tmp_path / "s", *frames), pytest.raises(cri.CriError, match=said):
        cri.list_sandboxes(str(tmp_path / "s"))


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(cri.CriError, match="timed out"):
            cri.list_sandboxes(str(tmp_path / "s"), timeout=0.05)


def test_the_child_prints_json_or_says_why_not(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-S", cri.__file__, str(tmp_path / "s")]
    refused = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "ListPodSandbox at " in refused.stderr
    with server(tmp_path / "s", in_frames(answer("abc", "def")), TRAILERS):
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == '["abc", "def"]\n'


@given(st.lists(st.tuples(st.integers(1, 2**20), st.integers(0, 2**64 - 1) | st.binary(max_size=300))))
def test_a_message_reads_back(fields: list[tuple[int, int | bytes]]) -> None:
    assert list(cri.parse(cri.message(*fields))) == fields


@given(st.binary(max_size=200))
def test_garbage_is_read_or_refused_and_never_anything_else(data: bytes) -> None:
    with contextlib.suppress(ValueError):  # UnicodeDecodeError is one
        cri.pod_sandbox_ids(data)


def test_the_socket_is_the_one_that_is_set_or_the_only_one_there(tmp_path: Path) -> None:
    known = (tmp_path / "containerd.sock", tmp_path / "crio.sock")
    assert choose_socket(None, known) is None
    known[1].touch()
    assert choose_socket(None, known) == known[1]
    assert choose_socket("", known) is None
    assert choose_socket("/run/other.sock", known) == Path("/run/other.sock")
    known[0].touch()
    with pytest.raises(cri.CriError, match="set cri_socket"):
        choose_socket(None, known)
