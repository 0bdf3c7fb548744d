"""DELs that were told that they succeeded, and are still to be done: kept in files on /run, which a boot empties.

The plugin keeps those here that found no agent (``cni/berth.c``), and the agent those that it could not do and that
nobody waits for. A file appears whole, by a rename, and goes after its DEL is done; a DEL done twice does nothing, so a
kill in between is safe. One that the kernel refuses stays for later.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from berth_node import skel
from berth_node.skel import CniError
from berth_node.verbs import Verbs
from berth_node.wire import WireError, decode_body, encode_body

__all__ = ["Spool"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Spool:
    """The folder of kept DELs. A name with a leading dot is not finished."""

    folder: Path

    def _files(self) -> list[Path]:
        return sorted(p for p in self.folder.iterdir() if not p.name.startswith("."))

    async def drain(self, verbs: Verbs) -> int:
        """Do the DELs; returns how many. One that cannot be read is dropped with a log line: it can never be done."""
        done = 0
        for path in self._files():
            try:
                environment, _ = decode_body(path.read_bytes())
                key = skel.read_spooled_delete(environment)
            except (WireError, CniError) as error:
                _log.warning("spooled request dropped", extra={"file": path.name, "why": str(error)})
                path.unlink()
                continue
            try:
                await verbs.delete_spooled(key)
            except Exception:
                _log.exception("spooled DEL failed; it is tried again", extra={"container": key[0]})
                continue
            path.unlink()
            done += 1
        return done

    def keep(self, environment: Mapping[str, str]) -> None:
        """A DEL for later. Raises ``OSError``."""
        name = f"{time.time():.9f}.{os.getpid()}.agent"
        draft = self.folder / f".{name}"
        draft.write_bytes(encode_body(environment))
        draft.replace(self.folder / name)
