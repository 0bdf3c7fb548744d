"""Waiting for what happens on another thread."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["eventually"]


def eventually(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Ask until it holds. Fails after ``seconds``, which only a broken machine reaches."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.01)
