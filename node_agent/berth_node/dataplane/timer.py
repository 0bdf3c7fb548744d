"""A timer that a thread sleeps on: timerfd(2), which Python has from 3.13 on only.

Starting one costs a system call, and unlike an event or a condition it wakes nobody who would want the interpreter.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

__all__ = ["Timer"]

_CLOCK_MONOTONIC, _TFD_CLOEXEC = 1, 0o2000000
_SPEC: Final = struct.Struct("@llll")  # struct itimerspec: interval, then value, each in seconds and nanoseconds
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Timer:
    """One thread waits; any thread starts it, which puts off or brings forward what was to come."""

    def __init__(self) -> None:
        self._descriptor = _checked(_libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_CLOEXEC))

    def start(self, seconds: float) -> None:
        """Go off once after so long."""
        nanoseconds = max(1, round(seconds * 1e9))  # 0 would stop it
        spec = _SPEC.pack(0, 0, *divmod(nanoseconds, 1_000_000_000))
        _checked(_libc.timerfd_settime(self._descriptor, 0, spec, None))

    def wait(self) -> None:
        """Until it goes off, or has gone off since the last wait."""
        os.read(self._descriptor, 8)

    def close(self) -> None:
        """Nobody may wait any more."""
        os.close(self._descriptor)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"timer: {os.strerror(number)}")
    return result
