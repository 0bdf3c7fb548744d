"""The upkeep of the leases in the journal: their epoch, those of an earlier boot, those that have grown old.

Runs in the event loop's thread. All of it raises :class:`berth_node.journal.JournalError`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from berth_node.journal import Journal
from berth_node.leasefile import LeaseFile
from berth_node.leases import RETELL_SECONDS, new_epoch

__all__ = ["LeaseUpkeep"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class LeaseUpkeep:
    """``file`` holds what another boot left untold; ``clock`` and ``kernel_boot`` as the desk has them."""

    journal: Journal
    file: LeaseFile | None
    clock: Callable[[], float]
    kernel_boot: str
    _retold: float = 0.0

    def open_epoch(self, now: float) -> None:
        """A journal that knew no leases, or lost some, begins a new epoch."""
        leases = self.journal.leases
        if not leases.epoch or leases.lost_from:
            self.journal.epoch(new_epoch(self.kernel_boot), now)

    def begin(self, now: float) -> None:
        """Pods that an earlier version wired have their leases begun; what another boot left untold is taken over."""
        leases, self._retold = self.journal.leases, now
        for key, entry in list(self.journal.entries.items()):
            if entry.wired is not None and key not in leases.live:
                self.journal.wired(key, entry.wired)
        known = {replace(row, id=0, epoch=row.epoch or leases.epoch) for row in leases.untold.values()}
        for row in self.file.load() if self.file else ():
            if row.epoch not in ("", leases.epoch) and replace(row, id=0) not in known:
                self.journal.carry(row)
        self.journal.retell(leases.old(now))

    def renew(self) -> None:
        """Now and then: tell long leases again; begin a new epoch if leases had to be dropped and can now be told."""
        now, leases = self.clock(), self.journal.leases
        if leases.lost_from and leases.taken:
            _log.warning("more leases ended than could be kept for the ledger; it will say that it does not know")
            self.journal.epoch(new_epoch(self.kernel_boot), now)
        if now - self._retold >= RETELL_SECONDS:
            self._retold = now
            self.journal.retell(leases.old(now))

    def save(self) -> None:
        """Write what is untold of leases now. Raises ``OSError``."""
        if self.file:
            self.file.save(self.file.taken(self.journal.leases, self.clock()))
