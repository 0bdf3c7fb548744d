"""SQS queues and Lambda's pollers in virtual time.

Lambda reads a queue with up to ``MaximumConcurrency`` concurrent invocations, each with what is visible then, ten
messages at the most and without waiting for more (BatchSize 10, no batching window: the template's mappings). It starts
with five and adds five a second (Lambda developer guide, "Scaling for standard queues": 5, and 300 more a minute).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.scale.assumed import COLD_START, SQS_DELIVERY
from tests.bench.scale.timeline import Timeline

__all__ = ["Function", "Message", "Queue"]

BATCH: Final = 10
_FIRST, _MORE_A_SECOND = 5, 5.0


@dataclass(slots=True)
class Message:
    """``sender`` is SQS's SenderId; ``sent_at`` seconds of the run."""

    body: str
    sender: str = ""
    sent_at: float = 0.0
    received: int = 0


class Function:
    """A function's execution environments: made when none is idle, which takes a cold start, and used again."""

    def __init__(self, timeline: Timeline, rng: random.Random, make: Callable[[], Any]) -> None:
        self._timeline, self._rng, self._make = timeline, rng, make
        self._idle: list[Any] = []
        self.cold_starts = 0

    def enter(self) -> Any:
        """An environment; for tasks alone."""
        if self._idle:
            return self._idle.pop()
        self.cold_starts += 1
        self._timeline.sleep(COLD_START.draw(self._rng))
        return self._make()

    def leave(self, environment: Any) -> None:
        self._idle.append(environment)


class Queue:
    """``work(environment, messages)`` handles a batch in a task and returns those that are to come again."""

    def __init__(
        self,
        timeline: Timeline,
        rng: random.Random,
        function: Function,
        work: Callable[[Any, Sequence[Message]], Sequence[Message]],
        concurrency: int,
        visibility: float,
    ) -> None:
        self._timeline, self._rng, self._function, self._work = timeline, rng, function, work
        self._most, self._visibility = concurrency, visibility
        self._visible: deque[Message] = deque()
        self._busy = 0
        self._since: float | None = None
        self._looking = False
        self.batches = self.messages = self.redelivered = self.longest = 0

    def send(self, message: Message, delay: float = 0.0) -> None:
        """It can be received in ``delay`` seconds."""
        message.sent_at = self._timeline.now
        self._timeline.after(delay, lambda: self._arrived(message))

    def _arrived(self, message: Message) -> None:
        if self._since is None:
            self._since = self._timeline.now
        self._visible.append(message)
        self.longest = max(self.longest, len(self._visible))
        self._poll()

    def _limit(self) -> int:
        since = self._timeline.now if self._since is None else self._since
        return min(self._most, _FIRST + int((self._timeline.now - since) * _MORE_A_SECOND))

    def _poll(self) -> None:
        if self._visible and not self._looking and self._busy < self._limit():
            self._looking = True
            self._busy += 1
            self._timeline.after(SQS_DELIVERY.draw(self._rng), self._receive)

    def _receive(self) -> None:
        self._looking = False
        batch = [self._visible.popleft() for _ in range(min(BATCH, len(self._visible)))]
        if not batch:
            self._busy -= 1
            return
        for message in batch:
            message.received += 1
        self.batches += 1
        self.messages += len(batch)
        self._timeline.start(lambda: self._invoke(batch))
        self._poll()

    def _invoke(self, batch: list[Message]) -> None:
        environment = self._function.enter()
        for message in self._work(environment, batch):
            self.redelivered += 1
            self.send(message, self._visibility)
        self._function.leave(environment)
        self._busy -= 1
        self._poll()
