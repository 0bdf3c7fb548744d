"""The DynamoDB edge: one small group of items for each node.

What is in them says :mod:`berth.node_items`. A lease through time::

    take ──────────── wake (wakeups 1) ─── release(seen 0): refused, look again ─── release(seen 1): item deleted
                                                    │
    holder dies ... until passes ─── take by another (wakeups 0 again)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from berth.buckets import Reservation
from berth.contract import BODY, KIND, LEASES, NODE, RECORD_KIND, Record, Report, encode_record, encode_report
from berth.events import Signal
from berth.intents import encode_intents
from berth.model import Intent, Notes
from berth.node_items import (
    EXPIRES,
    INTENTS_KIND,
    LEASE_KIND,
    REPORT_KIND,
    STANDBY_KIND,
    Heard,
    NodeState,
    digest,
    read_state,
)
from berth.table import Table, item_key, number

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = [
    "EXPIRES",
    "LEASE_IS_FREE",
    "LEASE_IS_MINE",
    "LEASE_KIND",
    "DynamoStore",
    "NodeState",
    "RevisionConflictError",
    "Store",
    "digest",
    "read_state",
]

# ------------------------------------------------------------------------------------------------ conditions
# two that have read the same revision write the same next one: it stands for one content alone, so that a function that
# was held up past its lease cannot put back what its successor has changed
REVISION_GROWS_OR_STAYS_AS_IT_IS: Final = (
    "attribute_not_exists(revision) OR revision < :revision OR "
    "(revision = :revision AND (digest = :digest OR attribute_not_exists(digest)))"
)
NODE_IS_KNOWN: Final = f"attribute_exists({BODY}) AND attribute_not_exists({EXPIRES})"
REQUEST_IS_NEWER: Final = "(attribute_not_exists(requested_at) OR requested_at <= :requested_at)"
HOOK_IS_NOT_LATER: Final = "hook_at <= :hook_at"
# boto3 repeats a write whose answer was lost: a condition must hold for the very write that it has let through
REPORT_IS_NOT_OLDER: Final = (
    "attribute_not_exists(boot) OR boot < :boot OR (boot = :boot AND #sequence <= :sequence)"  # (boot, sequence) order
)
LEASE_IS_FREE: Final = "attribute_not_exists(holder) OR #until < :now OR holder = :holder"
LEASE_IS_HELD: Final = "attribute_exists(holder) AND #until >= :now"
LEASE_IS_MINE: Final = "holder = :holder"
NOBODY_KNOCKED: Final = "wakeups = :seen"


class RevisionConflictError(Exception):
    """The table holds this revision with another content, or a higher one: somebody else wrote this node."""


class Store(Protocol):
    """What reconcile and ingest need of the table. Nodes are named by ARN; times are Unix seconds."""

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]:
        """All of them, read consistently; a node that is not there has an empty state."""

    def save(self, arn: str, record: Record, marked: tuple[tuple[str, int], ...], notes: Notes) -> None:
        """Write the record. Raises :class:`RevisionConflictError`."""

    def bury(self, arn: str, record: Record, expires_at: float) -> None:
        """Make the record a tombstone and delete what else there is of the node, but for the lease."""

    def save_intents(self, arn: str, intents: Sequence[Intent], slots: Sequence[Reservation] = ()) -> None:
        """Replace the node's intents, and the tokens it has reserved."""

    def accept_report(self, arn: str, report: Report, heard: Heard | None = None) -> bool:
        """Keep ``report`` unless the last one is newer. False: it is. The last one itself is taken again."""

    def hint(self, arn: str, signal: Signal) -> bool:
        """Note what EC2 cannot be asked about. False: there is no such node (yet), or a later request is known."""

    def unhook(self, arn: str, hook_at: float) -> None:
        """Forget the launch hook that the instance has waited in since ``hook_at``, and no later one."""

    def take(self, arn: str, holder: str, now: float, until: float) -> bool:
        """Take the node's lease. False: somebody has it, and has been told to look again (or just let go)."""

    def release(self, arn: str, holder: str, seen: int | None) -> int | None:
        """Let go of the lease unless somebody knocked since ``seen`` knocks (None: in any case).

        None: it is not ours any more, let go of now or before. Else it still is, after that many knocks: look again.
        """


