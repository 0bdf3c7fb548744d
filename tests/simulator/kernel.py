"""Virtual time, and the processes that run in it: each invocation of a Lambda is one.

Every call that a process makes of an edge is a *step*. Between two steps a process may die, be held up while others
run, or be killed by its time-out. A process in the background runs in a thread of its own, and hands over at every
step: exactly one thread runs at any time, so a schedule is the same each time it is run.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.unit.control.fakes import Died

__all__ = ["Background", "Died", "Kernel", "Process"]


@dataclass(eq=False)
class Process:
    """``skew`` is its host's clock against the true time. Killed at ``killed_at``, unless it is a ``runaway``: one
    whose host was held up for longer than anybody expects. Dies before its step number ``dies_at``."""

    name: str
    skew: float = 0.0
    dies_at: int | None = None
    drops_at: int | None = None
    loses_at: int | None = None
    killed_at: float = float("inf")
    runaway: bool = False
    steps: int = 0
    dead: bool = False
    background: Background | None = None

    def fate(self) -> str:
        """What becomes of the call of the present step: "dropped", "lost", or "" for nothing special."""
        step = self.steps - 1
        return "dropped" if step == self.drops_at else "lost" if step == self.loses_at else ""


class Background:
    """A process that runs a few steps whenever it is told to."""

    def __init__(self, kernel: Kernel, process: Process, work: Callable[[], None]) -> None:
        self._kernel, self.process, self._work = kernel, process, work
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._left = 0
        self._failure: BaseException | None = None
        self.done = False
        process.background = self
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def advance(self, steps: int) -> None:
        """Run it for so many steps, or to its end. Raises what it raised, but for :class:`Died`."""
        if self.done:
            return
        others, self._kernel.current = self._kernel.current, self.process
        self._left = steps
        self._go.release()
        self._stopped.acquire()
        self._kernel.current = others
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def pause(self) -> None:
        """Called by the process itself, at a step."""
        if self._left <= 0:
            self._stopped.release()
            self._go.acquire()
        self._left -= 1

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._work()
        except BaseException as error:  # handed to whoever runs the schedule
            self._failure = error
        self.done = True
        self._stopped.release()


@dataclass
class Kernel:
    """``now`` is the true time. ``latency`` is what a step takes. ``say`` tells the trace, if there is one."""

    now: float = 1_000_000.0
    latency: float = 0.02
    current: Process | None = None
    trace: Callable[[str], None] | None = None
    _timers: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def step(self, what: str) -> None:
        """A process is about to make a call. Raises :class:`Died`."""
        process = self.current
        if process is None:
            return
        if process.dead:
            raise Died
        if process.steps == process.dies_at:
            process.dead = True
            self.say(f"dies before {what}")
            raise Died
        process.steps += 1
        self.pause()
        if self.now > process.killed_at and not process.runaway:
            process.dead = True
            self.say(f"timed out before {what}")
            raise Died
        self.advance(self.latency)

    def pause(self) -> None:
        """The present process may be held up here: before a call, when the request is on its way, or after it."""
        if self.current is not None and self.current.background is not None:
            self.current.background.pause()

    def fate(self) -> str:
        """Of the present step's call, as :meth:`Process.fate`."""
        return self.current.fate() if self.current else ""

    def clock(self, process: Process) -> Callable[[], float]:
        """The clock of the process's host."""
        return lambda: self.now + process.skew

    def advance(self, seconds: float) -> None:
        """Time passes; what is due happens."""
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            due, _, happen = heapq.heappop(self._timers)
            self.now = max(self.now, due)
            happen()
        self.now = until

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Have something happen later; at once, if ``seconds`` is 0."""
        if seconds <= 0:
            happen()
        else:
            heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), happen))

    def say(self, text: str) -> None:
        if self.trace is not None:
            who = self.current.name if self.current else "-"
            self.trace(f"{self.now - 1_000_000:10.2f}  {who:<10} {text}")
