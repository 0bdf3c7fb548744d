"""ICMP echo by raw sockets, in any network namespace: no ``ping`` program is needed (RFC 792, raw(7))."""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final

from tests.sandbox import netns
from tests.sandbox.echo import Failure, Outcome, failure_of

__all__ = ["Message", "checksum", "echo_request", "icmp_socket", "parse", "ping"]

ECHO_REPLY: Final = 0
UNREACHABLE: Final = 3
EXPIRED: Final = 11
_ECHO_REQUEST, _TOO_BIG_CODE = 8, 4
_HEADER: Final = struct.Struct("!BBHHH")
_SOL_RAW, _ICMP_FILTER = 255, 1  # linux/socket.h, linux/icmp.h; a set bit of the filter hides that type
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3  # ip(7): don't fragment, and ask the path rather than what is known of it
_ERRORS: Final = {UNREACHABLE: Failure.UNREACHABLE, EXPIRED: Failure.EXPIRED}


@dataclass(frozen=True, slots=True)
class Message:
    """An answer to an echo request, or an error about one: then ``body`` is what it quotes of ours, perhaps cut.

    ``mtu`` is what the next hop takes, in bytes, when the request was too big (RFC 1191), else 0.
    """

    sender: str
    failure: Failure | None
    identifier: int
    sequence: int
    body: bytes
    mtu: int = 0


def ping(where: str, address: str, *, timeout: float = 2.0, source: str = "", ttl: int = 64, size: int = 8) -> Outcome:
    """One echo request of ``size`` bytes of data, that nobody may fragment, from a namespace.

    In the outcome, ``server`` is the address that answered or told of an error, and ``mtu`` is as in :class:`Message`.
    """
    identifier, body = int.from_bytes(os.urandom(2), "big"), os.urandom(size)
    with icmp_socket(where) as sock:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        started = time.monotonic()
        try:
            sock.bind((source, 0))
            sock.sendto(echo_request(identifier, 1, body), (address, 0))
            while (left := started + timeout - time.monotonic()) > 0:
                sock.settimeout(left)
                heard = parse(*sock.recvfrom(65536))
                if heard is None or heard.identifier != identifier:
                    continue
                failure = heard.failure
                if failure is None and (heard.sender, heard.body) != (address, body):
                    failure = Failure.REWRITTEN
                return Outcome(failure, "", time.monotonic() - started, heard.sender, heard.mtu)
        except OSError as error:
            return Outcome(failure_of(error))
    return Outcome(Failure.TIMEOUT)


def icmp_socket(where: str) -> socket.socket:
    """A raw socket in a namespace that gets answers to echo requests, and errors, of everybody there."""
    sock = netns.open_socket(where, kind=socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP)
    hidden = 0xFFFFFFFF & ~(1 << ECHO_REPLY | 1 << UNREACHABLE | 1 << EXPIRED)
    sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", hidden))
    return sock


def echo_request(identifier: int, sequence: int, body: bytes) -> bytes:
    """The ICMP message."""
    bare = _HEADER.pack(_ECHO_REQUEST, 0, 0, identifier, sequence) + body
    return _HEADER.pack(_ECHO_REQUEST, 0, checksum(bare), identifier, sequence) + body


def checksum(data: bytes) -> int:
    """The Internet's (RFC 1071), of data in which the field for it is 0."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(packet: bytes, peer: tuple[str, int]) -> Message | None:
    """What a raw socket got, IP header and all (raw(7)); None if it is about something else than an echo request."""
    icmp = packet[(packet[0] & 0xF) * 4 :]
    kind, code, _, _, mtu = _HEADER.unpack_from(icmp)
    failure = _ERRORS.get(kind)
    too_big = (kind, code) == (UNREACHABLE, _TOO_BIG_CODE)
    if failure is not None:  # it quotes the IP header of what it is about, then 8 bytes or more
        quoted = icmp[_HEADER.size :]
        if quoted[9] != socket.IPPROTO_ICMP:
            return None
        icmp = quoted[(quoted[0] & 0xF) * 4 :]
    if len(icmp) < _HEADER.size or (failure is not None and icmp[0] != _ECHO_REQUEST):
        return None
    _, _, _, identifier, sequence = _HEADER.unpack_from(icmp)
    body = icmp[_HEADER.size :]
    if too_big:
        return Message(peer[0], Failure.TOO_BIG, identifier, sequence, body, mtu)
    return Message(peer[0], failure, identifier, sequence, body)
