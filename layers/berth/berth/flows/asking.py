"""Asks the lease ledger about the addresses of one object: each once, and no further back than its window needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, Protocol

from berth.flows.window import Window, concerning, settled
from berth.history import Held
from berth.ledger_items import ADDRESS, Fact, latest

__all__ = ["Leases", "Wanted", "ask_ledger"]

_ITEMS: Final = 24
"""Of one Query: a dozen leases of 400 bytes, so 1.5 read units. Longer windows of busy addresses take more Queries."""
_AT_ONCE: Final = 8
"""Queries under way: botocore keeps ten connections."""
_ADDRESSES: Final = 1000
"""Asked about together; what a lease's end is not told of is asked about for all of them in one go."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked about an address: all that its records may be about. ``subnets`` are ids of those it is in."""

    window: Window
    subnets: frozenset[str]

    def with_(self, other: Wanted) -> Wanted:
        return Wanted(self.window.with_(other.window), self.subnets | other.subnets)


class Leases(Protocol):
    """What is needed of :class:`berth.ledger_reader.LedgerReader`."""

    def pages(
        self, index: str | None, key: str, value: str, sort: str | None = None, limit: int | None = None
    ) -> Iterator[list[Fact]]: ...

    def leases(self, facts: Sequence[Fact]) -> list[Held]: ...


def ask_ledger(
    ledger: Leases, wanted: Mapping[str, Wanted], now: float, counts: Counter[str]
) -> dict[str, tuple[Held, ...]]:
    """The leases of each address that concern its window. Counts ``FlowLedgerQueries``. Raises botocore's errors."""
    found: dict[str, tuple[Held, ...]] = {}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ledger") as pool:
        for some in _chunks(wanted.items()):
            facts: list[Fact] = []
            for told, queries in pool.map(partial(_ask, ledger), some):
                facts += told
                counts["FlowLedgerQueries"] += queries
            by_address: dict[str, list[Held]] = {}
            for lease in ledger.leases(facts):
                by_address.setdefault(lease.address, []).append(lease)
            for address, leases in by_address.items():
                kept = concerning(leases, wanted[address].window, now)
                if kept:
                    found[address] = kept
    return found


def _ask(ledger: Leases, wanted: tuple[str, Wanted]) -> tuple[list[Fact], int]:
    address, about = wanted
    facts: list[Fact] = []
    queries = 0
    for page in ledger.pages(None, ADDRESS, address, latest(about.window.end), _ITEMS):
        facts += page
        queries += 1
        if facts and settled(_whole(facts), about.subnets, about.window.begin):
            break
    return facts, max(queries, 1)


def _whole(facts: Sequence[Fact]) -> Iterator[tuple[str, float]]:
    """The leases of which all items have been read: the last one's may go on in the next page."""
    last = (facts[-1].lease.began, facts[-1].instance_id)
    return ((f.subnet_id, f.lease.began) for f in facts if (f.lease.began, f.instance_id) != last)


def _chunks(things: Iterable[tuple[str, Wanted]]) -> Iterator[list[tuple[str, Wanted]]]:
    rest = iter(things)
    while some := list(islice(rest, _ADDRESSES)):
        yield some
