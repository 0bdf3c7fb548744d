"""Which pods hold which addresses since when, and what of that the ledger may not have yet. Bookkeeping alone: no I/O.

Everything here follows from the journal's lines (:mod:`berth_node.journal`), and is made again from them at a start. An
*epoch* is a time through which nothing of it was forgotten: it begins with a new journal, so at the latest with a
reboot. Ids never stand for two leases within one epoch, and the ledger acknowledges by epoch and id, so an agent that
has lost its files needs to know nothing of what was told before.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from berth.contract import HOLD_SECONDS, PodLease, Told

from berth_node.pod import Pod
from berth_node.pool import Key
from berth_node.seams import Attachment

__all__ = ["RETELL_SECONDS", "Leases", "names_of", "new_epoch", "read_row", "row_fields", "size_of", "text_size"]

RETELL_SECONDS: Final = 6 * 86_400.0
"""So often the leases that are as old as that are told again: each first after 6 to 12 days. The ledger keeps an item
for 14 days at the least."""
_MOST_ROWS: Final = 200
_MOST_BYTES: Final = 110_000
"""Of leases in one report. SQS takes 262,144 bytes, and the rest of the largest node's report is a third of that."""
_MOST_UNTOLD: Final = 10_000
"""Ended leases that are kept for a ledger that does not answer: some 4 MB."""
_BARE_ROW: Final = 176
"""Bytes of a row whose texts are empty: the fields' names, an id and three times (172), rounded up."""
_LONGEST_NAMESPACE, _LONGEST_NAME, _LONGEST_UID = 63, 253, 64
"""Kubernetes' namespaces and names (RFC 1123 labels and subdomains) are no longer; other runtimes' are cut."""


def new_epoch(kernel_boot: str) -> str:
    """A name that no other epoch has. Two of one boot begin alike, so that a reboot can be told from lost files."""
    return f"{kernel_boot[:8].lower() or 'boot'}-{secrets.token_hex(6)}"


def row_fields(row: PodLease) -> dict[str, Any]:
    """A lease as a JSON object; :func:`read_row` is its reverse."""
    return {name: getattr(row, name) for name in PodLease.__dataclass_fields__}


def read_row(fields: Mapping[str, Any]) -> PodLease:
    """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for what is none."""
    texts = {name: str(fields.get(name, "")) for name in ("namespace", "name", "uid", "epoch")}
    began, ended, held_until = (float(fields[name]) for name in ("began", "ended", "held_until"))
    return PodLease(int(fields["id"]), str(fields["address"]), began, ended, held_until, **texts)


