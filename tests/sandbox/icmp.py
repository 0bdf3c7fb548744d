"""ICMP echo by raw sockets: no ``ping`` program is needed, and many can be under way at once (RFC 792)."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable
from select import select
from typing import Final

from tests.sandbox import netns

__all__ = ["ping", "ping_all"]

_REQUEST: Final = 8
_REPLY: Final = 0
_HEADER: Final = struct.Struct("!BBHHH")


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _echo(identifier: int, sequence: int) -> bytes:
    payload = b"berth!!!"
    bare = _HEADER.pack(_REQUEST, 0, 0, identifier, sequence) + payload
    return _HEADER.pack(_REQUEST, 0, _checksum(bare), identifier, sequence) + payload


def _reply(packet: bytes, identifier: int) -> int | None:
    """The sequence number, if this is the answer to one of ours. A raw socket also gets the IP header (raw(7))."""
    kind, _, _, who, sequence = _HEADER.unpack_from(packet, (packet[0] & 0xF) * 4)
    return int(sequence) if kind == _REPLY and who == identifier else None


def ping_all(where: str, addresses: Iterable[str], timeout: float = 2.0) -> dict[str, float | None]:
    """One echo to each address from a namespace, all at once: seconds until its answer, or None for silence."""
    wanted = list(addresses)
    answers: dict[str, float | None] = dict.fromkeys(wanted)
    identifier = os.getpid() & 0xFFFF
    with netns.open_socket(where, kind=socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP) as sock:
        sent: list[float] = []
        for sequence, address in enumerate(wanted):
            sent.append(time.monotonic())
            try:
                sock.sendto(_echo(identifier, sequence), (address, 0))
            except OSError:
                continue  # no route: no answer will come
        deadline = time.monotonic() + timeout
        while None in answers.values() and (left := deadline - time.monotonic()) > 0:
            if select([sock], [], [], left)[0]:
                packet, (source, _) = sock.recvfrom(2048)
                number = _reply(packet, identifier)
                if number is not None and number < len(wanted) and wanted[number] == source:
                    answers[source] = time.monotonic() - sent[number]
    return answers


def ping(where: str, address: str, timeout: float = 2.0) -> bool:
    """Whether one echo comes back."""
    return ping_all(where, [address], timeout)[address] is not None
