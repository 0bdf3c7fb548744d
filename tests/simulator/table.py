"""The node table in memory, with the conditions of the real one's writes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from berth.buckets import Reservation
from berth.contract import Record, Report, decode_record, decode_report, encode_record, encode_report
from berth.events import Signal
from berth.intents import decode_intents, encode_intents
from berth.model import Intent, Notes
from berth.node_items import Heard
from berth.store import NodeState, RevisionConflictError, digest

from tests.simulator.ec2 import Faults
from tests.simulator.kernel import Kernel

__all__ = ["Item", "Table", "TableTroubleError"]


IN_FLIGHT_SECONDS: Final = 40.0
"""A request arrives within three attempts of the client (berth.ec2.CLIENT_CONFIG) or not at all."""


class TableTroubleError(Exception):
    """DynamoDB was throttled, or did not answer, for longer than boto3 tries."""


@dataclass(slots=True)
class Item:
    """What the table holds of one node, but for its lease."""

    record: Record | None = None
    marked: tuple[tuple[str, int], ...] = ()
    notes: Notes = field(default_factory=Notes)
    report: Report | None = None
    intents: tuple[Intent, ...] = ()
    slots: tuple[Reservation, ...] = ()
    expires_at: float | None = None
    requested_at: float = 0.0
    heard: Heard = field(default_factory=Heard)


@dataclass
class Table:
    """``wire``: values go through their JSON, so that nothing survives that would not survive there. ``watch`` is
    called with each record that is written."""

    kernel: Kernel
    rng: random.Random
    faults: Faults
    wire: bool = False
    watch: Callable[[str, Record], None] = lambda _arn, _record: None
    items: dict[str, Item] = field(default_factory=dict)
    leases: dict[str, tuple[str, float, int]] = field(default_factory=dict)
    revisions: int = 0

    def record(self, arn: str) -> Record | None:
        """What the node reads."""
        item = self.items.get(arn)
        return item.record if item else None

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]:
        self._call("load")
        loaded = {arn: self._state(self.items.get(arn) or Item()) for arn in arns}
        self.kernel.pause()
        return loaded

    def records(self) -> Iterator[tuple[str, NodeState]]:
        self._call("scan")
        for arn, item in list(self.items.items()):
            if item.record:
                yield arn, self._state(item)

    @staticmethod
    def _state(item: Item) -> NodeState:
        return NodeState(
            record=item.record,
            marked=item.marked,
            notes=item.notes,
            report=item.report,
            intents=item.intents,
            buried=item.expires_at is not None,
            slots=item.slots,
            heard=item.heard,
        )

    # ------------------------------------------------------------------------------------------- writing

    def save(self, arn: str, record: Record, marked: tuple[tuple[str, int], ...], notes: Notes) -> None:
        lost = self._call("save", arn)
        item = self._write(arn, record)
        item.marked, item.expires_at = marked, None
        kept = item.notes
        item.notes = replace(
            notes,
            draining_until=kept.draining_until,
            requested=kept.requested,
            requested_until=kept.requested_until,
            hook_group=kept.hook_group,
            hook_name=kept.hook_name,
            hook_at=kept.hook_at,
        )
        self._answer(lost)

    def bury(self, arn: str, record: Record, expires_at: float) -> None:
        lost = self._call("bury", arn)
        item = self.items.setdefault(arn, Item())
        item.report, item.intents, item.slots, item.heard = None, (), (), Heard()
        self._write(arn, record)
        item.marked, item.notes, item.expires_at, item.requested_at = (), Notes(), expires_at, 0.0
        self._answer(lost)

    def _write(self, arn: str, record: Record) -> Item:
        item = self.items.setdefault(arn, Item())
        if item.record is not None and not _may_follow(record, item.record):
            raise RevisionConflictError(f"{arn}: revision {record.revision} cannot follow {item.record.revision}")
        self.revisions += item.record is None or item.record.revision != record.revision
        item.record = decode_record(encode_record(record)) if self.wire else record
        self.watch(arn, item.record)
        return item

    def save_intents(self, arn: str, intents: Sequence[Intent], slots: Sequence[Reservation] = ()) -> None:
        lost = self._call("save_intents", arn)
        item = self.items.setdefault(arn, Item())
        item.slots = tuple(slots)
        item.intents = decode_intents(encode_intents(intents)) if self.wire else tuple(intents)
        self._answer(lost)

    def accept_report(self, arn: str, report: Report, heard: Heard | None = None) -> bool:
        lost = self._call("accept_report", arn)
        item = self.items.setdefault(arn, Item())
        accepted = item.report is None or item.report.order <= report.order
        if accepted:
            item.report = decode_report(encode_report(report)) if self.wire else report
            item.heard = heard or Heard()
        self._answer(lost)
        return accepted

    def hint(self, arn: str, signal: Signal) -> bool:
        lost = self._call("hint", arn)
        item = self.items.get(arn)
        if item is None or item.record is None or item.expires_at is not None:
            return False
        if signal.requested_until > 0:
            if item.requested_at > signal.requested_at:
                return False
            item.requested_at = signal.requested_at
            item.notes = replace(item.notes, requested=signal.requested, requested_until=signal.requested_until)
        if signal.draining_until > 0:
            item.notes = replace(item.notes, draining_until=signal.draining_until)
        if signal.hook_name:
            group, name, at = signal.hook_group, signal.hook_name, signal.hook_at
            item.notes = replace(item.notes, hook_group=group, hook_name=name, hook_at=at)
        self._answer(lost)
        return True

    def unhook(self, arn: str, hook_at: float) -> None:
        lost = self._call("unhook", arn)
        item = self.items.get(arn)
        if item is not None and item.notes.hook_at <= hook_at:
            item.notes = replace(item.notes, hook_group="", hook_name="", hook_at=0.0)
        self._answer(lost)

    # ------------------------------------------------------------------------------------------- leases

    def take(self, arn: str, holder: str, now: float, until: float) -> bool:
        lost = self._call("take", arn)
        lease = self.leases.get(arn)
        free = lease is None or lease[1] < now or lease[0] == holder
        if free:
            self.leases[arn] = (holder, until, 0)
        elif lease:
            self.leases[arn] = (lease[0], lease[1], lease[2] + 1)
        self._answer(lost)
        return free

    def release(self, arn: str, holder: str, seen: int | None) -> int | None:
        lost = self._call("release", arn)
        lease = self.leases.get(arn)
        if lease is None or lease[0] != holder:
            return None
        if seen is not None and lease[2] != seen:
            return lease[2]
        del self.leases[arn]
        self._answer(lost)
        return None

    # ------------------------------------------------------------------------------------------- trouble

    def _call(self, what: str, arn: str = "") -> bool:
        """A step. Returns whether the answer will be lost; raises if the call does not arrive."""
        sent = self.kernel.now
        self.kernel.step(what)
        fate = "dropped" if self.kernel.now - sent > IN_FLIGHT_SECONDS else self.kernel.fate()
        if not fate and self.faults.table and self.rng.random() < self.faults.table:
            fate = self.rng.choice(["dropped", "lost"])
        if not fate:
            return False
        if fate == "dropped":
            self.kernel.say(f"  table: {what} {arn[-10:]} fails")
            raise TableTroubleError(what)
        self.kernel.say(f"  table: {what} {arn[-10:]} is done and not answered")
        return True

    def _answer(self, lost: bool) -> None:
        self.kernel.pause()
        if lost:
            raise TableTroubleError("no answer")


def _may_follow(new: Record, old: Record) -> bool:
    """The condition of the table's write (store.REVISION_GROWS_OR_STAYS_AS_IT_IS)."""
    return new.revision > old.revision or (new.revision == old.revision and digest(new) == digest(old))
