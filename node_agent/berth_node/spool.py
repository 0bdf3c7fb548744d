"""DELs that were told that they succeeded, and are still to be done: files on /run, which a boot empties.

The plugin keeps those here that found no agent (``cni/berth.c``), and those whose pod it could take from the kernel by
itself (``cni/unwire.c``): the agent does the rest within a second, and before anything that may depend upon it. A file
appears whole, by a rename, and goes after its DEL is done; a DEL done twice does nothing, so a kill in between is safe.
One that the kernel refuses stays for later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from berth_node import skel
from berth_node.measures import FAILED, OK
from berth_node.metrics import Histogram
from berth_node.pool import Key
from berth_node.skel import CniError
from berth_node.verbs import Verbs
from berth_node.wire import WireError, decode_body

__all__ = ["Spool"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Spool:
    """The folder of kept DELs. A name with a leading dot is not finished. ``requests`` takes in the seconds and the
    outcome of each."""

    folder: Path
    requests: Histogram
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def _files(self) -> list[Path]:
        return sorted(p for p in self.folder.iterdir() if not p.name.startswith(".") and p.is_file())

    async def drain(self, verbs: Verbs) -> int:
        """Do what is there when its turn comes; returns how many DELs that were. One that cannot be read is dropped
        with a log line: it can never be done."""
        async with self._lock:
            done = 0
            for path in self._files():
                done += await self._do(path, verbs)
                await asyncio.sleep(0)  # an ADD is not to wait until a whole node is emptied
            return done

    def _key(self, path: Path) -> Key | None:
        """Whose DEL it is. What is none is dropped."""
        try:
            return skel.read_spooled_delete(decode_body(path.read_bytes())[0])
        except (WireError, CniError) as error:
            _log.warning("spooled request dropped", extra={"file": path.name, "why": str(error)})
            path.unlink()
            return None

    async def _do(self, path: Path, verbs: Verbs) -> bool:
        key, since, outcome = self._key(path), time.perf_counter(), OK
        if key is None:
            return False
        try:
            await verbs.delete_spooled(key)
            _remove(path)
        except Exception:
            outcome = FAILED
            _log.exception("spooled DEL failed; it is tried again", extra={"container": key[0]})
        self.requests.observe(time.perf_counter() - since, "DEL", outcome)
        return outcome == OK


def _remove(path: Path) -> None:
    path.unlink()
