"""What is untold of leases, through a reboot: ``/var/lib/berth/leases.json``, replaced by rename after fsync.

The journal is what counts; it is on a tmpfs, and ends with the boot. This file follows it by some ten seconds, and is
written once more when the agent is told to stop: only a node that loses its power, and its control plane just before,
has leases of those last seconds that nobody will ever tell of.

The next boot's journal takes over what is in here (:meth:`berth_node.desk.Desk.start`), as leases of the epoch before.
Killed while it does, it is done again: a lease that is told twice is the same lease.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from berth.contract import PodLease

from berth_node.durable import write_atomically
from berth_node.leases import Leases, read_row, row_fields

__all__ = ["LeaseFile"]

_log = logging.getLogger(__name__)
_SCHEMA: Final = 1
_APART: Final = 10.0  # seconds between writes


class LeaseFile:
    """The file of one instance: one that came with a machine image is another node's, and counts as empty."""

    def __init__(self, path: Path, instance_id: str) -> None:
        self.path, self._instance = path, instance_id
        self._written, self._at = -1, float("-inf")

    def load(self) -> tuple[PodLease, ...]:
        """The leases in it, each with its epoch; none if it is lost: they may have been told all the same."""
        try:
            body: Any = json.loads(self.path.read_text())
            if body["schema"] != _SCHEMA or body["instance"] != self._instance:
                return ()
            return tuple(read_row(row) for row in body["leases"])
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("untold leases cannot be read", extra={"path": str(self.path), "why": str(error)})
            return ()

    def due(self, leases: Leases, now: float) -> bool:
        """Whether it is time to write: something has changed, and the last time is long enough ago."""
        return leases.changes != self._written and now - self._at >= _APART

    def taken(self, leases: Leases, now: float) -> tuple[PodLease, ...]:
        """What to write now, for :meth:`save` in another thread."""
        self._written, self._at = leases.changes, now
        return tuple(replace(row, epoch=row.epoch or leases.epoch) for row in leases.untold.values())

    def save(self, rows: Iterable[PodLease]) -> None:
        """Write and fsync. Raises ``OSError``."""
        body = {"schema": _SCHEMA, "instance": self._instance, "leases": [row_fields(row) for row in rows]}
        write_atomically(self.path, json.dumps(body, separators=(",", ":")) + "\n")

    def failed(self) -> None:
        """It could not be written: it is tried again when it is due."""
        self._written = -1
