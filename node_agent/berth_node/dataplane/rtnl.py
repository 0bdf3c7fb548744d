"""A synchronous rtnetlink socket: many requests in one ``sendmsg``, one acknowledgement.

A pod's wiring is nine requests. A general library spends far more time encoding and parsing them than the kernel
spends obeying them (7 ms against 0.8 ms), and takes a third of the agent's memory, so Berth packs its own.

Wire format: ``linux/netlink.h``. Integers are host-endian, attributes are padded to 4 bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

__all__ = ["Attributes", "Filled", "Reply", "Request", "Rtnl", "RtnlError", "attribute", "attributes", "nested", "pack"]

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_DUMP: Final = 0x300
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLMSGERR_ATTR_MSG: Final = 1
_NLA_TYPE: Final = 0x3FFF
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_GET_STRICT_CHK: Final = 12
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_INT: Final = struct.Struct("=i")
_VERDICT: Final = struct.Struct("=IHHIIi")
"""A message's header and an error's number."""
_RECEIVE: Final = 1 << 18
"""Bytes per receive. The kernel sizes a dump's buffers by what the reader offers, up to 32 KiB."""
_RECEIVE_ONE: Final = 1 << 15
"""Where one object or acknowledgement is awaited: a link without statistics has about 2 KiB, and a large buffer is
memory that the kernel has to clear each time."""
_DUMP_ATTEMPTS: Final = 8

Attributes = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """One rtnetlink request: message type, extra ``NLM_F_*`` flags, and its packed body."""

    type: int
    flags: int
    body: bytes
    what: str = ""
    """What the request does, in words for an error message."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A packed batch with the sequence numbers ``first``, ``first + 1``, …; ``what`` says what each request does."""

    data: bytes | bytearray
    first: int
    what: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """One object of an answer. ``body`` starts with the family's fixed header; attributes follow it."""

    type: int
    body: bytes


class RtnlError(OSError):
    """The kernel refused a request. ``index`` is that request's place in its batch, ``what`` its words."""

    def __init__(self, number: int, index: int, what: str, detail: str) -> None:
        text = os.strerror(number) + (f" ({detail})" if detail else "")
        super().__init__(number, f"{what}: {text}" if what else text)
        self.index = index
        self.what = what


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    length = len(data) + 4
    return _ATTRIBUTE.pack(length, kind) + data + b"\0" * (-length & 3)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind, b"".join(parts))


def attributes(data: bytes, start: int = 0, until: int = 0) -> Attributes:
    """The attributes that follow ``start``, the last of a kind winning. Truncated input ends the parse, and so does the
    first attribute of the kind ``until``."""
    found: Attributes = {}
    end = len(data)
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            break
        found[kind & _NLA_TYPE] = data[start + 4 : start + length]
        if kind == until:
            break
        start += (length + 3) & ~3
    return found


def pack(request: Request, sequence: int, flags: int) -> bytes:
    """A request as it is sent, with ``flags`` besides its own."""
    flags |= request.flags | NLM_F_REQUEST
    return _HEADER.pack(16 + len(request.body), request.type, flags, sequence, 0) + request.body


