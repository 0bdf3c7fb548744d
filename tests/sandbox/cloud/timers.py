"""One thread that does later what EC2 does later: state changes, attachments, lifecycle time-outs."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from .lock import API_LOCK

__all__ = ["TIMERS", "Timers"]

_log: Final = logging.getLogger(__name__)


class Timers:
    """Runs callbacks in order of their due time, each under the API lock. The thread starts with the first callback."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._generation = 0

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Run ``callback`` in ``seconds``; at once, in the calling thread, if that is zero or less."""
        if seconds <= 0:
            with API_LOCK:
                callback()
            return
        with self._wake:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), callback))
            if self._thread is None:
                self._generation += 1
                self._thread = threading.Thread(
                    target=self._run, args=(self._generation,), name="ec2-timers", daemon=True
                )
                self._thread.start()
            self._wake.notify()

    def close(self) -> None:
        """Drop what is due and end the thread. Another ``call_later`` starts anew."""
        with self._wake:
            self._due.clear()
            self._generation += 1
            thread, self._thread = self._thread, None
            self._wake.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    def _next(self, generation: int) -> Callable[[], None] | None:
        with self._wake:
            while self._generation == generation:
                if not self._due:
                    self._wake.wait()
                    continue
                wait = self._due[0][0] - time.monotonic()
                if wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._wake.wait(wait)
        return None

    def _run(self, generation: int) -> None:
        while (callback := self._next(generation)) is not None:
            try:
                with API_LOCK:
                    callback()
            except Exception:  # one that fails must not end all that are due later
                _log.exception("a timer of the simulated account failed")


TIMERS: Final = Timers()
"""The account's timers."""
