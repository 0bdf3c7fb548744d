"""What a batch of reports says for the lease ledger, and how much of it is believed. Pure, but for :func:`keep`.

A node is believed about addresses that its own record lists. The end of a lease is also believed when the record lists
its address no longer, if the ledger has that lease begun for that very node.
"""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from berth.contract import Interface, PodLease, Record, Report, Told
from berth.ledger import ItemsRefusedError, Ledger
from berth.ledger_items import Closing, Fact
from berth.node_items import NodeState

__all__ = ["Kept", "Telling", "closing_of", "is_of_an_earlier_life", "keep", "told_until"]

logger = logging.getLogger(__name__)

_MOST: Final = 500
"""Leases taken of one report; an agent tells 200. What a node tells beyond is not believed."""
_LONGEST: Final = 512
"""Bytes of a name: Kubernetes allows 253, of ASCII. NAMESPACE/NAME is an index's key, and DynamoDB takes no partition
key of more than 2048 bytes (Developer Guide, "Quotas"): it would refuse the whole batch."""
_AHEAD: Final = 600.0
"""Nothing that a report tells is later than when it came, but for clocks that differ."""


@dataclass(frozen=True, slots=True)
class Telling:
    """One report: who sent it, when SQS had it, and what the node's items were then."""

    instance_id: str
    report: Report
    state: NodeState
    received: float = 0.0


@dataclass(frozen=True, slots=True)
class Kept:
    """``written`` facts are in the ledger now, ``refused`` leases were not believed. ``failed`` are the nodes for which
    the ledger could not be written: nothing of theirs is to be acknowledged."""

    written: int = 0
    refused: int = 0
    failed: frozenset[str] = field(default_factory=frozenset)


def keep(ledger: Ledger, tellings: Sequence[Telling]) -> Kept:
    """Write what is new into the ledger: in one go, since a batch of writes costs what one does. Never raises.

    A ledger that cannot be written must keep no pod from its address: the leases come again with the next report. If
    DynamoDB will not have what is written, it is written node by node: no node's report fails another's.
    """
    try:
        return _written(ledger, tellings)
    except ItemsRefusedError:
        nodes = sorted({t.instance_id for t in tellings})
        logger.exception("the lease ledger refused what it was told", extra={"nodes": nodes})
        if len(nodes) == 1:
            return Kept(failed=frozenset(nodes))
        return _sum(keep(ledger, [t for t in tellings if t.instance_id == node]) for node in nodes)
    except Exception:
        logger.exception("the lease ledger could not be written; what it was told comes again")
        return Kept(failed=frozenset(t.instance_id for t in tellings))


def _sum(parts: Iterable[Kept]) -> Kept:
    total = Kept()
    for one in parts:
        total = Kept(total.written + one.written, total.refused + one.refused, total.failed | one.failed)
    return total


def _written(ledger: Ledger, tellings: Sequence[Telling]) -> Kept:
    facts: dict[Fact, None] = {}
    doubtful: list[Fact] = []
    refused = 0
    for telling in tellings:
        sure, unsure, wrong = _sorted_out(telling)
        facts |= dict.fromkeys(sure)
        doubtful += unsure
        refused += wrong
    believed = ledger.begun(doubtful) if doubtful else frozenset()
    closings = [*_closings(tellings)]
    written = [*facts, *(f for f in doubtful if f in believed)]
    if written or closings:
        ledger.write(written, closings)
    for fact in doubtful:
        if fact not in believed:
            _refuse(fact)
    return Kept(len(written), refused + len(doubtful) - len(believed))


def _sorted_out(telling: Telling) -> tuple[list[Fact], list[Fact], int]:
    """(believed, believed if the ledger has them begun, how many are not believed at all)."""
    report, state = telling.report, telling.state
    sure: list[Fact] = []
    unsure: list[Fact] = []
    wrong = 0
    rows = _new(report, state.heard.told)
    interface_of = _finder(state.record if rows else None)
    for row in rows:
        interface, present = interface_of(row.address), row.epoch in ("", report.epoch)
        fact = Fact(
            replace(row, epoch=row.epoch or report.epoch),
            telling.instance_id,
            interface.id if interface else "",
            interface.subnet_id if interface else "",
            telling.received,
            told_until(report, telling.received) if present else 0.0,
            0.0 if present or row.ended else report.epoch_since,
        )
        if not _possible(fact) or (interface is None and not row.ended):
            wrong += 1
            _refuse(fact)
        elif interface is not None:
            sure.append(fact)
        else:
            unsure.append(fact)
    return sure, unsure, wrong


