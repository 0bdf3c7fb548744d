"""The messages between the plugin (``cni/berth.c``) and the agent, and the descriptors they carry.

A request is one SOCK_SEQPACKET message ``berth/1 <errno of opening CNI_NETNS>`` with a memfd (``CNI_A=x NUL … NUL NUL
standard-input``) and, when it could be opened, the pod's network namespace. An answer is ``berth/1 <exit code>`` with a
memfd of what to print; if that is short, and the plugin says among the variables that it takes such an answer, it
follows in the message itself, after a newline. A spooled DEL is a file with the memfd's content.

An ADD whose plugin makes the pod's links (``cni/pair.c``) may first get ``berth/1 wire <sizes> <ignored errno>``, a
newline, three batches, and what to print if the kernel takes them. The plugin says ``berth/1 wired``; or ``berth/1
refused <batch> <errno>``, and gets an answer as any other.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from berth_node.seams import FIRST_PAIR_INDEX

__all__ = [
    "MAX_REQUEST",
    "Pair",
    "Request",
    "WireError",
    "decode_body",
    "pair_of",
    "receive_request",
    "send_answer",
    "send_rest",
    "takes_short",
]

VERSION: Final = "berth/1"
MAX_REQUEST: Final = 16 * 1024 * 1024
"""Largest request read into memory, bytes: far above any CNI configuration, far below what would hurt the node."""

_TEXT: Final = 64
_SHORT: Final = 8192
"""Bytes to print that go into the message: the plugin reads twice as much at once."""
_DESCRIPTORS: Final = 2
_SPACE: Final = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)
_FIRST_READ: Final = 4096
"""Bytes; nearly every request is shorter, and one read shows it."""


class WireError(Exception):
    """A message that is not of this protocol. The message says which part."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the runtime asked. ``netns_fd`` is the pod's namespace if it opened, owned by the holder."""

    environment: dict[str, str]
    config: bytes
    netns_fd: int | None = field(default=None, compare=False)
    netns_errno: int = 0

    def close(self) -> None:
        """Close the namespace's descriptor."""
        if self.netns_fd is not None:
            os.close(self.netns_fd)


@dataclass(frozen=True, slots=True)
class Pair:
    """A pod's links that its plugin makes: the host end's index and name, and the MTU of both, bytes."""

    index: int
    mtu: int
    name: str


def decode_body(body: bytes) -> tuple[dict[str, str], bytes]:
    """Split a memfd's or a spool file's content into environment and standard input. Raises :class:`WireError`."""
    if body.startswith(b"\0"):  # no CNI_* variable at all
        return {}, body[1:]
    head, separator, config = body.partition(b"\0\0")
    if not separator:
        raise WireError("the environment does not end")
    entries = (e.partition("=") for e in head.decode(errors="surrogateescape").split("\0"))
    return {name: value for name, _, value in entries}, config


def _read(fd: int) -> bytes:
    first = os.pread(fd, _FIRST_READ, 0)  # pread: the offset of a shared descriptor is the plugin's
    if len(first) < _FIRST_READ:
        return first
    size = os.fstat(fd).st_size
    if size > MAX_REQUEST:
        raise WireError(f"the request has {size} bytes; at most {MAX_REQUEST} are read")
    parts, at = [first], len(first)
    while at < size:
        part = os.pread(fd, size - at, at)
        if not part:
            break
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def receive_request(connection: socket.socket) -> Request | None:
    """Take a connection's request; None if the peer hung up. Raises :class:`WireError`, ``BlockingIOError``."""
    text, ancillary, _, _ = connection.recvmsg(_TEXT, _SPACE, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    netns = fds[1] if len(fds) > 1 else None
    try:
        if not text and not fds:
            return None
        version, _, error = text.decode(errors="replace").partition(" ")
        if version != VERSION or not (error.isascii() and error.isdigit()) or not fds:
            raise WireError(f"expected a message {VERSION!r} with a memfd, got {text!r} with {len(fds)} descriptors")
        environment, config = decode_body(_read(fds[0]))
        request = Request(environment, config, netns, int(error))
        netns = None
        return request
    finally:
        if fds:
            os.close(fds[0])
        if netns is not None:
            os.close(netns)


def takes_short(request: Request) -> bool:
    """Whether the plugin is of a version that takes an answer without a memfd."""
    return request.environment.get("BERTH_TAKES") == "short"


def pair_of(request: Request) -> Pair | None:
    """The links that the plugin makes, if it does: ``BERTH_LINK=<index> <MTU> <name>``."""
    parts = request.environment.get("BERTH_LINK", "").split(" ")
    if len(parts) != 3 or not _is_number(parts[0]) or not _is_number(parts[1]):
        return None
    index = int(parts[0])
    return Pair(index, int(parts[1]), parts[2]) if FIRST_PAIR_INDEX <= index < 2 * FIRST_PAIR_INDEX else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def send_rest(connection: socket.socket, batches: Sequence[bytes], ignored: int, output: bytes) -> bool:
    """Have the plugin carry out batches, and then print. False if that is more than a message takes; nothing was sent.

    Raises ``OSError`` (EPIPE when the plugin is gone).
    """
    message = b"".join(
        (f"{VERSION} wire {' '.join(str(len(b)) for b in batches)} {ignored}\n".encode(), *batches, output)
    )
    if len(message) > _SHORT:
        return False
    connection.sendmsg([message], [], socket.MSG_NOSIGNAL)
    return True


def send_answer(connection: socket.socket, code: int, output: bytes, *, short: bool = False) -> None:
    """Answer a request. Raises ``OSError`` (EPIPE when the plugin is gone)."""
    head = f"{VERSION} {code}".encode()
    if short and len(output) <= _SHORT:
        connection.sendmsg([head + b"\n" + output], [], socket.MSG_NOSIGNAL)
        return
    fd = os.memfd_create("berth-answer", os.MFD_CLOEXEC)
    try:
        view = memoryview(output)
        while view:
            view = view[os.write(fd, view) :]
        connection.sendmsg(
            [head],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))],
            socket.MSG_NOSIGNAL,
        )
    finally:
        os.close(fd)
