"""A client for the container runtime interface (CRI), small enough for a process of its own: the standard library only.

CRI is gRPC: HTTP/2 (RFC 9113) over a unix socket, one stream for each call here, and protocol buffers inside. gRPC's
own library costs 10 MB of resident memory and more; the agent needs one unary call every two minutes, so it starts this
file as a short-lived child (``python -I -S cri.py SOCKET``), which prints the listed sandboxes' ids as a JSON list.

What the client relies upon, so that it has neither header decompression nor flow control to speak of:

* headers are sent as literals without indexing and without Huffman code (RFC 7541, 6.2.2), which every peer must read;
* a server answers a unary call that failed with trailers alone, without a message (gRPC over HTTP/2, "Responses"), so
  whether there is a message says whether the call succeeded, and the trailers need not be read;
* windows are opened once, to the most that HTTP/2 allows: no answer of a runtime comes near 2 GB.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final

__all__ = ["CriError", "call", "list_sandboxes", "message", "parse", "pod_sandbox_ids"]

SERVICE: Final = "runtime.v1.RuntimeService"
TIMEOUT: Final = 8.0  # seconds for each read or write: a child whose agent was killed ends by itself
_MOST: Final = 1 << 24  # bytes of an answer; kubelet's client takes 16 MB too

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_INITIAL_WINDOW_SIZE: Final = 4
_LARGEST_WINDOW: Final = (1 << 31) - 1
_DEFAULT_WINDOW: Final = 65535
_LARGEST_FRAME: Final = 16384
_STREAM: Final = 1


class CriError(Exception):
    """The runtime did not answer, or refused. The message names the socket and the method."""


# ----------------------------------------------------------------------------------------------- protocol buffers


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A protobuf message of (field number, value) pairs: integers as varints, the rest length-delimited."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def parse(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (field number, value) pairs of a message. Raises ``ValueError`` for what is none."""
    at = 0
    try:
        while at < len(data):
            key, at = _read_varint(data, at)
            kind = key & 7
            if kind == 0:
                value, at = _read_varint(data, at)
                yield key >> 3, value
                continue
            size = {1: 8, 5: 4}.get(kind)
            if kind == 2:
                size, at = _read_varint(data, at)
            if size is None or at + size > len(data):
                raise ValueError(f"field {key >> 3} is cut short or of unknown kind {kind}")
            yield key >> 3, data[at : at + size]
            at += size
    except IndexError:
        raise ValueError("the message is cut short") from None


def pod_sandbox_ids(answer: bytes) -> tuple[str, ...]:
    """ListPodSandboxResponse (field 1, repeated PodSandbox) → PodSandbox.id (field 1). Raises ``ValueError``."""
    ids = []
    for number, item in parse(answer):
        if number != 1 or not isinstance(item, bytes):
            continue
        found = [v for n, v in parse(item) if n == 1 and isinstance(v, bytes)]
        if not found or not found[-1]:
            raise ValueError("a sandbox without an id")
        ids.append(found[-1].decode())
    return tuple(ids)


# --------------------------------------------------------------------------------------------------------- HTTP/2


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    # up to 126 bytes a length takes one byte, and all of ours are shorter
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def _request(path: str, body: bytes) -> bytes:
    """All that a client says in one call, but for its answers to settings and pings."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    data = struct.pack("!BI", 0, len(body)) + body
    if len(data) > _LARGEST_FRAME:
        raise CriError(f"{path}: the request has {len(data)} bytes; one frame of {_LARGEST_FRAME} is all that is sent")
    return b"".join(
        (
            _PREFACE,
            _frame(_SETTINGS, 0, 0, struct.pack("!HI", _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)),
            _frame(_WINDOW, 0, 0, struct.pack("!I", _LARGEST_WINDOW - _DEFAULT_WINDOW)),
            _frame(_HEADERS, _END_HEADERS, _STREAM, b"".join(_literal(k, v) for k, v in headers.items())),
            _frame(_DATA, _END_STREAM, _STREAM, data),
        )
    )


def _receive(sock: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(size - len(parts))
        if not part:
            raise CriError("the connection was closed before the answer was whole")
        parts += part
    return bytes(parts)


def _data_of(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload


def _exchange(sock: socket.socket) -> bytes:
    """Read frames until the stream ends; returns its data. What is not ours, or is of a later HTTP/2, is ignored."""
    data = bytearray()
    while True:
        head = _receive(sock, 9)
        kind, flags, stream = struct.unpack("!BBI", head[3:])
        payload = _receive(sock, int.from_bytes(head[:3], "big"))
        if kind == _SETTINGS and not flags & _ACK:
            sock.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            sock.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY and int.from_bytes(payload[:4], "big") < _STREAM:
            raise CriError(f"the server goes away: {payload[8:].decode(errors='replace')}")
        elif stream == _STREAM:
            if kind == _RESET:
                raise CriError(f"the server reset the call with error {int.from_bytes(payload, 'big')}")
            if kind == _DATA:
                data += _data_of(flags, payload)
                if len(data) > _MOST:
                    raise CriError(f"the answer has more than {_MOST} bytes")
            if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
                return bytes(data)


def call(path: str, method: str, body: bytes = b"", timeout: float = TIMEOUT) -> bytes:
    """One unary call of the runtime service at a unix socket; its answer's message. Raises :class:`CriError`.

    ``timeout`` in seconds is for each read and write. An empty message is an answer; none at all is a refusal.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(path)
            sock.sendall(_request(f"/{SERVICE}/{method}", body))
            data = _exchange(sock)
    except (OSError, CriError) as error:
        raise CriError(f"{method} at {path}: {error}") from error
    if len(data) < 5:
        raise CriError(f"{method} at {path}: refused, or not implemented; the runtime's own log says why")
    compressed, size = struct.unpack_from("!BI", data)
    if compressed or size != len(data) - 5:
        raise CriError(f"{method} at {path}: the answer is not one plain message")
    return data[5:]


def list_sandboxes(path: str, timeout: float = TIMEOUT) -> tuple[str, ...]:
    """The ids of all pod sandboxes that the runtime knows, running or not. Raises :class:`CriError`."""
    try:
        return pod_sandbox_ids(call(path, "ListPodSandbox", timeout=timeout))
    except ValueError as error:
        raise CriError(f"ListPodSandbox at {path}: {error}") from error


if __name__ == "__main__":
    try:
        print(json.dumps(list_sandboxes(sys.argv[1])))
    except CriError as error:
        sys.exit(str(error))