def told_until(report: Report, received: float) -> float:
    """Up to when ``report`` tells everything. A node cannot speak for a time to come: it would hold its addresses, for
    whoever asks, long after others have them."""
    return min(report.leases_until, received + _AHEAD) if received else report.leases_until


def _new(report: Report, told: Told) -> tuple[PodLease, ...]:
    """The leases that were not acknowledged before."""
    if not report.epoch:
        return ()
    return tuple(row for row in report.leases[:_MOST] if told.epoch != report.epoch or row.id > told.id)


def _possible(fact: Fact) -> bool:
    row = fact.lease
    ordered = row.began > 0 and (not row.ended or row.began <= (row.held_until or row.ended) <= row.ended)
    in_time = not fact.received or max(row.began, row.ended) <= fact.received + _AHEAD
    # a zone (fe80::1%ZONE) is any text, and no pod's address has one
    return ordered and in_time and "%" not in row.address and all(map(_storable, (row.namespace, row.name, row.uid)))


def _storable(name: str) -> bool:
    """JSON can say half a surrogate pair, which UTF-8 cannot."""
    try:
        return len(name.encode()) <= _LONGEST
    except UnicodeEncodeError:
        return False


def _plain(text: str) -> str:
    """For a log: whatever a node makes up can be written."""
    return text[:300].encode("ascii", "backslashreplace").decode()


def _refuse(fact: Fact) -> None:
    logger.warning(
        "lease not believed: the node's record does not list the address, or its times or names cannot be",
        extra={"node": fact.instance_id, "address": _plain(fact.lease.address), "pod": _plain(fact.lease.name)},
    )


def _finder(record: Record | None) -> Callable[[str], Interface | None]:
    """Tells which interface of the record has an address among its blocks."""
    blocks = {
        ipaddress.ip_network(a.cidr): i
        for i in (record.interfaces if record else ())
        for a in (*i.assignments, *i.ipv6_assignments)
    } | {ipaddress.ip_network(i.primary_address): i for i in (record.interfaces if record else ()) if i.pod}
    sizes = {network.prefixlen for network in blocks}

    def find(address: str) -> Interface | None:
        of = (ipaddress.ip_network((address, s), strict=False) for s in sizes if s <= 32 or ":" in address)
        return next((blocks[network] for network in of if network in blocks), None)

    return find


def is_of_an_earlier_life(report: Report, last: Report | None) -> bool:
    """Whether an agent sent it before it lost its files and counted on from what had been accepted by then: it may have
    used the same numbers since, and what it said then must not be taken for what it says now. Pure.

    Within one boot's number alone: a reboot may have set the clock back, which an epoch's beginning is told by.
    """
    if last is None or report.order.boot != last.order.boot or not (report.epoch and last.epoch):
        return False
    return report.epoch != last.epoch and report.epoch_since < last.epoch_since


def _closings(tellings: Iterable[Telling]) -> Iterable[Closing]:
    """Each report is compared with the one before it, be that the last one kept or one of these.

    A report of an earlier life ends its own epoch alone: the last one's goes on, and so may its leases.
    """
    lasts: dict[str, Report | None] = {}
    for telling in sorted(tellings, key=lambda t: t.report.order):
        report, last = telling.report, lasts.setdefault(telling.instance_id, telling.state.report)
        if last is not None and report.order <= last.order:
            continue
        if last is not None and is_of_an_earlier_life(report, last):
            until = told_until(report, telling.received)
            yield Closing(telling.instance_id, report.epoch, until, last.epoch_since, _why(report, last))
            continue
        if last is not None and last.epoch and report.epoch != last.epoch:
            yield Closing(telling.instance_id, last.epoch, last.leases_until, report.epoch_since, _why(last, report))
        lasts[telling.instance_id] = replace(report, leases_until=told_until(report, telling.received))


def _why(last: Report, new: Report) -> str:
    if not new.epoch:
        return "an agent took over that keeps no leases"
    if last.epoch.partition("-")[0] != new.epoch.partition("-")[0]:
        return "the node rebooted"
    return "the agent lost what it knew of its leases"


def closing_of(instance_id: str, report: Report | None, over_by: float, reason: str) -> tuple[Closing, ...]:
    """The end of the last epoch of a node that is gone, if it had one."""
    if report is None or not report.epoch:
        return ()
    # times are told to the millisecond; by the next one it was over
    return (Closing(instance_id, report.epoch, report.leases_until, math.ceil(over_by * 1000) / 1000, reason),)
