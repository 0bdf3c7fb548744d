"""An agent's pods as leases, and as they really were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from berth.contract import Told
from berth_node.leases import Leases
from berth_node.pool import Key
from berth_node.seams import Attachment

__all__ = ["Pods", "Was"]


@dataclass(frozen=True, slots=True)
class Was:
    """A lease as it really was. ``ended`` 0: it goes on. ``seen``: the agent saw its end. ``lost``: nobody may ever
    know of it, since it was untold when its agent lost its files, or its node its life."""

    address: str
    began: float
    ended: float = 0.0
    seen: bool = True
    lost: bool = False


@dataclass
class Pods:
    """An agent's leases: the real bookkeeping, without the files. ``past`` are the leases that are over."""

    clock: Callable[[], float] = lambda: 0.0
    leases: Leases = field(default_factory=lambda: Leases("boot-0"))
    keys: dict[str, Key] = field(default_factory=dict)
    past: list[Was] = field(default_factory=list)
    number: int = 0
    epochs: int = 0
    last: float = 0.0

    def now(self) -> float:
        """No two things happen within a millisecond: wiring a pod takes several."""
        self.last = round(max(self.clock(), self.last + 0.003), 3)
        return self.last

    def begin(self, address: str) -> None:
        self.number += 1
        name, now = f"pod-{self.number}", self.now()
        key = self.keys[address] = (name, "eth0")
        self.leases.begin(self.leases.last + 1, key, Attachment(*key, address, "", "default", name, name, now))

    def end(self, address: str) -> None:
        key = self.keys.pop(address, None)
        if key is None:
            return
        now = self.now()
        (row,) = self.leases.live[key]
        self.leases.end(self.leases.last + 1, key, now, 0.0)
        self.past.append(Was(address, row.began, now))

    def reboot(self) -> None:
        """The pods are gone; what was untold is kept on disk."""
        now = self.now()
        self._over(now, lost=False)
        kept = [replace(row, epoch=row.epoch or self.leases.epoch) for row in self.leases.untold.values()]
        self._new_epoch(now)
        for row in kept:
            self.leases.carry(replace(row, id=self.leases.last + 1))

    def lose_files(self) -> None:
        """All that was written down is gone; the pods are not."""
        now = self.now()
        untold = {(r.address, r.began) for r in self.leases.untold.values()}
        self.past = [_lost(w) if (w.address, w.began) in untold else w for w in self.past]
        live = self.leases.live
        self._new_epoch(now)
        for key, rows in live.items():
            row = rows[0]
            again = Attachment(*key, row.address, "", row.namespace, row.name, row.uid, row.began)
            self.leases.begin(self.leases.last + 1, key, again)

    def die(self) -> None:
        """The node is gone, with all that it has not told."""
        untold = {(r.address, r.began) for r in self.leases.untold.values()}
        self._over(self.now(), lost=False)
        self.past = [_lost(w) if (w.address, w.began) in untold else w for w in self.past]

    def forgive(self) -> None:
        """The node may give up addresses now that it has not told of."""
        untold = {(r.address, r.began) for r in self.leases.untold.values()}
        self.past = [_lost(w) if (w.address, w.began) in untold else w for w in self.past]

    def _over(self, now: float, *, lost: bool) -> None:
        """Nobody saw these end."""
        for address, key in self.keys.items():
            (row,) = self.leases.live[key]
            self.past.append(Was(address, row.began, now, seen=False, lost=lost))
        self.keys.clear()

    def _new_epoch(self, now: float) -> None:
        self.epochs += 1
        self.leases = Leases(f"boot-{self.epochs}", now, taken=self.leases.taken)

    def hears(self, told: Told) -> None:
        self.leases.acknowledged(told)

    def were(self) -> list[Was]:
        live = (Was(rows[0].address, rows[0].began) for rows in self.leases.live.values())
        return [*self.past, *live] if self.keys else [*self.past]


def _lost(was: Was) -> Was:
    return replace(was, lost=True)