@dataclass(slots=True)
class Leases:
    """``live`` are the leases that go on, ``untold`` those that the ledger may not have, by id, ``last`` is the last.

    ``taken``: this stack's functions keep a ledger; one of before it would never acknowledge anything, and is told
    nothing. ``behind_since``: since when there has been a backlog; 0 if there is none. ``lost_from``: since when ended
    leases may have been dropped because there were too many; 0 if none were.
    """

    epoch: str = ""
    since: float = 0.0
    last: int = 0
    live: dict[Key, tuple[PodLease, ...]] = field(default_factory=dict)
    untold: dict[int, PodLease] = field(default_factory=dict)
    taken: bool = False
    behind_since: float = 0.0
    lost_from: float = 0.0
    changes: int = 0
    """Counts up with each change of what is untold."""

    # ------------------------------------------------------------------------------------- what the journal says

    def start(self, epoch: str, since: float, last: int, lost_from: float) -> None:
        """An epoch goes on, or another begins: then what goes on is told anew, and what is untold is of the old one."""
        self.last, self.lost_from = max(self.last, last), lost_from
        if epoch == self.epoch:
            return
        old, self.epoch, self.since = self.epoch, epoch, since
        self.untold = {i: replace(r, epoch=r.epoch or old) for i, r in self.untold.items() if r.ended or r.epoch}
        self.retell(self.live, self.last + 1)

    def begin(self, first: int, key: Key, attachment: Attachment) -> None:
        """A pod is wired. Its leases take the ids from ``first`` on."""
        began, names = round(attachment.attached_at, 3), names_of(attachment)
        rows = [PodLease(first + n, a, began, 0.0, 0.0, *names) for n, a in enumerate(attachment.addresses)]
        self.live[key] = tuple(rows)
        self._tell(rows)

    def end(self, first: int, key: Key, at: float, held_until: float) -> None:
        """A pod has lost its addresses, at the latest ``at``. Its begin need not be told any more."""
        rows = []
        for n, row in enumerate(self.live.pop(key, ())):
            self.untold.pop(row.id, None)
            # the clock of an earlier agent may have been ahead: no end comes before its begin
            ended = round(max(at, row.began + 0.001), 3)
            held = round(min(max(held_until, row.began), ended), 3) if held_until else 0.0
            names = row.namespace, row.name, row.uid
            rows.append(PodLease(first + n, row.address, row.began, ended, held, *names))
        self._tell(rows)

    def forget(self, key: Key) -> None:
        """A pod's end was written by an agent that knew no leases: when it was, nobody knows."""
        for row in self.live.pop(key, ()):
            self.untold.pop(row.id, None)
            self.lost_from = min(self.lost_from or row.began, row.began)

    def carry(self, row: PodLease) -> None:
        """A lease that an earlier epoch has left untold."""
        self._tell([row])

    def _tell(self, rows: Iterable[PodLease]) -> None:
        for row in rows:
            self.untold[row.id] = row
            self.last = max(self.last, row.id)
            self.changes += 1
        while len(self.untold) > _MOST_UNTOLD + len(self.live):
            dropped = self.untold.pop(next(i for i, r in self.untold.items() if r.ended or r.epoch))
            self.lost_from = min(self.lost_from or dropped.began, dropped.began)

    # ------------------------------------------------------------------------------------- what is told

    def retell(self, keys: Iterable[Key], first: int) -> None:
        """Tell these once more, with the ids from ``first`` on."""
        for key in list(keys):
            for row in self.live[key]:
                self.untold.pop(row.id, None)
            rows = tuple(replace(row, id=first + n) for n, row in enumerate(self.live[key]))
            first += len(rows)
            self.live[key] = rows
            self._tell(rows)

    def old(self, now: float) -> list[Key]:
        """Pods whose leases are to be told again by their age."""
        return [key for key, rows in self.live.items() if any(r.began <= now - RETELL_SECONDS for r in rows)]

    def acknowledged(self, told: Told | None) -> None:
        """What the ledger has need not be told. Any answer at all says that there is a ledger, and none that there is
        none: the stack may have been rolled back to one of before it."""
        self.taken = told is not None
        if told is not None and told.epoch == self.epoch and any(i <= told.id for i in self.untold):
            self.untold = {i: row for i, row in self.untold.items() if i > told.id}
            self.changes += 1

    def report(self, now: float) -> dict[str, Any]:
        """The fields of a report (:class:`berth.contract.Report`) that leases are told by."""
        waiting = sorted(self.untold)
        rows = self._fitting(waiting) if self.taken else []
        left = waiting[len(rows) :]
        # conservative: of one whose begin is known, only the end is left
        bounds = [self.untold[i].began for i in left] + ([self.lost_from] if self.lost_from else [])
        return {
            "epoch": self.epoch,
            "epoch_since": round(self.since, 3),
            "leases": tuple(rows),
            "leases_told": left[0] - 1 if left else self.last,
            "leases_until": round(min([now, *bounds]), 3),
        }

    @property
    def backlog(self) -> bool:
        """More is untold than a report holds, and there is a ledger to be told."""
        return self.taken and len(self._fitting(sorted(self.untold))) < len(self.untold)

    def hold_back(self, now: float) -> bool:
        """Whether no block is to be given back now: what is told of an address is believed while the node has it. Not
        for long: a ledger that is slow, or acknowledges nothing, must not keep addresses."""
        self.behind_since = (self.behind_since or now) if self.backlog else 0.0
        return self.backlog and now - self.behind_since < HOLD_SECONDS

    def _fitting(self, ids: Iterable[int]) -> list[PodLease]:
        rows: list[PodLease] = []
        size = 0
        for i in ids:
            size += size_of(self.untold[i])
            if len(rows) == _MOST_ROWS or size > _MOST_BYTES:
                break
            rows.append(self.untold[i])
        return rows


def size_of(row: PodLease) -> int:
    """At least what a row takes in a report, bytes: encoding it to see would be most of a report's work."""
    return _BARE_ROW + text_size(row.address + row.namespace + row.name + row.uid + row.epoch)


def text_size(text: str) -> int:
    """At least what a text takes in JSON, bytes: up to six for a character, and twelve beyond the first 65,536."""
    plain = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
    return len(text) * (1 if plain else 12)


def names_of(of: Attachment | Pod) -> tuple[str, str, str]:
    """A pod's namespace, name and uid, as long as Kubernetes has them."""
    return of.namespace[:_LONGEST_NAMESPACE], of.name[:_LONGEST_NAME], of.uid[:_LONGEST_UID]
