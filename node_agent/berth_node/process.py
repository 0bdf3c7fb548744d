"""The agent's process: its clock, its worker threads, and the lock that keeps it alone."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

__all__ = ["AlreadyRunningError", "Threads", "kernel_boot", "only_one", "steady_clock"]

_A = TypeVar("_A")
_R = TypeVar("_R")


class AlreadyRunningError(Exception):
    """Another agent holds this node's lock. Stop it first."""


def steady_clock() -> Callable[[], float]:
    """Unix time that does not jump when the clock is set, and goes on during suspend (hibernated instances)."""
    offset = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return lambda: offset + time.clock_gettime(time.CLOCK_BOOTTIME)


def kernel_boot() -> str:
    """The kernel's id of this boot: random, the same until the next one (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(slots=True)
class Threads:
    """The agent's three worker threads, as awaitables for the event loop.

    The data plane is used by one thread at a time: the rtnl thread, or the event loop's for what is over in well under
    a millisecond (:meth:`wire_now`), since handing that over and back costs half as much again.
    """

    rtnl: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "rtnl"))
    cloud: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "cloud"))
    report: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "report"))
    _dataplane: threading.Lock = field(default_factory=threading.Lock)

    async def in_rtnl(self, call: Callable[[], _R], /) -> _R:
        """Run a call of the data plane."""

        def alone() -> _R:
            with self._dataplane:
                return call()

        return await asyncio.get_running_loop().run_in_executor(self.rtnl, alone)

    async def in_cloud(self, call: Callable[[], _R], /) -> _R:
        """Run a call of metadata or record."""
        return await asyncio.get_running_loop().run_in_executor(self.cloud, call)

    def wire(self, call: Callable[[_A], _R], argument: _A, /) -> Awaitable[_R]:
        """Run a call of the data plane with one argument."""
        return self.in_rtnl(lambda: call(argument))

    def wire_now(self, call: Callable[[_A], _R], argument: _A, /) -> tuple[_R] | None:
        """The same in the calling thread; None if the rtnl thread is at it: nothing was done."""
        if not self._dataplane.acquire(blocking=False):
            return None
        try:
            return (call(argument),)
        finally:
            self._dataplane.release()

    def send(self, call: Callable[[str, str], None], url: str, text: str) -> Awaitable[None]:
        """Run the sending of a report."""
        return asyncio.get_running_loop().run_in_executor(self.report, call, url, text)

    def shut_down(self) -> None:
        """Let the threads end; one that hangs in a request ends with its time-out."""
        for thread in (self.rtnl, self.cloud, self.report):
            thread.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """One agent a node: two would lend one address twice. The lock goes with the process, however it dies."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(f"another agent runs on this node ({path} is locked); stop it first") from None
        yield
