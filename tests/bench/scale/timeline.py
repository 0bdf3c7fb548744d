"""Virtual time: a queue of things to happen, and tasks that may sleep in the middle of ordinary blocking code.

Berth's control plane is plain synchronous code. To let many invocations of it overlap in virtual time, each runs in a
thread of its own, and a baton makes sure that exactly one of them runs at any moment: a task that sleeps runs the
timeline itself until the next task is due, and hands it the baton. So the order is that of virtual time, always the
same for the same seed, whatever the machine does.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

__all__ = ["Timeline"]

_STACK_BYTES: Final = 512 * 1024


class _ClosedError(BaseException):
    """The run is over. Not an Exception: what runs must not take it for trouble of its own."""


class _Task:
    """One thread and its baton: a lock that is held by whoever must wait."""

    def __init__(self) -> None:
        self.baton = threading.Lock()
        self.baton.acquire()
        self.job: Callable[[], None] | None = None
        self.thread: threading.Thread | None = None


_Event: TypeAlias = "Callable[[], None] | _Task"


class Timeline:
    """``now`` is in seconds since the run began. Use it from one thread, and from the tasks that it starts."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, _Event]] = []
        self._order = itertools.count()
        self._idle: list[_Task] = []
        self._tasks: list[_Task] = []
        self._main = _Task()
        self._current = self._main
        self._stopped = self._closed = False
        self._failure: BaseException | None = None

    # ------------------------------------------------------------------------------------------------ for callers

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Call ``what`` at ``when``; it must not sleep."""
        self._push(max(when, self.now), what)

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self._push(self.now + seconds, what)

    def start(self, job: Callable[[], None]) -> None:
        """Run ``job`` as a task, from now on; it may sleep."""
        task = self._idle.pop() if self._idle else self._new_task()
        task.job = job
        self._push(self.now, task)

    def sleep(self, seconds: float) -> None:
        """For tasks alone: let ``seconds`` pass."""
        if self._closed:
            raise _ClosedError
        due = self.now + seconds
        if not self._queue or self._queue[0][0] > due:
            self.now = due  # nothing else happens meanwhile
            return
        me = self._current
        self._push(due, me)
        self._hand_over(me)

    def run(self) -> None:
        """Until :meth:`stop`. Raises what a task or a call has raised; ``RuntimeError`` if nothing is left to do."""
        self._hand_over(self._main)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End :meth:`run` once the present moment is over."""
        if not self._stopped:
            self._stopped = True
            self._push(self.now, self._main)

    def close(self) -> None:
        """End all threads; tasks that still sleep are broken off."""
        self._closed = True
        for task in self._tasks:
            task.baton.release()
            if task.thread is not None:
                task.thread.join()

    # ------------------------------------------------------------------------------------------------ the baton

    def _push(self, when: float, event: _Event) -> None:
        heapq.heappush(self._queue, (when, next(self._order), event))

    def _hand_over(self, me: _Task) -> None:
        """Run what is due until a task is, and wait until that is ``me``."""
        following = self._next_task()
        if following is me:
            return
        following.baton.release()
        me.baton.acquire()
        if self._closed:
            raise _ClosedError

    def _next_task(self) -> _Task:
        while self._failure is None and self._queue:
            self.now, _, event = heapq.heappop(self._queue)
            if isinstance(event, _Task):
                self._current = event
                return event
            try:
                event()
            except BaseException as error:
                self._failure = error
        if self._failure is None:
            self._failure = RuntimeError(f"nothing is left to happen after {self.now:.1f} s, and nobody said stop")
        self._current = self._main
        return self._main

    def _new_task(self) -> _Task:
        task = _Task()
        threading.stack_size(_STACK_BYTES)
        task.thread = threading.Thread(target=self._work, args=(task,), daemon=True)
        task.thread.start()
        threading.stack_size(0)
        self._tasks.append(task)
        return task

    def _work(self, task: _Task) -> None:
        task.baton.acquire()
        while not self._closed:
            try:
                if task.job is not None:
                    task.job()
            except _ClosedError:
                return
            except BaseException as error:
                self._failure = error
            task.job = None
            self._idle.append(task)
            following = self._next_task()  # which may be this one again, with its next job
            if following is not task:
                following.baton.release()
                task.baton.acquire()
