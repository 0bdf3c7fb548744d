"""The DynamoDB edge: one small group of items for each node.

Partition key ``node`` = instance ARN, sort key ``kind``::

    record   body (contract.Record), revision, marks, notes; what the node reads
    report   body (contract.Report), boot, sequence; the last accepted one
    intents  body; calls about to be made, and the outcomes of recent ones; slots: tokens reserved for later
    lease    holder, until, wakeups; exists only while somebody holds it

A lease through time::

    take ──────────── wake (wakeups 1) ─── release(seen 0): refused, look again ─── release(seen 1): item deleted
                                                    │
    holder dies ... until passes ─── take by another (wakeups 0 again)
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.exceptions import ClientError

from berth.buckets import Reservation
from berth.contract import (
    BODY,
    KIND,
    NODE,
    RECORD_KIND,
    ContractError,
    Order,
    Record,
    Report,
    decode_record,
    decode_report,
    encode_record,
    encode_report,
)
from berth.events import Signal
from berth.intents import decode_intents, encode_intents
from berth.model import Intent, Notes

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = ["DynamoStore", "NodeState", "RevisionConflictError", "Store", "read_state"]

REPORT_KIND: Final = "report"
INTENTS_KIND: Final = "intents"
LEASE_KIND: Final = "lease"
EXPIRES: Final = "expires_at"
_BATCH: Final = 100
"""Keys in one BatchGetItem (DynamoDB API reference)."""
_PAUSES: Final = 6
_PAUSE_SECONDS: Final = 0.05
"""The first pause; with jitter all of them together last 3 seconds at the most."""

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


def digest(record: Record) -> str:
    """Short text that differs when two records tell a node different things; the report they know of is none."""
    return hashlib.sha256(encode_record(replace(record, accepted=Order())).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class NodeState:
    """What the table knows of a node. ``buried``: the record is a tombstone. ``broken`` says why it cannot be read."""

    record: Record | None = None
    marked: tuple[tuple[str, int], ...] = ()
    notes: Notes = field(default_factory=Notes)
    report: Report | None = None
    intents: tuple[Intent, ...] = ()
    buried: bool = False
    slots: tuple[Reservation, ...] = ()
    broken: str = ""


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

    def accept_report(self, arn: str, report: Report) -> bool:
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
        self._client, self._table, self._sleep = client, table, sleep

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]:
        keys = [_key(arn, kind) for arn in arns for kind in (RECORD_KIND, REPORT_KIND, INTENTS_KIND)]
        items: dict[str, dict[str, Any]] = {arn: {} for arn in arns}
        for item in self._get(keys):
            items[item[NODE]["S"]][item[KIND]["S"]] = item
        return {arn: read_state(kinds) for arn, kinds in items.items()}

    def records(self) -> Iterator[tuple[str, NodeState]]:
        """Every node's record, page by page. For the sweep alone: it reads the whole table."""
        start: dict[str, Any] = {}
        while True:
            page = self._client.scan(
                TableName=self._table,
                FilterExpression="#kind = :record",
                ExpressionAttributeNames={"#kind": KIND},
                ExpressionAttributeValues={":record": {"S": RECORD_KIND}},
                **start,
            )
            for item in page["Items"]:
                yield item[NODE]["S"], read_state({RECORD_KIND: item})
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def save(self, arn: str, record: Record, marked: tuple[tuple[str, int], ...], notes: Notes) -> None:
        self._write_record(
            arn,
            record,
            # requested…, draining… and hook… are written by `hint` alone: a holder that wrote them back could undo one
            sets="marks = :marks, absent_since = :absent, next_look = :next, looks = :looks, unmet = :unmet, "
            "problems = :problems, unwanted = :unwanted, wanted_since = :wanted",
            removes=f" REMOVE {EXPIRES}",
            values={
                ":marks": {"S": json.dumps(dict(marked), sort_keys=True)},
                ":absent": _number(notes.absent_since),
                ":next": _number(notes.next_look),
                ":looks": _number(notes.looks),
                ":unmet": _number(notes.unmet),
                ":problems": {"S": notes.problems},
                ":wanted": _number(notes.wanted_since),
                ":unwanted": {"S": json.dumps(dict(notes.unwanted), sort_keys=True)},
            },
        )

    def bury(self, arn: str, record: Record, expires_at: float) -> None:
        for kind in (REPORT_KIND, INTENTS_KIND):
            self._client.delete_item(TableName=self._table, Key=_key(arn, kind))
        self._write_record(
            arn,
            record,
            sets=f"{EXPIRES} = :expires",
            removes=" REMOVE marks, absent_since, next_look, looks, unmet, problems, unwanted, wanted_since, "
            "draining_until, requested, requested_until, requested_at, hook_group, hook_name, hook_at",
            values={":expires": _number(int(expires_at))},
        )

    def save_intents(self, arn: str, intents: Sequence[Intent], slots: Sequence[Reservation] = ()) -> None:
        item = {**_key(arn, INTENTS_KIND), BODY: {"S": encode_intents(intents)}}
        if slots:
            item["slots"] = {"S": json.dumps([[s.action, s.count, s.at, s.until] for s in slots])}
        self._client.put_item(TableName=self._table, Item=item)

    def accept_report(self, arn: str, report: Report) -> bool:
        order = {"boot": _number(report.order.boot), "sequence": _number(report.order.sequence)}
        return self._conditionally(
            self._client.put_item,
            Item={**_key(arn, REPORT_KIND), **order, BODY: {"S": encode_report(report)}},
            ConditionExpression=REPORT_IS_NOT_OLDER,
            ExpressionAttributeNames={"#sequence": "sequence"},
            ExpressionAttributeValues={":boot": order["boot"], ":sequence": order["sequence"]},
        )

    def hint(self, arn: str, signal: Signal) -> bool:
        sets: dict[str, Any] = {}
        if signal.draining_until > 0:
            sets["draining_until"] = _number(signal.draining_until)
        if signal.requested_until > 0:
            names = ("requested", "requested_until", "requested_at")
            sets |= {name: _number(getattr(signal, name)) for name in names}
        if signal.hook_name:
            sets |= {"hook_group": {"S": signal.hook_group}, "hook_name": {"S": signal.hook_name}}
            sets["hook_at"] = _number(signal.hook_at)
        return self._conditionally(
            self._client.update_item,
            Key=_key(arn, RECORD_KIND),
            UpdateExpression="SET " + ", ".join(f"{name} = :{name}" for name in sets),
            ConditionExpression=NODE_IS_KNOWN + (f" AND {REQUEST_IS_NEWER}" if "requested_at" in sets else ""),
            ExpressionAttributeValues={f":{name}": value for name, value in sets.items()},
        )

    def unhook(self, arn: str, hook_at: float) -> None:
        self._conditionally(
            self._client.update_item,
            Key=_key(arn, RECORD_KIND),
            UpdateExpression="REMOVE hook_group, hook_name, hook_at",
            ConditionExpression=HOOK_IS_NOT_LATER,
            ExpressionAttributeValues={":hook_at": _number(hook_at)},
        )

    # ------------------------------------------------------------------------------------------------ lease

    def take(self, arn: str, holder: str, now: float, until: float) -> bool:
        for _ in range(3):
            if self._conditionally(
                self._client.put_item,
                Item={
                    **_key(arn, LEASE_KIND),
                    "holder": {"S": holder},
                    "until": _number(until),
                    "wakeups": _number(0),
                },
                ConditionExpression=LEASE_IS_FREE,
                ExpressionAttributeNames={"#until": "until"},
                ExpressionAttributeValues={":now": _number(now), ":holder": {"S": holder}},
            ):
                return True
            if self._conditionally(
                self._client.update_item,
                Key=_key(arn, LEASE_KIND),
                UpdateExpression="ADD wakeups :one",
                ConditionExpression=LEASE_IS_HELD,
                ExpressionAttributeNames={"#until": "until"},
                ExpressionAttributeValues={":one": _number(1), ":now": _number(now)},
            ):
                return False
            # it was let go between the two: try to take it again
        raise TimeoutError(f"{arn}: the lease changed hands three times while it was asked for; trying again later")

    def release(self, arn: str, holder: str, seen: int | None) -> int | None:
        condition, values = LEASE_IS_MINE, {":holder": {"S": holder}}
        if seen is not None:
            condition, values = f"{LEASE_IS_MINE} AND {NOBODY_KNOCKED}", values | {":seen": _number(seen)}
        key = _key(arn, LEASE_KIND)
        if self._conditionally(
            self._client.delete_item, Key=key, ConditionExpression=condition, ExpressionAttributeValues=values
        ):
            return None
        # refused for a knock, or because it is gone: the answer to a first attempt was lost, or the lease ran out
        lease = self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item", {})
        mine = lease.get("holder", {}).get("S") == holder
        return int(lease["wakeups"]["N"]) if mine else None

    # ------------------------------------------------------------------------------------------------ plumbing

    def _write_record(self, arn: str, record: Record, sets: str, removes: str, values: dict[str, Any]) -> None:
        written = self._conditionally(
            self._client.update_item,
            Key=_key(arn, RECORD_KIND),
            UpdateExpression=f"SET {BODY} = :body, revision = :revision, digest = :digest, {sets}{removes}",
            ConditionExpression=REVISION_GROWS_OR_STAYS_AS_IT_IS,
            ExpressionAttributeValues={
                ":body": {"S": encode_record(record)},
                ":revision": _number(record.revision),
                ":digest": {"S": digest(record)},
                **values,
            },
        )
        if not written:
            raise RevisionConflictError(f"{arn}: the table holds another record of revision {record.revision} or above")

    def _conditionally(self, call: Any, **parameters: Any) -> bool:
        try:
            call(TableName=self._table, **parameters)
        except ClientError as error:
            if error.response["Error"].get("Code") == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def _get(self, keys: Sequence[dict[str, Any]]) -> Iterator[Mapping[str, Any]]:
        waiting, pauses = list(keys), 0
        while waiting:
            batch, waiting = waiting[:_BATCH], waiting[_BATCH:]
            answer = self._client.batch_get_item(RequestItems={self._table: {"Keys": batch, "ConsistentRead": True}})
            yield from answer["Responses"].get(self._table, [])
            # what DynamoDB had no capacity for comes back, to be asked for again after a pause (BatchGetItem, API
            # reference: "we strongly recommend that you use an exponential backoff algorithm")
            left: Any = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
            if left:
                if pauses == _PAUSES:
                    raise TimeoutError(f"DynamoDB has no capacity to read {len(left) + len(waiting)} items")
                self._sleep(_PAUSE_SECONDS * 2**pauses * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
                pauses += 1
                waiting += left


def _key(arn: str, kind: str) -> dict[str, Any]:
    return {NODE: {"S": arn}, KIND: {"S": kind}}


def _number(value: float) -> dict[str, str]:
    return {"N": str(value)}


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
        )
    except (ContractError, KeyError, TypeError, ValueError) as error:
        return NodeState(broken=f"{type(error).__name__}: {error}")


def _notes(record: Mapping[str, Any]) -> Notes:
    def number(name: str) -> float:
        return float(record.get(name, {}).get("N", "0"))

    return Notes(
        requested=int(number("requested")),
        requested_until=number("requested_until"),
        draining_until=number("draining_until"),
        absent_since=number("absent_since"),
        next_look=number("next_look"),
        looks=int(number("looks")),
        unmet=int(number("unmet")),
        problems=record.get("problems", {}).get("S", ""),
        wanted_since=number("wanted_since"),
        unwanted=tuple(sorted(json.loads(record.get("unwanted", {}).get("S", "{}")).items())),
        hook_group=record.get("hook_group", {}).get("S", ""),
        hook_name=record.get("hook_name", {}).get("S", ""),
        hook_at=number("hook_at"),
    )
