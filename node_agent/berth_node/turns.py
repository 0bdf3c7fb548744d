"""Requests of one container take turns."""

from __future__ import annotations

import asyncio

__all__ = ["Turn"]


class Turn:
    """A turn of one container. ``turns`` holds, by container, its lock as often as it has requests."""

    def __init__(self, turns: dict[str, list[asyncio.Lock]], container_id: str) -> None:
        self._turns, self._id = turns, container_id

    async def __aenter__(self) -> None:
        locks = self._turns.get(self._id) or self._turns.setdefault(self._id, [])
        lock = locks[0] if locks else asyncio.Lock()
        locks.append(lock)
        try:
            await lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._turns[self._id][0].release()
        self._leave()

    def _leave(self) -> None:
        locks = self._turns[self._id]
        locks.pop()
        if not locks:
            del self._turns[self._id]
