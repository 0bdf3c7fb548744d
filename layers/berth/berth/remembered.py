"""Answers that a warm execution environment remembers for a stated time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

__all__ = ["Remembered"]

V = TypeVar("V")


class Remembered(Generic[V]):
    """What ``ask`` has answered for a key is good for ``seconds``. Keys without an answer are asked again each time."""

    def __init__(self, seconds: float, clock: Callable[[], float], ask: Callable[[list[str]], Mapping[str, V]]) -> None:
        self._seconds, self._clock, self._ask = seconds, clock, ask
        self._known: dict[str, tuple[float, V]] = {}

    def get(self, keys: Iterable[str]) -> dict[str, V]:
        """What there is for ``keys``, sorted. Asks once for all that are not known, or too long."""
        wanted, now = sorted(set(keys)), self._clock()
        unknown = [k for k in wanted if k not in self._known or now - self._known[k][0] >= self._seconds]
        if unknown:
            for key in unknown:
                self._known.pop(key, None)
            self._known |= {key: (now, value) for key, value in self._ask(unknown).items()}
        return {k: self._known[k][1] for k in wanted if k in self._known}

    def forget(self, older_than: float = 0.0) -> None:
        """Ask anew for what was answered at least so many seconds ago."""
        oldest = self._clock() - older_than
        self._known = {key: known for key, known in self._known.items() if known[0] > oldest}
