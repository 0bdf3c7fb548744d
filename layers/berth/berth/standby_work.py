"""What the filler does to EC2 and the table, call by call: within its time, its number of calls, the token budget."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from berth.absent import Released, Unlimited
from berth.brake import Brake
from berth.budget import Budget, Priority
from berth.bus import Bus
from berth.ec2_wire import Ec2Error, Trouble
from berth.looks import Looks
from berth.meters import Meters
from berth.model import InterfaceView
from berth.settings import Settings
from berth.standby_ec2 import StandbyEc2
from berth.standby_items import StandbyItem
from berth.standby_levels import GIVE_BACK_SECONDS, REPLAY_SECONDS
from berth.standby_pools import StandbyPool
from berth.standby_stock import Creating, Stock

__all__ = ["CALLS_PER_RUN", "FillEdges", "Leases", "NoTokenError", "StandbyWork"]

logger = logging.getLogger(__name__)

CALLS_PER_RUN: Final = 200
CHUNK: Final = 10
"""Creations noted at once; so many at the most are repeated after a crash."""
_ASKED: Final = 50
_SUBNET: Final = (Trouble.FRAGMENTED, Trouble.EXHAUSTED)


class NoTokenError(Exception):
    """Others need what is left of the shared budget, or the run's time is up."""


class Leases(Protocol):
    """The leases of :class:`berth.store.Store`."""

    def take(self, arn: str, holder: str, now: float, until: float) -> bool:
        """Take it. False: somebody has it."""

    def release(self, arn: str, holder: str, seen: int | None) -> int | None:
        """Let go of it."""


def _token() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class FillEdges:
    """What filling works with; see :class:`berth.edges.Edges`."""

    ec2: StandbyEc2
    stock: Stock
    leases: Leases
    looks: Looks
    bus: Bus
    settings: Settings
    budget: Budget = field(default_factory=Unlimited)
    brake: Brake = field(default_factory=Released)
    meters: Meters = field(default_factory=Meters)
    clock: Callable[[], float] = time.time
    token: Callable[[], str] = _token


