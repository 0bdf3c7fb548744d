"""The thread that deletes dead host links.

Deleting a veth pair waits 20-30 ms for RCU, nearly all of it outside the rtnl lock, and deleting fifty by group waits
hardly longer than deleting one. So a DEL only buries its link (``messages.REAP_GROUP``) and this thread deletes what
is there, while the CNI answer is long on its way. The group is in the kernel, so a restarted agent finds it again.
"""

from __future__ import annotations

import errno
import logging
import threading
from typing import Final

from . import messages
from .rtnl import Rtnl

__all__ = ["Reaper"]

_log = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.02
"""Before each deletion: at once it would race the DEL's own answer for the interpreter and for the rtnl lock, and meet
one link of a burst instead of many."""
_NOTHING_THERE: Final = frozenset({errno.ENODEV})


class Reaper:
    """Made in the thread, hence in the network namespace, whose links it deletes. Starts with what is there."""

    def __init__(self) -> None:
        self._rtnl = Rtnl()
        self._wanted = threading.Event()
        self._wanted.set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="berth-reaper", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port of the socket that deletes links."""
        return self._rtnl.port

    def wake(self) -> None:
        """Say that something was buried. Returns at once."""
        self._wanted.set()

    def close(self) -> None:
        """Stop after the deletion under way. What is still buried stays for the next start."""
        self._stopping.set()
        self._wanted.set()
        self._thread.join()
        self._rtnl.close()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self._stopping.wait(_PAUSE_SECONDS):
                return
            self._wanted.clear()
            try:
                self._rtnl.batch([messages.group_delete()], ignore=_NOTHING_THERE)
            except OSError as error:
                _log.warning("dead links could not be deleted, trying again: %s", error)
                self._wanted.wait(_RETRY_SECONDS)
                self._wanted.set()
