"""Tells subscribers that the simulated EC2 changed. Carries nothing: whoever cares takes a new snapshot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["notify", "subscribe"]

_subscribers: Final[list[Callable[[], None]]] = []


def subscribe(callback: Callable[[], None]) -> Callable[[], None]:
    """Call ``callback`` after each change, from the thread that made it, with the API lock held.

    It must be cheap and must not raise (set a flag, wake a loop). Returns a function that ends the subscription.
    """
    _subscribers.append(callback)

    def end() -> None:
        if callback in _subscribers:
            _subscribers.remove(callback)

    return end


def notify() -> None:
    """Say that something changed that may alter the World."""
    for callback in tuple(_subscribers):
        callback()