class Rtnl:
    """A blocking rtnetlink socket, bound for its life to the network namespace it was made in.

    ``protocol``: another netlink family whose requests look the same.
    One thread uses it. Every call raises :class:`RtnlError` when the kernel refuses.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        self._sequence = 1
        for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def port(self) -> int:
        """What the kernel's notices name as the cause of what this socket asked for (``nlmsg_pid``)."""
        if not self._socket.getsockname()[0]:
            self._socket.bind((0, 0))
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        """Close the socket. Again is fine."""
        self._socket.close()

    def batch(self, requests: Sequence[Request], ignore: frozenset[int] = frozenset()) -> None:
        """Send all requests in one message and wait for the last one's acknowledgement.

        The kernel runs every request even when an earlier one failed; the first failure whose errno is not in
        ``ignore`` is the one raised.
        """
        if requests:
            first, last = self.numbers(len(requests)), len(requests) - 1
            packed = [pack(r, first + place, NLM_F_ACK if place == last else 0) for place, r in enumerate(requests)]
            self.send(Filled(b"".join(packed), first, tuple(r.what for r in requests)), ignore)

    def numbers(self, count: int) -> int:
        """The first of ``count`` sequence numbers for a batch."""
        first = self._sequence
        # kept well under 2^32, so that a batch's numbers never wrap in its middle
        self._sequence = first + count if first < 0x7FFF0000 else 1
        return first

    def send(self, batch: Filled, ignore: frozenset[int] = frozenset()) -> bool:
        """See :meth:`batch`. False if the kernel refused something that ``ignore`` names."""
        last = len(batch.what) - 1
        self._socket.send(batch.data)
        data = self._socket.recv(_RECEIVE_ONE)
        _length, kind, _flags, sequence, _port, number = _VERDICT.unpack_from(data)  # no message is shorter
        if kind == _NLMSG_ERROR and not number and sequence == batch.first + last:
            return True  # by far the most frequent answer
        failure: RtnlError | None = None
        whole = True
        for kind, flags, sequence, body in self._received(_RECEIVE_ONE, data):
            place = sequence - batch.first
            if kind != _NLMSG_ERROR or not 0 <= place <= last:
                continue  # left over from a request whose answer nobody read
            number = -_INT.unpack_from(body)[0]
            whole = whole and not number
            if number and number not in ignore and failure is None:
                failure = RtnlError(number, place, batch.what[place], _detail(flags, body))
            if place == last:
                break
        if failure is not None:
            raise failure
        return whole

    def get(self, request: Request) -> Reply:
        """Ask for one object."""
        sequence = self.numbers(1)
        self._socket.send(pack(request, sequence, 0))
        for kind, flags, answered, body in self._received(_RECEIVE_ONE):
            if answered != sequence:
                continue
            if kind == _NLMSG_ERROR:
                raise RtnlError(-_INT.unpack_from(body)[0], 0, request.what, _detail(flags, body))
            return Reply(kind, body)
        raise AssertionError("unreachable: _received never ends")

    def dump(self, request: Request, wanted: Callable[[bytes], object] = bool) -> list[Reply]:
        """Ask for every object that matches, and keep those whose body is ``wanted``. A dump that a change interrupted
        is asked for again."""
        for _ in range(_DUMP_ATTEMPTS):
            replies, interrupted = self._dump_once(request, wanted)
            if not interrupted:
                return replies
        raise RtnlError(errno.EAGAIN, 0, request.what, "the objects changed during each of several dumps")

    def _dump_once(self, request: Request, wanted: Callable[[bytes], object]) -> tuple[list[Reply], bool]:
        sequence = self.numbers(1)
        self._socket.send(pack(request, sequence, NLM_F_DUMP))
        replies: list[Reply] = []
        interrupted = False
        for kind, flags, answered, body in self._received():
            if answered != sequence:
                continue
            interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
            if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                if len(body) >= 4 and (number := -_INT.unpack_from(body)[0]):
                    raise RtnlError(number, 0, request.what, _detail(flags, body) if kind == _NLMSG_ERROR else "")
                break
            if wanted(body):
                replies.append(Reply(kind, body))
        return replies, interrupted

    def _received(self, size: int = _RECEIVE, data: bytes = b"") -> Iterator[tuple[int, int, int, bytes]]:
        """Messages as they come: (type, flags, sequence, body). ``data`` was received before."""
        while True:
            data = data or self._socket.recv(size)
            offset = 0
            while offset + 16 <= len(data):
                length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
                yield kind, flags, sequence, data[offset + 16 : offset + length]
                offset += (length + 3) & ~3
            data = b""


def _detail(flags: int, body: bytes) -> str:
    """The kernel's own sentence (extended acknowledgement), or nothing."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    start = 20  # the error number and the refused request's header
    if not flags & NLM_F_CAPPED:
        start = 4 + ((_HEADER.unpack_from(body, 4)[0] + 3) & ~3)
    text = attributes(body, start).get(_NLMSGERR_ATTR_MSG, b"")
    return text.rstrip(b"\0").decode(errors="replace")
