"""ADDs that wait: each asks its own probe, after each change of what the node knows, until that gives something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from berth_node.pool import Key

__all__ = ["Waits"]

_T = TypeVar("_T")


@dataclass(slots=True)
class Waits:
    """In the order in which they came."""

    _waiting: dict[Key, tuple[Callable[[], Any], asyncio.Future[Any]]] = field(default_factory=dict)
    _refused: dict[Key, list[Exception]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def wait(self, key: Key, probe: Callable[[], _T | None], gone: asyncio.Event, seconds: float) -> _T | None:
        """What ``probe`` gives as soon as it gives something; None when time is up or the plugin has hung up.

        Raises what ``probe`` does, and what :meth:`refuse` is given.
        """
        if (found := probe()) is not None:
            return found
        if key in self._refused:
            raise self._refused[key][0]
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._waiting[key] = (probe, future)
        hang_up = asyncio.ensure_future(gone.wait())
        try:
            waits: set[asyncio.Future[Any]] = {future, hang_up}
            await asyncio.wait(waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
            return future.result() if future.done() else None
        finally:
            hang_up.cancel()
            self._waiting.pop(key, None)

    def serve(self) -> None:
        """Ask again for each that waits."""
        for probe, future in list(self._waiting.values()):
            if future.done():
                continue
            try:
                found = probe()
            except Exception as error:  # the ADD's own to tell
                future.set_exception(error)
                continue
            if found is not None:
                future.set_result(found)

    def refuse(self, key: Key, error: Exception) -> None:
        """End one's waiting, and do not let it begin before as many :meth:`allow`: an ADD that has what it waited for
        first may be about to wait for something else, and one whose turn has not come, to wait at all."""
        self._refused.setdefault(key, []).append(error)
        waiting = self._waiting.get(key)
        if waiting and not waiting[1].done():
            waiting[1].set_exception(error)

    def allow(self, key: Key) -> None:
        """Take back one :meth:`refuse`."""
        errors = self._refused[key]
        errors.pop()
        if not errors:
            del self._refused[key]

    def abandon(self) -> None:
        """The agent stops: drop the ADDs unanswered, so that their plugins ask the next agent."""
        for _, future in self._waiting.values():
            future.cancel()
