"""DELs that were told that they succeeded, and are still to be done: files on /run, which a boot empties.

The plugin keeps those here that found no agent (``cni/berth.c``), and those whose pod it could take from the kernel by
itself (``cni/unwire.c``): the agent does the rest within a second, and before anything that may depend upon it. A file
appears whole, by a rename, and goes after its DEL is done; a DEL done twice does nothing, so a kill in between is safe.
One that the kernel refuses stays for later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from berth_node import skel
from berth_node.measures import FAILED, OK
from berth_node.metrics import Histogram
from berth_node.pool import Key
from berth_node.skel import CniError
from berth_node.verbs import Verbs
from berth_node.wire import WireError, decode_body

__all__ = ["Kept", "Spool"]

_log = logging.getLogger(__name__)
_UNFINISHED: Final = 60.0
"""Seconds after which nobody is at a file that is not finished."""
_DOTS: Final = 3
_SECONDS: Final = 1.0
_DRAINS: Final = 2  # one that is at it, and one that will see what has come since


@dataclass(frozen=True, slots=True)
class Spool:
    """The folder of kept DELs, each a file ``<seconds>.<nanoseconds>.<process>.<index>``; with a leading dot it is not
    finished. The index is that of the host link which the plugin has buried, 0 if it has buried none: such a DEL
    concerns that pod alone, and no later one of its container.

    ``requests`` takes in the seconds and the outcome of each.
    """

    folder: Path
    requests: Histogram
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def open(self) -> None:
        """At a start: the folder is there, and holds nothing that plugins which were killed have not finished. Raises
        ``OSError``."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for path in self.folder.glob(".*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _UNFINISHED:
                    path.unlink()

    async def drain(self, verbs: Verbs) -> frozenset[Key]:
        """Do what is there when its turn comes; whose DELs could not be done, and stay. One that cannot be read is
        dropped with a log line: it can never be done. Raises ``OSError`` if the folder cannot be read."""
        async with self._lock:
            left = []
            for path in self._files():
                key = _key(path)
                if key and not await self._do(path, key, verbs):
                    left.append(key)
                await asyncio.sleep(0)  # an ADD is not to wait until a whole node is emptied
            return frozenset(left)

    def _files(self) -> list[Path]:
        return sorted(p for p in self.folder.iterdir() if not p.name.startswith("."))

    async def _do(self, path: Path, key: Key, verbs: Verbs) -> bool:
        since, outcome = time.perf_counter(), OK
        try:
            await verbs.delete_spooled(key, _index(path))
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - a tmpfs
        except Exception:
            outcome = FAILED
            _log.exception("spooled DEL failed; it is tried again", extra={"container": key[0]})
        self.requests.observe(time.perf_counter() - since, "DEL", outcome)
        return outcome == OK


class Kept:
    """Draining a spool for whoever needs it done. ``noting`` takes down what kind of error goes on."""

    def __init__(self, spool: Spool, verbs: Verbs, noting: Callable[..., AbstractContextManager[None]]) -> None:
        self._spool, self._verbs, self._noting = spool, verbs, noting
        self._under_way: set[asyncio.Future[frozenset[Key]]] = set()

    async def drain(self) -> frozenset[Key]:
        """Do the DELs; whose could not be done."""
        with self._noting("kept DELs", OSError):
            return await self._spool.drain(self._verbs)
        return frozenset()

    async def drain_soon(self) -> None:
        """Likewise, but wait for a second at most: a DEL may have to wait for another ADD of its container."""
        if len(self._under_way) < _DRAINS:
            draining = asyncio.ensure_future(self.drain())
            self._under_way.add(draining)
            draining.add_done_callback(self._under_way.discard)
        await asyncio.wait(self._under_way, timeout=_SECONDS)

    async def close(self) -> None:
        """What is not done is the next agent's."""
        for draining in self._under_way:
            draining.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


def _key(path: Path) -> Key | None:
    """Whose DEL it is. What is none is dropped; what cannot be read now (no descriptor is left, say) stays."""
    try:
        return skel.read_spooled_delete(decode_body(path.read_bytes())[0])
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("a kept DEL cannot be read", extra={"file": path.name, "why": str(error)})
        return None
    except (WireError, CniError) as error:
        _log.warning("spooled request dropped", extra={"file": path.name, "why": str(error)})
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def _index(path: Path) -> int:
    last = path.name.split(".")[-1] if path.name.count(".") == _DOTS else ""
    return int(last) if last.isascii() and last.isdecimal() else 0
