"""The pods of this boot, in an append-only file on tmpfs: what survives the agent's death, but not the node's.

One JSON object a line. A line is written by one ``write`` and counts once its newline is there, so a kill at any byte
leaves either the old state or the new one: the torn rest is cut off when the file is opened. No fsync: a reboot ends
every pod and the tmpfs with them (and what must survive that is in :mod:`berth_node.durable`).

The same lines say which leases have begun and ended (:mod:`berth_node.leases`): a lease begins with the line ``wired``
and ends with ``free``, so it is known exactly if the pod is, and costs no write of its own. Ids of leases are in the
lines: whatever is read again after a kill has the same ones.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from berth.contract import PodLease

from berth_node import compact
from berth_node.leases import Leases, read_row, row_fields
from berth_node.pool import Key
from berth_node.seams import Attachment, Wired

__all__ = ["Entry", "Journal", "JournalError"]

_log = logging.getLogger(__name__)
_COMPACT_AFTER: Final = 1000  # dead lines; each pod leaves three or so

# a line of an older version lacks the fields that came after it: those have defaults
_FIELDS: Final = (
    "container_id",
    "ifname",
    "address",
    "host_ifname",
    "namespace",
    "name",
    "uid",
    "attached_at",
    "mtu",
    "ports",
    "address6",
    "annotations",
    "table",
)


class JournalError(Exception):
    """The journal could not be written; nothing was changed. The message says what to free or fix."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A lent address. ``wired`` is None until the kernel has it all; empty MACs mean "found in the kernel"."""

    attachment: Attachment
    wired: Wired | None = None


