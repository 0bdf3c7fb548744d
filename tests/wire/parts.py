"""What the simulator's world is made of beside its cloud: the table, the brake, the buckets, what Berth has told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from berth.brake import Level
from berth.bus import Event
from berth.contract import Record

from tests.sandbox.cloud.throttle import Bucket, limit_of
from tests.simulator.kernel import Kernel
from tests.simulator.table import Item

from .account import Account
from .truth import node_items, standby_items

__all__ = ["WireBrake", "WireBuckets", "WireBus", "WireEc2", "WireTable"]


class WireTable:
    """What the node table holds, read by the driver whenever it has changed."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.revisions = 0
        self.changed = True
        self._items: dict[str, Item] = {}
        self._leases: dict[str, tuple[str, float, int]] = {}
        self._standby: dict[str, Any] = {}

    def _read(self) -> None:
        if self.changed:
            self.changed = False
            rows = self._account.rows()
            self._items, self._leases = node_items(rows)
            self._standby = standby_items(rows)

    @property
    def items(self) -> dict[str, Item]:
        self._read()
        return self._items

    @property
    def leases(self) -> dict[str, tuple[str, float, int]]:
        self._read()
        return self._leases

    @property
    def by_id(self) -> dict[str, Any]:
        self._read()
        return self._standby

    def record(self, arn: str) -> Record | None:
        item = self.items.get(arn)
        return item.record if item else None


@dataclass
class WireBrake:
    """The parameter as an operator moves it."""

    kernel: Kernel
    account: Account
    at: Level = Level.NORMAL
    since: float = 0.0

    def move(self, level: Level) -> None:
        self.account.move_brake(level.value)
        self.at, self.since = level, self.kernel.now
        self.kernel.say(f"    the brake is at {level.value}")


class WireBuckets:
    """EC2's buckets in the sandbox."""

    def __init__(self, account: Account) -> None:
        self._throttle = account.throttle

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "scale":
            self._throttle.set_scale(value)
        else:
            super().__setattr__(name, value)

    def drain(self, action: str, now: float) -> None:
        """Somebody else in the account has taken them all."""
        limit = limit_of(action, {"Filter.1.Name": ""})
        self._throttle._buckets[limit.name] = empty = Bucket(limit, now)
        while empty.take(now):
            pass

    def refill(self) -> None:
        self._throttle.set_scale(1.0)


@dataclass
class WireEc2:
    """``changes`` counts the mutating calls that EC2 has made. No instance is ever left out."""

    buckets: WireBuckets
    account: Account
    changes: int = 0
    left_out: dict[str, float] = field(default_factory=dict)

    @property
    def outcomes(self) -> Counter[tuple[str, str]]:
        return Counter(self.account.throttle.outcomes())


class WireBus:
    """What Berth has told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
