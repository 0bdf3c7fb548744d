"""The lease ledger's items, as they are written and read. Pure. docs/ledger.md shows them to whoever queries by hand.

Partition key ``address``, sort key ``lease``; indexes ``pods`` (``pod`` = NAMESPACE/NAME) and ``uids`` (``uid``), both
sorted by ``lease``::

    10.0.3.7     1732269600000#i-0abc#b#EPOCH   a pod's lease has begun
    10.0.3.7     1732269600000#i-0abc#e         the same lease has ended; says all that the item above says
    node#i-0abc  EPOCH                          no lease of this epoch goes on; until when they were known to

An item is only ever added, or written again with the same meaning: whatever comes twice, late or in another order makes
the same ledger, without a condition on any write. All of an address's leases begun before some time are one range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from berth.contract import PodLease
from berth.table import number, told

__all__ = [
    "ADDRESS",
    "EXPIRES",
    "LEASE",
    "POD",
    "PODS_INDEX",
    "UID",
    "UIDS_INDEX",
    "Closing",
    "Fact",
    "begin_key",
    "closing_item",
    "closing_key",
    "latest",
    "lease_item",
    "read_closing",
    "read_fact",
]

ADDRESS: Final = "address"
LEASE: Final = "lease"
POD: Final = "pod"
UID: Final = "uid"
PODS_INDEX: Final = "pods"
UIDS_INDEX: Final = "uids"
EXPIRES: Final = "expires_at"


@dataclass(frozen=True, slots=True)
class Fact:
    """What one report has told of one lease. ``lease.epoch`` is always named here.

    ``received`` is when SQS had the report, ``until`` up to when that report told everything, by the node's clock: 0
    for a lease of an earlier epoch, which was over when the report's began, at ``over_by``.
    """

    lease: PodLease
    instance_id: str
    interface_id: str
    subnet_id: str
    received: float = 0.0
    until: float = 0.0
    over_by: float = 0.0


@dataclass(frozen=True, slots=True)
class Closing:
    """An epoch of a node is over: its open leases went on until ``until`` at least, and ended by ``over_by`` (0: nobody
    knows by when)."""

    instance_id: str
    epoch: str
    until: float
    over_by: float
    reason: str


def _start(began: float) -> str:
    return f"{round(began * 1000):013d}"


def latest(at: float) -> str:
    """Sorts after every lease begun at this time or before it, and before all others."""
    return f"{_start(at)}~"


def begin_key(address: str, began: float, instance_id: str, epoch: str) -> dict[str, Any]:
    """The key of a lease's begin."""
    return {ADDRESS: {"S": address}, LEASE: {"S": f"{_start(began)}#{instance_id}#b#{epoch}"}}


def lease_item(fact: Fact, expires_at: float) -> dict[str, Any]:
    """The item of a lease's begin, or of its end if it has one."""
    row = fact.lease
    item = begin_key(row.address, row.began, fact.instance_id, row.epoch)
    if row.ended:
        item[LEASE] = {"S": f"{_start(row.began)}#{fact.instance_id}#e"}
    texts = {
        "node": fact.instance_id,
        "interface": fact.interface_id,
        "subnet": fact.subnet_id,
        "epoch": row.epoch,
        "namespace": row.namespace,
        "name": row.name,
        # an index's key cannot be empty: what has none is not in the index
        POD: f"{row.namespace}/{row.name}" if row.name else "",
        UID: row.uid,
    }
    times = {
        "began": row.began,
        "ended": row.ended,
        "held_until": row.held_until,
        "received": fact.received,
        "until": fact.until,
        "over_by": fact.over_by,
    }
    item |= {name: {"S": text} for name, text in texts.items() if text}
    item |= {name: number(time) for name, time in times.items() if time}
    return item | {EXPIRES: number(int(expires_at))}


def read_fact(item: Mapping[str, Any]) -> Fact:
    """The reverse of :func:`lease_item`."""

    def text(name: str) -> str:
        return str(item.get(name, {}).get("S", ""))

    row = PodLease(
        id=0,
        address=text(ADDRESS),
        began=told(item, "began"),
        ended=told(item, "ended"),
        held_until=told(item, "held_until"),
        namespace=text("namespace"),
        name=text("name"),
        uid=text(UID),
        epoch=text("epoch"),
    )
    times = (told(item, name) for name in ("received", "until", "over_by"))
    return Fact(row, text("node"), text("interface"), text("subnet"), *times)


def closing_key(instance_id: str, epoch: str) -> dict[str, Any]:
    """The key of an epoch's end."""
    return {ADDRESS: {"S": f"node#{instance_id}"}, LEASE: {"S": epoch}}


def closing_item(closing: Closing, expires_at: float) -> dict[str, Any]:
    """The item of an epoch's end."""
    return closing_key(closing.instance_id, closing.epoch) | {
        "until": number(closing.until),
        "over_by": number(closing.over_by),
        "reason": {"S": closing.reason},
        EXPIRES: number(int(expires_at)),
    }


def read_closing(item: Mapping[str, Any]) -> Closing:
    """The reverse of :func:`closing_item`."""
    instance_id = item[ADDRESS]["S"].removeprefix("node#")
    return Closing(instance_id, item[LEASE]["S"], told(item, "until"), told(item, "over_by"), item["reason"]["S"])