class DynamoStore:
    """The table through boto3."""

    def __init__(self, client: DynamoDBClient, table: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._table = Table(client, table, sleep)

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]:
        kinds = (RECORD_KIND, REPORT_KIND, INTENTS_KIND, STANDBY_KIND)
        keys = [item_key(arn, kind) for arn in arns for kind in kinds]
        items: dict[str, dict[str, Any]] = {arn: {} for arn in arns}
        for item in self._table.get(keys):
            items[item[NODE]["S"]][item[KIND]["S"]] = item
        return {arn: read_state(kinds) for arn, kinds in items.items()}

    def save(self, arn: str, record: Record, marked: tuple[tuple[str, int], ...], notes: Notes) -> None:
        self._write_record(
            arn,
            record,
            # requested…, draining… and hook… are written by `hint` alone: a holder that wrote them back could undo one
            sets="marks = :marks, absent_since = :absent, next_look = :next, looks = :looks, unmet = :unmet, "
            "problems = :problems, unwanted = :unwanted, wanted_since = :wanted, listed_at = :listed, "
            "unmet_requests = :requests",
            removes=f" REMOVE {EXPIRES}",
            values={
                ":marks": {"S": json.dumps(dict(marked), sort_keys=True)},
                ":absent": number(notes.absent_since),
                ":next": number(notes.next_look),
                ":looks": number(notes.looks),
                ":unmet": number(notes.unmet),
                ":problems": {"S": notes.problems},
                ":wanted": number(notes.wanted_since),
                ":listed": number(notes.listed_at),
                ":requests": {"S": json.dumps([[u.key, u.looks, u.until] for u in notes.unmet_requests])},
                ":unwanted": {"S": json.dumps(dict(notes.unwanted), sort_keys=True)},
            },
        )

    def bury(self, arn: str, record: Record, expires_at: float) -> None:
        for kind in (REPORT_KIND, INTENTS_KIND, STANDBY_KIND):
            self._table.delete(item_key(arn, kind))
        self._write_record(
            arn,
            record,
            sets=f"{EXPIRES} = :expires",
            removes=" REMOVE marks, absent_since, next_look, looks, unmet, problems, unwanted, wanted_since, "
            "listed_at, unmet_requests, draining_until, requested, requested_until, requested_at, hook_group, "
            "hook_name, hook_at",
            values={":expires": number(int(expires_at))},
        )

    def save_intents(self, arn: str, intents: Sequence[Intent], slots: Sequence[Reservation] = ()) -> None:
        item = {**item_key(arn, INTENTS_KIND), BODY: {"S": encode_intents(intents)}}
        if slots:
            item["slots"] = {"S": json.dumps([[s.action, s.count, s.at, s.until] for s in slots])}
        self._table.put(item)

    def accept_report(self, arn: str, report: Report, heard: Heard | None = None) -> bool:
        heard = heard or Heard()
        order = {"boot": number(report.order.boot), "sequence": number(report.order.sequence)}
        return self._table.put(
            {
                **item_key(arn, REPORT_KIND),
                **order,
                BODY: {"S": encode_report(report)},
                "received": number(heard.received),
                "failing_since": number(heard.failing_since),
                LEASES: {"S": str(heard.told)},
            },
            ConditionExpression=REPORT_IS_NOT_OLDER,
            ExpressionAttributeNames={"#sequence": "sequence"},
            ExpressionAttributeValues={":boot": order["boot"], ":sequence": order["sequence"]},
        )

    def hint(self, arn: str, signal: Signal) -> bool:
        sets: dict[str, Any] = {}
        if signal.draining_until > 0:
            sets["draining_until"] = number(signal.draining_until)
        if signal.requested_until > 0:
            names = ("requested", "requested_until", "requested_at")
            sets |= {name: number(getattr(signal, name)) for name in names}
        if signal.hook_name:
            sets |= {"hook_group": {"S": signal.hook_group}, "hook_name": {"S": signal.hook_name}}
            sets["hook_at"] = number(signal.hook_at)
        return self._table.update(
            item_key(arn, RECORD_KIND),
            "SET " + ", ".join(f"{name} = :{name}" for name in sets),
            {f":{name}": value for name, value in sets.items()},
            ConditionExpression=NODE_IS_KNOWN + (f" AND {REQUEST_IS_NEWER}" if "requested_at" in sets else ""),
        )

    def unhook(self, arn: str, hook_at: float) -> None:
        self._table.update(
            item_key(arn, RECORD_KIND),
            "REMOVE hook_group, hook_name, hook_at",
            {":hook_at": number(hook_at)},
            ConditionExpression=HOOK_IS_NOT_LATER,
        )

    # ------------------------------------------------------------------------------------------------ lease

    def take(self, arn: str, holder: str, now: float, until: float) -> bool:
        for _ in range(3):
            if self._table.put(
                {
                    **item_key(arn, LEASE_KIND),
                    "holder": {"S": holder},
                    "until": number(until),
                    "wakeups": number(0),
                },
                ConditionExpression=LEASE_IS_FREE,
                ExpressionAttributeNames={"#until": "until"},
                ExpressionAttributeValues={":now": number(now), ":holder": {"S": holder}},
            ):
                return True
            if self._table.update(
                item_key(arn, LEASE_KIND),
                "ADD wakeups :one",
                {":one": number(1), ":now": number(now)},
                ConditionExpression=LEASE_IS_HELD,
                ExpressionAttributeNames={"#until": "until"},
            ):
                return False
            # it was let go between the two: try to take it again
        raise TimeoutError(f"{arn}: the lease changed hands three times while it was asked for; trying again later")

    def release(self, arn: str, holder: str, seen: int | None) -> int | None:
        condition, values = LEASE_IS_MINE, {":holder": {"S": holder}}
        if seen is not None:
            condition, values = f"{LEASE_IS_MINE} AND {NOBODY_KNOCKED}", values | {":seen": number(seen)}
        key = item_key(arn, LEASE_KIND)
        if self._table.delete(key, ConditionExpression=condition, ExpressionAttributeValues=values):
            return None
        # refused for a knock, or because it is gone: the answer to a first attempt was lost, or the lease ran out
        answer = self._table.client.get_item(TableName=self._table.name, Key=key, ConsistentRead=True)
        lease = answer.get("Item", {})
        mine = lease.get("holder", {}).get("S") == holder
        return int(lease["wakeups"]["N"]) if mine else None

    # ------------------------------------------------------------------------------------------------ plumbing

    def _write_record(self, arn: str, record: Record, sets: str, removes: str, values: dict[str, Any]) -> None:
        written = self._table.update(
            item_key(arn, RECORD_KIND),
            f"SET {BODY} = :body, revision = :revision, digest = :digest, {sets}{removes}",
            {
                ":body": {"S": encode_record(record)},
                ":revision": number(record.revision),
                ":digest": {"S": digest(record)},
                **values,
            },
            ConditionExpression=REVISION_GROWS_OR_STAYS_AS_IT_IS,
        )
        if not written:
            raise RevisionConflictError(f"{arn}: the table holds another record of revision {record.revision} or above")
