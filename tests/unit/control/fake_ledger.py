"""The lease ledger in memory. Keeps items, as the table does: what is written twice is there once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from berth.history import Heartbeat, Held, histories
from berth.ledger import ItemsRefusedError
from berth.ledger_items import (
    ADDRESS,
    LEASE,
    Closing,
    Fact,
    begin_key,
    closing_item,
    lease_item,
    read_closing,
    read_fact,
)

__all__ = ["FakeLedger"]


class FakeLedger:
    """``broken``: it cannot be written. It refuses items with ``poison`` in them. ``writes`` counts the times that it
    was written."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self.broken = False
        self.poison = ""
        self.writes = 0

    def begun(self, facts: Sequence[Fact]) -> frozenset[Fact]:
        def key(f: Fact) -> tuple[str, str]:
            return _name(begin_key(f.lease.address, f.lease.began, f.instance_id, f.lease.epoch))

        return frozenset(f for f in facts if key(f) in self.items)

    def write(self, facts: Sequence[Fact], closings: Sequence[Closing] = ()) -> None:
        if self.broken:
            raise TimeoutError("no capacity")
        items = (*(lease_item(f, 0.0) for f in facts), *(closing_item(c, 0.0) for c in closings))
        if self.poison and any(self.poison in str(item) for item in items):
            raise ItemsRefusedError("One or more parameter values were invalid")
        self.writes += 1
        for item in items:
            self.items[_name(item)] = item

    # ------------------------------------------------------------------------------------------- what it says

    @property
    def facts(self) -> list[Fact]:
        return [read_fact(i) for (address, _), i in self.items.items() if not address.startswith("node#")]

    @property
    def closings(self) -> list[Closing]:
        return [read_closing(i) for (address, _), i in self.items.items() if address.startswith("node#")]

    def histories(self, beats: Mapping[str, Heartbeat] | None = None) -> list[Held]:
        closings = {(c.instance_id, c.epoch): c for c in self.closings}
        return histories(self.facts, closings, beats or {})


def _name(item: Mapping[str, Any]) -> tuple[str, str]:
    return item[ADDRESS]["S"], item[LEASE]["S"]
