"""Sends reports: at once on a shortage, soon after any change, and at least every so often."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from berth.contract import Report, encode_report

from berth_node.report import substance

__all__ = ["Reporter"]

_log = logging.getLogger(__name__)
_URGENT: Final = 0.02  # seconds: one report for a whole burst of ADDs
_FIRST_RETRY, _LAST_RETRY = 0.25, 15.0


@dataclass(slots=True)
class Reporter:
    """``build()`` takes a fresh snapshot (None: nothing to say yet), ``send(text)`` may raise anything.

    A report that could not be sent is never sent again: the next one says it all, and later. ``sent`` is called after
    each success, ``counted`` after each attempt, with what became of it. The pause between attempts grows to 15 s and
    is jittered, so that a fleet does not return at once.
    """

    build: Callable[[], Report | None]
    send: Callable[[str], Awaitable[None]]
    sent: Callable[[Report], None]
    interval: float = 30.0
    debounce: float = 1.0
    jitter: Callable[[], float] = random.random
    counted: Callable[[str], None] = lambda _: None
    last: Report | None = None
    failures: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _urgent: asyncio.Event = field(default_factory=asyncio.Event)
    _due: float = 0.0  # by the loop's clock: then a report goes whether or not there is something new to say

    def notify(self, *, urgent: bool = False) -> None:
        """Something changed; ``urgent``: pods wait, or a Lambda does."""
        self._wake.set()
        if urgent:
            self._urgent.set()

    async def run(self) -> None:
        """Until cancelled."""
        self._postpone()
        while True:
            await self._pause()
            report = self.build()
            if report is None:
                self._postpone()
                continue
            if self._only_noise(report):
                continue
            try:
                await self.send(encode_report(report))
            except Exception as error:  # whatever it was: the next report says it again
                self.failures += 1
                self.counted("failed")
                delay = min(_LAST_RETRY, _FIRST_RETRY * 2 ** (self.failures - 1)) * (0.5 + self.jitter() / 2)
                _log.warning("report not sent", extra={"why": str(error), "again_in": round(delay, 2)})
                await asyncio.sleep(delay)
                self.last = None
                self.notify(urgent=True)
                continue
            self.failures, self.last = 0, report
            self.counted("sent")
            self._postpone()
            self.sent(report)

    def _postpone(self) -> None:
        self._due = asyncio.get_running_loop().time() + self.interval * (0.9 + self.jitter() / 5)

    def _only_noise(self, report: Report) -> bool:
        """Woken by a change that was undone before the debounce ended, or by one that is none: the agent's clock ticks.

        Such a wake must not put the regular report off: it is what makes up for one that was lost on its way.
        """
        early = asyncio.get_running_loop().time() < self._due
        return early and self.last is not None and substance(self.last) == substance(report)

    async def _pause(self) -> None:
        # asyncio.timeout, not wait_for: in Python 3.11 that can swallow the cancellation that ends this loop
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._due):
                await self._wake.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.debounce):
                    await self._urgent.wait()
                await asyncio.sleep(_URGENT)
        self._wake.clear()
        self._urgent.clear()
