"""ICMP echo by raw sockets, in any network namespace: no ``ping`` program is needed (RFC 792, RFC 4443, raw(7)).

The address says whether it is ICMP or ICMPv6. Sockets of the latter get no IP header, and the kernel computes the
checksum of what they send.
"""

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
_ECHO_REQUEST6, _ECHO_REPLY6, _UNREACHABLE6, _TOO_BIG6, _EXPIRED6 = 128, 129, 1, 2, 3
_IPV6_HEADER: Final = 40
_HEADER: Final = struct.Struct("!BBHHH")
_SOL_RAW, _ICMP_FILTER = 255, 1  # linux/socket.h, linux/icmp.h; a set bit of the filter hides that type
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3  # ip(7): don't fragment, and ask the path rather than what is known of it
_IPV6_MTU_DISCOVER, _ICMPV6_FILTER = 23, 1  # linux/in6.h, linux/icmpv6.h
_ERRORS: Final = {UNREACHABLE: Failure.UNREACHABLE, EXPIRED: Failure.EXPIRED}
_ERRORS6: Final = {
    _UNREACHABLE6: Failure.UNREACHABLE,
    _TOO_BIG6: Failure.TOO_BIG,
    _EXPIRED6: Failure.EXPIRED,
}


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
    family = netns.family_of(address)
    with icmp_socket(where, family) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        started = time.monotonic()
        try:
            sock.bind((source, 0))
            sock.sendto(echo_request(identifier, 1, body, family), (address, 0))
            while (left := started + timeout - time.monotonic()) > 0:
                sock.settimeout(left)
                heard = parse(*sock.recvfrom(65536), family)
                if heard is None or heard.identifier != identifier:
                    continue
                failure = heard.failure
                if failure is None and (heard.sender, heard.body) != (address, body):
                    failure = Failure.REWRITTEN
                return Outcome(failure, "", time.monotonic() - started, heard.sender, heard.mtu)
        except OSError as error:
            return Outcome(failure_of(error))
    return Outcome(Failure.TIMEOUT)


def icmp_socket(where: str, family: int = socket.AF_INET) -> socket.socket:
    """A raw socket in a namespace that gets answers to echo requests, and errors, of everybody there."""
    if family == socket.AF_INET6:
        sock = netns.open_socket(where, family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        words = [0xFFFFFFFF] * 8
        for kind in (_ECHO_REPLY6, *_ERRORS6):
            words[kind >> 5] &= ~(1 << (kind & 31))
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, struct.pack("=8I", *words))
        return sock
    sock = netns.open_socket(where, kind=socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP)
    hidden = 0xFFFFFFFF & ~(1 << ECHO_REPLY | 1 << UNREACHABLE | 1 << EXPIRED)
    sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", hidden))
    return sock


def echo_request(identifier: int, sequence: int, body: bytes, family: int = socket.AF_INET) -> bytes:
    """The ICMP message."""
    if family == socket.AF_INET6:
        return _HEADER.pack(_ECHO_REQUEST6, 0, 0, identifier, sequence) + body
    bare = _HEADER.pack(_ECHO_REQUEST, 0, 0, identifier, sequence) + body
    return _HEADER.pack(_ECHO_REQUEST, 0, checksum(bare), identifier, sequence) + body


def checksum(data: bytes) -> int:
    """The Internet's (RFC 1071), of data in which the field for it is 0."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(packet: bytes, peer: tuple[str, int], family: int = socket.AF_INET) -> Message | None:
    """What a raw socket got (with its IP header, of IPv4); None if it is about something else than an echo request."""
    if family == socket.AF_INET6:
        return _parse6(packet, peer[0])
    icmp = packet[(packet[0] & 0xF) * 4 :]
    kind, code, _, _, mtu = _HEADER.unpack_from(icmp)
    failure = _ERRORS.get(kind)
    too_big = (kind, code) == (UNREACHABLE, _TOO_BIG_CODE)
    if failure is not None:  # it quotes the IP header of what it is about, then 8 bytes or more
        quoted = icmp[_HEADER.size :]
        if quoted[9] != socket.IPPROTO_ICMP:
            return None
        icmp = quoted[(quoted[0] & 0xF) * 4 :]
    if too_big:
        failure = Failure.TOO_BIG
    return _message(icmp, peer[0], failure, _ECHO_REQUEST, mtu if too_big else 0)


def _parse6(icmp: bytes, sender: str) -> Message | None:
    failure, mtu = _ERRORS6.get(icmp[0]), 0
    if failure is not None:
        if failure == Failure.TOO_BIG:
            mtu = int(struct.unpack_from("!I", icmp, 4)[0])
        quoted = icmp[_HEADER.size :]
        if len(quoted) < _IPV6_HEADER or quoted[6] != socket.IPPROTO_ICMPV6:
            return None
        icmp = quoted[_IPV6_HEADER:]
    return _message(icmp, sender, failure, _ECHO_REQUEST6, mtu)


def _message(icmp: bytes, sender: str, failure: Failure | None, request: int, mtu: int) -> Message | None:
    if len(icmp) < _HEADER.size or (failure is not None and icmp[0] != request):
        return None
    _, _, _, identifier, sequence = _HEADER.unpack_from(icmp)
    return Message(sender, failure, identifier, sequence, icmp[_HEADER.size :], mtu)
