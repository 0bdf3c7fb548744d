"""One node's items in the table, as they are written and read. Pure.

Partition key ``node`` = instance ARN, sort key ``kind``::

    record   body (contract.Record), revision, digest, marks, notes; what the node reads
    report   body (contract.Report, its leases left out), boot, sequence; the last accepted one; received,
             failing_since, and leases (contract.Told), which the node reads
    intents  body; calls about to be made, and the outcomes of recent ones; slots: tokens reserved for later
    standby  claims, publics; where to look for what the node has claimed (berth.standby_items, berth.public_store)
    lease    holder, until, wakeups; exists only while somebody holds it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from berth.buckets import Reservation
from berth.contract import (
    BODY,
    LEASES,
    RECORD_KIND,
    REPORT_KIND,
    ContractError,
    Order,
    Record,
    Report,
    Told,
    decode_record,
    decode_report,
    encode_record,
)
from berth.intents import decode_intents
from berth.model import Intent, Notes, Unmet
from berth.table import told

__all__ = [
    "EXPIRES",
    "INTENTS_KIND",
    "LEASE_KIND",
    "REPORT_KIND",
    "STANDBY_KIND",
    "Heard",
    "NodeState",
    "digest",
    "read_state",
]

INTENTS_KIND: Final = "intents"
STANDBY_KIND: Final = "standby"
LEASE_KIND: Final = "lease"
EXPIRES: Final = "expires_at"


def digest(record: Record) -> str:
    """Short text that differs when two records tell a node different things; the report they know of is none."""
    return hashlib.sha256(encode_record(replace(record, accepted=Order())).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Heard:
    """What is noted beside the last report: when SQS had it, which leases are in the ledger since, and since when the
    ledger could not be written for this node: 0 if it could."""

    received: float = 0.0
    told: Told = field(default_factory=Told)
    failing_since: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeState:
    """What the table knows of a node. ``buried``: the record is a tombstone. ``broken`` says why it cannot be read.

    ``claims``: there may be standby interfaces that it has claimed, so that they are worth reading; ``publics``
    are the Elastic IP addresses that it may have claimed.
    """

    record: Record | None = None
    marked: tuple[tuple[str, int], ...] = ()
    notes: Notes = field(default_factory=Notes)
    report: Report | None = None
    intents: tuple[Intent, ...] = ()
    buried: bool = False
    slots: tuple[Reservation, ...] = ()
    broken: str = ""
    claims: bool = True
    publics: frozenset[str] = frozenset()
    heard: Heard = field(default_factory=Heard)


def read_state(kinds: Mapping[str, Mapping[str, Any]]) -> NodeState:
    """One node's items by kind. A record that a newer version wrote must not stop the other nodes of a batch."""
    record, report, intents = (kinds.get(k, {}) for k in (RECORD_KIND, REPORT_KIND, INTENTS_KIND))
    try:
        return NodeState(
            record=decode_record(record[BODY]["S"]) if BODY in record else None,
            marked=tuple(sorted(json.loads(record.get("marks", {}).get("S", "{}")).items())),
            notes=_notes(record),
            report=decode_report(report[BODY]["S"]) if BODY in report else None,
            intents=decode_intents(intents[BODY]["S"]) if BODY in intents else (),
            buried=EXPIRES in record,
            slots=tuple(Reservation(*s) for s in json.loads(intents.get("slots", {}).get("S", "[]"))),
            claims="claims" in kinds.get(STANDBY_KIND, {}),
            publics=frozenset(kinds.get(STANDBY_KIND, {}).get("publics", {}).get("SS", ())),
            heard=Heard(
                told(report, "received"),
                Told.read(report.get(LEASES, {}).get("S", "")),
                told(report, "failing_since"),
            ),
        )
    except (ContractError, KeyError, TypeError, ValueError) as error:
        return NodeState(broken=f"{type(error).__name__}: {error}")


def _notes(record: Mapping[str, Any]) -> Notes:
    def noted(name: str) -> float:
        return told(record, name)

    return Notes(
        requested=int(noted("requested")),
        requested_until=noted("requested_until"),
        draining_until=noted("draining_until"),
        absent_since=noted("absent_since"),
        next_look=noted("next_look"),
        looks=int(noted("looks")),
        unmet=int(noted("unmet")),
        problems=record.get("problems", {}).get("S", ""),
        wanted_since=noted("wanted_since"),
        listed_at=noted("listed_at"),
        unmet_requests=tuple(Unmet(*u) for u in json.loads(record.get("unmet_requests", {}).get("S", "[]"))),
        unwanted=tuple(sorted(json.loads(record.get("unwanted", {}).get("S", "{}")).items())),
        hook_group=record.get("hook_group", {}).get("S", ""),
        hook_name=record.get("hook_name", {}).get("S", ""),
        hook_at=noted("hook_at"),
    )
