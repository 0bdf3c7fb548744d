"""An event loop that serves one socket as soon as epoll names it: the one that plugins connect to.

asyncio puts what is to be done for each ready descriptor into a queue, and runs it from there within a context. On a
processor that was asleep, whose caches are cold, that alone is several percent of what a pod waits for.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import socket
from collections.abc import Callable

__all__ = ["FrontDoor", "front_door", "new_loop"]

_log = logging.getLogger(__name__)


class FrontDoor(selectors.EpollSelector):
    """A selector that calls for one socket by itself, in the loop's thread, between callbacks.

    What it calls may do all that a callback may; what it raises is logged, as asyncio does with a callback's.
    """

    def __init__(self) -> None:
        super().__init__()
        self._door: selectors.SelectorKey | None = None

    def open(self, listener: socket.socket, served: Callable[[], None]) -> None:
        """Call ``served`` whenever the socket is readable."""
        self._door = self.register(listener, selectors.EVENT_READ, served)

    def shut(self) -> None:
        """Call it no more. Again is fine."""
        door, self._door = self._door, None
        if door:
            self.unregister(door.fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See :meth:`selectors.BaseSelector.select`."""
        ready = super().select(timeout)
        door = self._door
        for place, (key, _) in enumerate(ready):
            if key is door:
                del ready[place]
                try:
                    key.data()
                except Exception:
                    _log.exception("serving a connection")
                break
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.door = FrontDoor()
        super().__init__(self.door)


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop with a front door."""
    return _Loop()


def front_door() -> FrontDoor | None:
    """The running loop's; None if it is another kind of loop."""
    loop = asyncio.get_running_loop()
    return loop.door if isinstance(loop, _Loop) else None
