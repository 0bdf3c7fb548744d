"""Word left for plugins: what takes each pod from the kernel when its DEL comes, so that no DEL waits for the agent.

One file for each pod whose end needs no more than that (``cni/unwire.c``), by the name of its host link. They follow
the journal some time later, in both directions: a pod without one has its DEL done by the agent, and one that is left
over does nothing, since the kernel takes away only what is still as it says. A new agent starts with none.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from berth_node.durable import write_atomically
from berth_node.journal import Entry
from berth_node.pool import Key
from berth_node.seams import Attachment

__all__ = ["UnwireFiles"]

_AT_ONCE: Final = 32
"""Files written in one call, which holds up the event loop: some 2 ms."""


@dataclass(slots=True)
class UnwireFiles:
    """``entries`` are all lent addresses; ``content`` is :meth:`berth_node.seams.Dataplane.unwiring`."""

    folder: Path
    entries: Callable[[], Mapping[Key, Entry]]
    content: Callable[[Attachment], bytes]
    _written: dict[str, Attachment] = field(default_factory=dict)

    def clear(self) -> None:
        """Away with all of them, an earlier agent's too. Raises ``OSError``."""
        self._written.clear()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)
        self.folder.mkdir(mode=0o700)

    def settle(self) -> None:
        """Remove what is left over, write what is missing: some of it, if it is much. Raises ``OSError``, and
        ``ValueError`` for addresses that are none."""
        if not self.folder.exists():
            self.clear()
        wanted = {e.attachment.host_ifname: e.attachment for e in self.entries().values() if e.wired}
        for name in [name for name, attachment in self._written.items() if wanted.get(name) != attachment]:
            (self.folder / name).unlink(missing_ok=True)
            del self._written[name]
        missing = [attachment for name, attachment in wanted.items() if name not in self._written]
        for attachment in missing[:_AT_ONCE]:
            if content := self.content(attachment):
                write_atomically(self.folder / attachment.host_ifname, content, 0o600)
            self._written[attachment.host_ifname] = attachment
