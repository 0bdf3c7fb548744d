"""The lease ledger in the simulator, and what must hold in it when all is quiet."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from berth.history import Heartbeat, Held
from berth.ledger_items import Closing, Fact

from tests.simulator.ec2 import Faults
from tests.simulator.kernel import Kernel
from tests.simulator.pods import Pods, Was
from tests.simulator.promises import BrokenPromise
from tests.simulator.table import TableTroubleError
from tests.unit.control.fake_ledger import FakeLedger

__all__ = ["SimLedger", "check_leases"]

_EXACT = 0.002
"""Times are kept to the millisecond."""


@dataclass
class SimLedger(FakeLedger):
    """Each call is a step; it may fail, with some of it done."""

    kernel: Kernel
    rng: random.Random
    faults: Faults

    def __post_init__(self) -> None:
        super().__init__()

    def begun(self, facts: Sequence[Fact]) -> frozenset[Fact]:
        self.kernel.step("BatchGetItem")
        return super().begun(facts)

    def write(self, facts: Sequence[Fact], closings: Sequence[Closing] = ()) -> None:
        self.kernel.step("BatchWriteItem")
        fate = self.kernel.fate()
        if not fate and self.faults.table and self.rng.random() < self.faults.table:
            fate = "dropped"
        if fate == "dropped":
            some = self.rng.randint(0, len(facts))
            super().write(facts[:some])
            self.kernel.say(f"  ledger: {some} of {len(facts)} are written, and it fails")
            raise TableTroubleError("ledger")
        super().write(facts, closings)
        self.kernel.say(f"  ledger: {len(facts)} leases, {len(closings)} closings")
        self.kernel.pause()
        if fate:
            raise TableTroubleError("no answer")


# ----------------------------------------------------------------------------------------------- checks


def check_leases(
    ledger: FakeLedger,
    beats: dict[str, Heartbeat],
    nodes: Iterable[tuple[str, Pods, bool]],
    spoilt: Callable[[str], bool],
) -> None:
    """``nodes``: id, pods, and whether it is running. ``spoilt``: somebody took or moved the address by hand.

    Raises :class:`BrokenPromise` if a lease is missing, there twice, or two pods had one address at one time.
    """
    said = ledger.histories(beats)
    found: dict[tuple[str, str, float], Held] = {(v.instance_id, v.address, v.began): v for v in said}
    if len(found) != len(said):
        raise BrokenPromise("the ledger has a lease twice")
    true: set[tuple[str, str, float]] = set()
    for instance_id, pods, running in nodes:
        for was in pods.were():
            key = (instance_id, was.address, was.began)
            true.add(key)
            untold = not running and key[1:] in {(r.address, r.began) for r in pods.leases.untold.values()}
            if not (was.lost or untold or spoilt(was.address)):
                _judge(instance_id, was, found.get(key), running)
    invented = found.keys() - true
    if invented:
        raise BrokenPromise(f"the ledger knows leases that never were: {invented}")
    _apart(said, spoilt)


def _judge(instance_id: str, was: Was, said: Held | None, running: bool) -> None:
    if said is None:
        raise BrokenPromise(f"the ledger does not know that {instance_id} had {was}")
    if was.seen and was.ended:
        right = abs(said.over_by - was.ended) < _EXACT and said.held_until == said.over_by
    elif was.ended:
        right = (
            said.held_until <= was.ended + _EXACT
            and not (said.live and running)
            and (not said.over_by or was.ended <= said.over_by + _EXACT)
        )
    else:
        right = said.live or not running
    if not right:
        raise BrokenPromise(f"{instance_id}: the ledger says {said} of {was}")


def _apart(said: Iterable[Held], spoilt: Callable[[str], bool]) -> None:
    by_address: dict[str, list[Held]] = {}
    for lease in said:
        by_address.setdefault(lease.address, []).append(lease)
    for address, leases in by_address.items():
        for one, other in pairwise(sorted(leases, key=lambda v: v.began)):
            if one.held_until > other.began + _EXACT and not spoilt(address):
                raise BrokenPromise(f"two pods held {address} at one time: {one} and {other}")
