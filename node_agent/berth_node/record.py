"""The node's record: read consistently from DynamoDB, kept on disk, never replaced by an older one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from berth.contract import (
    BODY,
    KIND,
    LEASES,
    NODE,
    RECORD_KIND,
    REPORT_KIND,
    ContractError,
    Record,
    Told,
    decode_record,
    encode_record,
)

from berth_node.durable import write_atomically
from berth_node.imds import Identity

__all__ = ["RecordKeeper", "newer"]

_log = logging.getLogger(__name__)


_WIDEST: Final = 24


def _read(text: str) -> Record:
    """A record of blocks whose addresses can be counted out. Raises ``ContractError``.

    EC2 assigns /28 prefixes and single addresses; a block of millions would take the node's memory.
    """
    record = decode_record(text)
    for interface in record.interfaces:
        for block in interface.assignments:
            if int(block.cidr.partition("/")[2] or 32) < _WIDEST:
                raise ContractError("record.interfaces", f"the block {block.cidr} is wider than a /{_WIDEST}")
    return record


def newer(current: Record | None, offered: Record, arn: str) -> Record | None:
    """Which record is in force: the offered one unless it is another node's or its revision is lower."""
    if offered.instance_arn != arn:
        return current
    return current if current and offered.revision < current.revision else offered


@dataclass(slots=True)
class RecordKeeper:
    """The record in force. ``get_item(key)`` reads the node's own item and may raise anything.

    The copy on disk has the instance id in its name: a machine image must not bring another node's record along.
    """

    identity: Identity
    folder: Path
    get_item: Callable[[Mapping[str, str]], Mapping[str, str]]
    current: Record | None = None

    @property
    def path(self) -> Path:
        """Where the copy is."""
        return self.folder / f"record.{self.identity.instance_id}.json"

    def load(self) -> Record | None:
        """Take the copy on disk, for a start while the control plane is down."""
        try:
            self.current = newer(self.current, _read(self.path.read_text()), self.identity.arn)
        except FileNotFoundError:
            return self.current
        except (OSError, ValueError) as error:
            _log.warning("the record's copy on disk cannot be used", extra={"path": str(self.path), "why": str(error)})
        return self.current

    def fetch(self) -> Record | None:
        """Read the record and return what is in force; blocks. Raises what ``get_item`` does, and ``ContractError``.

        A missing item counts as unreachable, not as empty: an item deleted by mistake must not take the addresses of
        running pods away.
        """
        item = self.get_item({NODE: self.identity.arn, KIND: RECORD_KIND})
        if BODY not in item:
            if self.current:
                _log.warning("the node's record is gone; the last one stays in force")
            return self.current
        offered = _read(item[BODY])
        if offered.instance_arn != self.identity.arn:
            raise ContractError(
                "record.instance_arn", f"expected {self.identity.arn}, got {offered.instance_arn!r:.120}"
            )
        chosen = newer(self.current, offered, self.identity.arn)
        if chosen != self.current and chosen is not None:
            # Disk first: a record that was acted upon must never be forgotten for an older one after a restart.
            write_atomically(self.path, encode_record(chosen))
            self.current = chosen
        return self.current

    def fetch_told(self) -> Told | None:
        """Which leases the ledger has; None if nothing says so: there is no report yet, or the stack is of before it.

        Blocks. Raises what ``get_item`` does.
        """
        item = self.get_item({NODE: self.identity.arn, KIND: REPORT_KIND})
        return Told.read(item[LEASES]) if LEASES in item else None
