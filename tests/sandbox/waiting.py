"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["WaitedError", "eventually", "wait_for"]

_T = TypeVar("_T")


class WaitedError(TimeoutError):
    """Something did not come true in time. The message says what, and what was seen last."""


def wait_for(what: str, look: Callable[[], _T | None], seconds: float = 30.0, every: float = 0.1) -> _T:
    """Poll until ``look`` gives something true, and return that. Raises :class:`WaitedError`."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise WaitedError(f"waited {seconds:.0f} s for {what}; last seen: {seen!r:.300}")
        time.sleep(every)


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while not (met := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return met
