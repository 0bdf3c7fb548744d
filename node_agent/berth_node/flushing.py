"""Has the kernel forget returned addresses' connections, in batches: what a DEL would have to wait for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Final

from berth_node.desk import Desk
from berth_node.seams import DataplaneError

__all__ = ["Flushing"]

_log = logging.getLogger(__name__)
_PAUSE: Final = 5.0  # seconds between batches, of a cooldown of 120; while pods wait for addresses:
_HURRY: Final = 0.5
_BATCH: Final = 64


@dataclass(slots=True)
class Flushing:
    """``flush`` blocks and may run beside the rtnl thread; ``changed`` is called when addresses may have become free.

    Killed at any point: the next start does not know what was flushed, so everything that cools is flushed again.
    """

    desk: Desk
    flush: Callable[[Collection[str]], None]
    changed: Callable[[], None]
    note: Callable[[str, Exception], None]
    trouble: MutableMapping[str, str]

    async def run(self) -> None:
        """Until cancelled; a first batch at once."""
        waited = _PAUSE
        while True:
            if self.desk.unflushed and (waited >= _PAUSE or self.desk.pool.waiting):
                await self.once()
                waited = 0.0
            await asyncio.sleep(_HURRY)
            waited += _HURRY

    async def once(self) -> None:
        """Flush what is to be flushed now.

        What the kernel cannot do at all must not keep the node's addresses for ever: then the cooldown alone has to do.
        """
        every = sorted(self.desk.unflushed)
        for start in range(0, len(every), _BATCH):
            batch = every[start : start + _BATCH]
            try:
                await asyncio.to_thread(self.flush, self.desk.with_ipv6(batch))
                self.trouble.pop("connections", None)
            except DataplaneError as error:
                self.note("connections", error)
                if error.temporary:
                    return
            self.desk.flushed(batch)
        self.changed()