@dataclass(slots=True)
class Journal:
    """The open journal with its replayed content: ``entries`` by key, and ``cooling`` address → until.

    ``made``: there was no file; what an earlier agent of this boot may have written is gone.
    """

    path: Path
    entries: dict[Key, Entry] = field(default_factory=dict)
    cooling: dict[str, float] = field(default_factory=dict)
    made: bool = False
    leases: Leases = field(default_factory=Leases)
    _fd: int = -1
    _size: int = 0
    _lines: int = 0

    @classmethod
    def open(cls, path: Path) -> Self:
        """Replay the file (made if absent), cutting a torn last line off."""
        journal = cls(path, made=not path.exists())
        path.parent.mkdir(parents=True, exist_ok=True)
        journal._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(os.dup(journal._fd), "rb") as file:
            content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            _log.warning("journal: cut a torn last line off", extra={"bytes": len(content) - whole})
            os.ftruncate(journal._fd, whole)
        journal._size = whole
        for line in content[:whole].splitlines():
            journal._lines += 1
            try:
                journal._apply(json.loads(line))
            except (ValueError, KeyError, TypeError):
                # Not ours to guess: the kernel is the second witness, and the next compaction drops the line.
                _log.exception("journal: skipped a line that cannot be read", extra={"line": journal._lines})
        return journal

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # --------------------------------------------------------------------------------------------- events

    def lend(self, attachment: Attachment) -> None:
        """The address is this attachment's; nothing is wired yet."""
        self._write(_lent(attachment))
        self._keep(attachment)

    def wired(self, key: Key, wired: Wired) -> None:
        """The kernel has it all: its lease has begun, if it had not before."""
        first = 0 if key in self.leases.live else self.leases.last + 1
        self._write(_wired(key, wired, first))
        entry = self.entries[key] = Entry(self.entries[key].attachment, wired)
        if first:
            self.leases.begin(first, key, entry.attachment)

    def free(self, key: Key, until: float, *, at: float = 0.0, held_until: float = 0.0) -> None:
        """The kernel has nothing of it any more; its address cools until then. ``at`` is now.

        ``held_until``: its end was not seen, and this is when it last was known to be there.
        """
        event: dict[str, Any] = {"op": "free", "key": list(key), "until": until}
        first, at = self.leases.last + 1, at or until
        if key in self.leases.live:
            event |= {"lease": first, "at": at} | ({"held": held_until} if held_until else {})
        self._write(event)
        self._rest(self.entries.pop(key).attachment.address, until)
        self.leases.end(first, key, at, held_until)

    def epoch(self, epoch: str, since: float) -> None:
        """From now on everything is known of leases: what goes on is told anew."""
        self._write(_epoch(epoch, since, self.leases.last, 0.0))
        self.leases.start(epoch, since, self.leases.last, 0.0)

    def retell(self, keys: Iterable[Key]) -> None:
        """Have these leases told once more. Their new ids are taken first: killed in between, they are only unused."""
        keys, leases = list(keys), self.leases
        first = leases.last + 1
        last = leases.last + sum(len(leases.live[key]) for key in keys)
        if keys:
            self._write(_epoch(leases.epoch, leases.since, last, leases.lost_from))
            leases.retell(keys, first)

    def carry(self, row: PodLease) -> None:
        """A lease of an earlier epoch is still to be told."""
        row = replace(row, id=self.leases.last + 1)
        self._write({"op": "row", **row_fields(row)})
        self.leases.carry(row)

    def forget_cooled(self, cooling: Container[str]) -> None:
        """Drop all but these from memory, so that the next compaction leaves it out."""
        self.cooling = {a: until for a, until in self.cooling.items() if a in cooling}

    # --------------------------------------------------------------------------------------------- the file

    def _apply(self, event: Mapping[str, Any]) -> None:
        op = event["op"]
        if op == "cool":
            self.cooling[event["address"]] = float(event["until"])
            return
        if op == "lend":
            self._keep(Attachment(**{name: event[name] for name in _FIELDS if name in event}))
            return
        if op == "epoch":
            lost = float(event.get("lost", 0.0))
            self.leases.start(event["epoch"], float(event["since"]), int(event["last"]), lost)
            return
        if op == "row":
            self.leases.carry(read_row(event))
            return
        container_id, ifname = event["key"]
        key = (container_id, ifname)
        if op == "wired":
            wired = Wired(event["host_mac"], event["pod_mac"], event["host_ifindex"])
            self.entries[key] = replace(self.entries[key], wired=wired)
            if "lease" in event:
                self.leases.begin(int(event["lease"]), key, self.entries[key].attachment)
        elif op == "free":
            self._rest(self.entries.pop(key).attachment.address, float(event["until"]))
            if "lease" in event:
                self.leases.end(int(event["lease"]), key, float(event["at"]), float(event.get("held", 0.0)))
            else:
                self.leases.forget(key)
        else:
            raise ValueError(f"unknown op {op!r}")

    def _rest(self, address: str, until: float) -> None:
        if ":" not in address:  # that of a pod of IPv6 alone never comes again
            self.cooling[address] = until

    def _keep(self, attachment: Attachment) -> None:
        self.entries[attachment.key] = Entry(attachment)
        self.cooling.pop(attachment.address, None)

    def _write(self, event: Mapping[str, Any]) -> None:
        if self._lines > _COMPACT_AFTER + 3 * (len(self.entries) + len(self.cooling) + len(self.leases.untold)):
            self._compact()
        line = _line(event)
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError("only part of a line could be written")
        except OSError as error:
            os.ftruncate(self._fd, self._size)  # never leave half a line in front of the next one
            raise JournalError(f"{self.path} cannot be written: {error}; is {self.path.parent} full?") from error
        self._size += len(line)
        self._lines += 1

    def _compact(self) -> None:
        """Write what still counts to a new file and rename it into place.

        A kill before the rename leaves the old file, whole; after it, the new one. A file that cannot be written is no
        failure: the old one still holds everything.
        """
        events, leases = [], self.leases
        if leases.epoch:
            events.append(_epoch(leases.epoch, leases.since, leases.last, leases.lost_from))
        for key, entry in self.entries.items():
            events.append(_lent(entry.attachment))
            if entry.wired:
                # a lease that was told already is read back as untold: the ledger's next answer says that it was
                lease = leases.live[key][0].id if key in leases.live else 0
                events.append(_wired(key, entry.wired, lease))
        events += [{"op": "row", **row_fields(row)} for row in leases.untold.values() if row.ended or row.epoch]
        events += [{"op": "cool", "address": a, "until": until} for a, until in self.cooling.items()]
        content = b"".join(map(_line, events))
        draft = self.path.with_suffix(".new")
        try:
            draft.write_bytes(content)
            draft.chmod(0o600)
            fd = os.open(draft, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            draft.replace(self.path)
        except OSError:
            _log.exception("journal: compaction failed; the old file stays")
            return
        os.close(self._fd)
        self._fd, self._size, self._lines = fd, len(content), len(events)


def _line(event: Mapping[str, Any]) -> bytes:
    return compact.encode(event).encode() + b"\n"


def _lent(attachment: Attachment) -> dict[str, Any]:
    return {"op": "lend", **{name: getattr(attachment, name) for name in _FIELDS}}


def _wired(key: Key, wired: Wired, lease: int = 0) -> dict[str, Any]:
    macs = {"host_mac": wired.host_mac, "pod_mac": wired.pod_mac, "host_ifindex": wired.host_ifindex}
    return {"op": "wired", "key": list(key), **macs, **({"lease": lease} if lease else {})}


def _epoch(epoch: str, since: float, last: int, lost: float) -> dict[str, Any]:
    return {"op": "epoch", "epoch": epoch, "since": since, "last": last, "lost": lost}
