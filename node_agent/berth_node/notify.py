"""What a service tells systemd (sd_notify(3)): ready, stopping, alive, and a line for ``systemctl status``.

The protocol is one datagram to the socket in ``NOTIFY_SOCKET``; without that variable nothing is told.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

__all__ = ["Notifier"]

_log = logging.getLogger(__name__)
_EVERY: Final = 10.0  # seconds between status lines, unless the watchdog wants to hear sooner


class Notifier:
    """Tells the supervisor. ``environment`` holds what systemd gave; a socket that fails is no reason to stop."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._path = environment.get("NOTIFY_SOCKET", "")
        wanted = environment.get("WATCHDOG_USEC", "")
        self.watchdog = int(wanted) / 1e6 if wanted.isdigit() and int(wanted) else None
        """Seconds within which systemd wants a sign of life, or None."""
        self._told = ""

    def tell(self, *lines: str) -> None:
        """Send assignments such as ``READY=1``."""
        if not self._path:
            return
        # a name in the abstract namespace is written with @ and begins with NUL
        path = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as s:
                s.sendto("\n".join(lines).encode(), path)
        except OSError as error:
            _log.warning("systemd cannot be told", extra={"why": str(error)})

    def status(self, text: str) -> None:
        """The line that ``systemctl status`` shows, if it changed."""
        if text != self._told:
            self._told = text
            self.tell(f"STATUS={text}")

    async def run(self, status: Callable[[], str], alive: Callable[[], Awaitable[bool]]) -> None:
        """Until cancelled: say that the service is ready, then what it does, and that it lives while ``alive`` says so.

        Ready means that plugins are answered, not that the pool has an address: that may take EC2 longer than systemd
        waits for a start.
        """
        self.tell("READY=1")
        while True:
            self.status(status())
            if self.watchdog and await alive():
                self.tell("WATCHDOG=1")
            await asyncio.sleep(min(_EVERY, self.watchdog / 3) if self.watchdog else _EVERY)