@dataclass(slots=True)
class StandbyWork:
    """One run's work. ``until`` is Unix time: nothing is begun later. ``counts`` are for metrics.

    An action that EC2 throttles, or that has no tokens left for standby interfaces, is not called again in this run.
    """

    edges: FillEdges
    until: float
    counts: Counter[str] = field(default_factory=Counter)
    _calls: int = 0
    _over: set[str] = field(default_factory=set)

    def may(self, action: str, calls: int = 0) -> bool:
        """Whether the action may be called now; takes the token for it. ``calls`` are of :data:`CALLS_PER_RUN`."""
        now = self.edges.clock()
        if action in self._over or now > self.until or self._calls + calls > CALLS_PER_RUN:
            return False
        slot = self.edges.budget.reserve(action, 1, Priority.STANDBY, now)
        if not slot.reserved or slot.at > now:
            self.counts["StandbyOutOfTokens"] += 1
            self._over.add(action)
            return False
        self._calls += calls
        return True

    def pay(self, action: str) -> None:
        """Take the token of one describe, of each page of a long one too. Raises :class:`NoTokenError`."""
        if not self.may(action):
            raise NoTokenError(action)

    # ------------------------------------------------------------------------------------------- making

    def make(self, pool: StandbyPool, wanted: int, left: Creating) -> None:
        """Make ``wanted`` interfaces, after those of which an earlier run did not hear (``left``)."""
        stock = self.edges.stock
        if left.tokens:
            if wanted <= 0:
                return
            rest = self._chunk(pool, left)
            stock.note_creating(pool.key, rest)
            if rest.tokens:
                return
            wanted -= len(left.tokens)
        while wanted > 0:
            chunk = Creating(tuple(self.edges.token() for _ in range(min(wanted, CHUNK))), self.edges.clock())
            if not self.may("CreateNetworkInterface", 1):
                return
            stock.note_creating(pool.key, chunk)
            rest = self._chunk(pool, chunk, paid=1)
            stock.note_creating(pool.key, rest)
            if rest.tokens or "CreateNetworkInterface" in self._over:
                return
            wanted -= len(chunk.tokens)

    def _chunk(self, pool: StandbyPool, chunk: Creating, paid: int = 0) -> Creating:
        """Make these, ``paid`` of which have their budget already. Returns those that may have been made unheard."""
        noted = chunk.noted
        for n, token in enumerate(chunk.tokens):
            if n >= paid and not self.may("CreateNetworkInterface", 1):
                break
            try:
                made = self.edges.ec2.create(pool, token, chunk.at)
            except Ec2Error as error:
                return Creating(self._not_made(pool, token, error), chunk.at, noted)
            noted += 1
            # one whose answer was lost may have been found by its tag, and even deleted, since
            self.counts["StandbyMade"] += self.edges.stock.add(made, self.edges.clock())
        return Creating()

    def _not_made(self, pool: StandbyPool, token: str, error: Ec2Error) -> tuple[str, ...]:
        self._failed("CreateNetworkInterface", error, f"pool {pool.key}, {pool.subnet_id}")
        if error.trouble not in _SUBNET:
            self._over.add("CreateNetworkInterface")
        return (token,) if error.trouble is Trouble.IN_DOUBT else ()

    def adopt(self, strays: Iterable[InterfaceView]) -> None:
        """What EC2 shows of a pool and the table does not know: a run has died between the two."""
        for interface in strays:
            self.counts["StandbyAdopted"] += self.edges.stock.add(interface, self.edges.clock())

    # ------------------------------------------------------------------------------------------- deleting

    def reap(self, surplus: Iterable[StandbyItem], condemned: Iterable[StandbyItem]) -> None:
        """Delete what is condemned already, and what is too much and nobody claims first."""
        for item in (*condemned, *surplus):
            if not self.may("DeleteNetworkInterface", 1):
                return
            if item.claimed_by or self.edges.stock.condemn(item.interface, self.edges.clock()):
                self._delete(item.interface)

    def _delete(self, interface: InterfaceView) -> None:
        try:
            self.edges.ec2.delete(interface.id)
        except Ec2Error as error:
            if error.trouble is not Trouble.GONE:
                self._failed("DeleteNetworkInterface", error, interface.id)
                if error.trouble is not Trouble.STATE:
                    self._over.add("DeleteNetworkInterface")
                    return
                # somebody has attached it by hand: it is theirs now
        else:
            self.counts["StandbyReaped"] += 1
        self.edges.stock.deleted(interface, self.edges.clock())

    # ------------------------------------------------------------------------------------------- claims

    def seek(self, missing: Sequence[StandbyItem]) -> dict[str, InterfaceView]:
        """Those that are there all the same, by id: one describe that leaves them out is not believed.

        Without the tokens for another describe all are taken to be there: what is forgotten too soon is made again.
        """
        if not missing:
            return {}
        views = {i.interface.id: i.interface for i in missing}
        try:
            shown = self.edges.ec2.shown(list(views), self.pay)
        except NoTokenError:
            return views
        return {i: v for i, v in shown.items() if v.attachment is None and v.node is None}

    def chase(self, held: Sequence[StandbyItem]) -> None:
        """Claims that are not settled: have their nodes looked at, and end those that nobody will settle.

        What is attached to nothing is then back in its pool: the next run finds it there, and no item of it.
        """
        if not held:
            return
        old = [i for i in held if self.edges.clock() - i.claimed_at > REPLAY_SECONDS]
        lost: set[str] = set()
        if old:
            with suppress(NoTokenError):
                shown = self.edges.ec2.shown([i.interface.id for i in old], self.pay)
                now = self.edges.clock()
                lost = {i.interface.id for i in old if _is_lost(i, shown.get(i.interface.id), now)}
        for item in old:
            if item.interface.id in lost:
                self.counts["StandbyClaimsLost"] += self.edges.stock.forget(item)
        nodes = sorted({i.claimed_by for i in held if i.interface.id not in lost})[:_ASKED]
        if nodes:
            self.edges.looks.ask(nodes, "a standby interface that it claimed is not settled")

    def _failed(self, action: str, error: Ec2Error, what: str) -> None:
        self.counts["StandbyCallsFailed"] += 1
        log = logger.error if error.trouble is Trouble.REFUSED else logger.warning
        log("standby call failed", extra={"action": action, "what": what, "error": str(error)})
        if error.trouble is Trouble.THROTTLED:
            self.edges.budget.throttled(action, self.edges.clock())


def _is_lost(item: StandbyItem, shown: InterfaceView | None, now: float) -> bool:
    """It is gone, somebody has moved it elsewhere, or nobody has attached it for an hour."""
    if shown is None:
        return True
    if shown.attachment is None:
        return shown.node is None and now - item.claimed_at > GIVE_BACK_SECONDS
    return shown.attachment.instance_id != item.claimed_by
