"""A filter that the kernel runs before it queues a message (classic BPF; ``linux/filter.h``, socket(7)).

What it drops wakes nobody. BPF loads numbers in network order and netlink's are the host's, so the numbers to
compare with are turned instead. A load beyond a message's end drops it: ask for what every message of a kind has.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Test", "attach", "dropping"]

_SO_ATTACH_FILTER: Final = 26
_LOAD: Final = {4: 0x20, 2: 0x28}  # BPF_LD | BPF_W or BPF_H | BPF_ABS, by size
_EQUAL, _ANY_BIT, _RETURN = 0x15, 0x45, 0x06  # BPF_JMP | BPF_JEQ or BPF_JSET | BPF_K, BPF_RET | BPF_K
_DROP, _ALL = 0, 0xFFFFFFFF
_INSTRUCTION: Final = struct.Struct("=HBBI")


@dataclass(frozen=True, slots=True)
class Test:
    """A number of ``size`` bytes (2 or 4) at ``offset`` from the message's header: equal to ``value``, or (``bits``)
    with any of its bits set."""

    __test__ = False  # pytest takes classes of this name for tests
    offset: int
    size: int
    value: int
    bits: bool = False


def dropping(*rules: Sequence[Test]) -> bytes:
    """A program that drops what passes all tests of any one rule."""
    return b"".join(map(_rule, rules)) + _INSTRUCTION.pack(_RETURN, 0, 0, _ALL)


def _rule(tests: Sequence[Test]) -> bytes:
    code = [_INSTRUCTION.pack(_RETURN, 0, 0, _DROP)]
    for test in reversed(tests):
        turned = int.from_bytes(test.value.to_bytes(test.size, sys.byteorder), "big")
        code[:0] = [
            _INSTRUCTION.pack(_LOAD[test.size], 0, 0, test.offset),
            _INSTRUCTION.pack(_ANY_BIT if test.bits else _EQUAL, 0, len(code), turned),  # no: on to the next rule
        ]
    return b"".join(code)


def attach(to: socket.socket, program: bytes) -> None:
    """Have the kernel run the program on what the socket would get. The kernel keeps a copy of it."""
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(code))
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
