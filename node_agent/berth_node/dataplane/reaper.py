"""The thread that does what no answer need wait for: it deletes dead host links, and makes live ones hear no router.

Deleting a veth pair waits 20-30 ms for RCU, nearly all of it outside the rtnl lock, and deleting fifty by group waits
hardly longer than deleting one. So a DEL only buries its link (``messages.REAP_GROUP``) and this thread deletes what
is there, while the CNI answer is long on its way. The group is in the kernel, so a restarted agent finds it again.

A pod's program starts some tenths of a second after its ADD is answered, so what its link must not hear from it can be
told the kernel a moment later. A restarted agent tells it for every link that it finds.
"""

from __future__ import annotations

import errno
import logging
import threading
from typing import Final

from . import messages, sysctl
from .rtnl import Rtnl
from .timer import Timer

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
        self._timer = Timer()
        self._due = self._buried = True
        self._stopping = False
        self._new: list[str] = []
        self._timer.start(_PAUSE_SECONDS)
        self._thread = threading.Thread(target=self._run, name="berth-reaper", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port of the socket that deletes links."""
        return self._rtnl.port

    def wake(self) -> None:
        """Say that something was buried. Returns at once."""
        self._buried = True
        self._soon()

    def _soon(self) -> None:
        """The kernel wakes the thread when it is time: woken now, it would take the interpreter from a request that is
        about to be answered."""
        if not self._due:
            self._due = True
            self._timer.start(_PAUSE_SECONDS)

    def quiet(self, link: str) -> None:
        """Have a pod's link hear no router (:func:`.sysctl.hear_no_router`) soon. Returns at once."""
        self._new.append(link)
        self._soon()

    def close(self) -> None:
        """Stop after the deletion under way. What is still buried stays for the next start."""
        self._stopping = True
        self._timer.start(0.0)
        self._thread.join()
        self._timer.close()
        self._rtnl.close()

    def _run(self) -> None:
        while True:
            self._timer.wait()
            self._due = False  # before the work: what comes from here on may come too late for it
            while self._new:
                sysctl.hear_no_router(self._new.pop())
            if self._stopping:
                return
            if self._buried:
                self._buried = False
                self._delete()

    def _delete(self) -> None:
        try:
            self._rtnl.batch([messages.group_delete()], ignore=_NOTHING_THERE)
        except OSError as error:
            _log.warning("dead links could not be deleted, trying again: %s", error)
            self._buried = True
            self._timer.start(_RETRY_SECONDS)  # a new link brings it forward
