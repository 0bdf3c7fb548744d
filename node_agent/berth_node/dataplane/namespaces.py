"""Sockets in another network namespace.

A netlink socket belongs for its life to the namespace of the thread that made it, so a pod's side is reached by
entering its namespace for the one ``socket()`` call. ``setns`` moves the calling thread alone (setns(2)).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["Home"]

_CLONE_NEWNET: Final = 0x40000000
# os.setns exists only from Python 3.12
_libc: Final = ctypes.CDLL(None, use_errno=True)

_T = TypeVar("_T")


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot enter the network namespace: {os.strerror(number)}")


class Home:
    """The network namespace of the thread that makes this, and short trips out of it."""

    def __init__(self) -> None:
        self._descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.inode = os.fstat(self._descriptor).st_ino
        """By which the namespace is told from others (namespaces(7))."""

    def call_in(self, descriptor: int, function: Callable[[], _T]) -> _T:
        """Call in the namespace ``descriptor``, in this thread, and come back. Raises OSError if it cannot enter.

        If the thread could not come back, what it did next would land in a pod, so the process ends instead: a
        supervisor restarts it and pods keep running meanwhile.
        """
        _enter(descriptor)
        try:
            return function()
        finally:
            if _libc.setns(self._descriptor, _CLONE_NEWNET):
                os.abort()

    def close(self) -> None:
        """Forget the namespace."""
        os.close(self._descriptor)
