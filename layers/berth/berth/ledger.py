"""The lease ledger's edge: writes in batches, without conditions (:mod:`berth.ledger_items`)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.exceptions import ClientError, ParamValidationError

from berth.ledger_items import ADDRESS, LEASE, Closing, Fact, begin_key, closing_item, lease_item
from berth.table import Table

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = ["DAY", "DynamoLedger", "ItemsRefusedError", "Ledger"]

DAY: Final = 86_400.0
_BATCH: Final = 25
"""Requests in one BatchWriteItem (DynamoDB API reference)."""
_PAUSES: Final = 5
_PAUSE_SECONDS: Final = 0.05


class ItemsRefusedError(Exception):
    """DynamoDB will never take one of these items, and takes none of a batch with it in."""


class Ledger(Protocol):
    """What the functions need of it."""

    def begun(self, facts: Sequence[Fact]) -> frozenset[Fact]:
        """Those of ``facts`` whose lease the ledger has begun, for this very node."""

    def write(self, facts: Sequence[Fact], closings: Sequence[Closing] = ()) -> None:
        """Add these. Raises :class:`ItemsRefusedError`, or whatever DynamoDB may: some of them may have been added."""


class DynamoLedger:
    """The table through boto3. ``days`` is how long an item is kept after it was told.

    What says that a lease is over is kept for longer than what says that it has begun (DynamoDB deletes expired items
    at its leisure, so readers go by the time in them): else an ended lease would come to look like an open one.
    """

    def __init__(
        self,
        client: DynamoDBClient,
        table: str,
        days: int,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._table, self._days, self._clock, self._sleep = Table(client, table, sleep), days, clock, sleep

    def begun(self, facts: Sequence[Fact]) -> frozenset[Fact]:
        keys = {f: begin_key(f.lease.address, f.lease.began, f.instance_id, f.lease.epoch) for f in facts}
        wanted = {_name(key): key for key in keys.values()}
        found = {_name(item) for item in self._table.get([*wanted.values()])}
        return frozenset(f for f, key in keys.items() if _name(key) in found)

    def write(self, facts: Sequence[Fact], closings: Sequence[Closing] = ()) -> None:
        now = self._clock()
        items = [lease_item(f, now + (self._days + (1 if f.lease.ended else 0)) * DAY) for f in facts]
        items += [closing_item(c, now + (self._days + 2) * DAY) for c in closings]
        # BatchWriteItem refuses two writes of one item; the last said of it counts
        waiting = [*{_name(item): item for item in items}.values()]
        pauses = 0
        while waiting:
            batch, waiting = waiting[:_BATCH], waiting[_BATCH:]
            left = self._put(batch)
            if left:
                if pauses == _PAUSES:
                    raise TimeoutError(f"DynamoDB has no capacity to write {len(left) + len(waiting)} items")
                self._sleep(_PAUSE_SECONDS * 2**pauses * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
                pauses += 1
                waiting += left

    def _put(self, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """BatchWriteItem; what DynamoDB had no capacity for comes back."""
        requests: Any = {self._table.name: [{"PutRequest": {"Item": item}} for item in items]}
        try:
            answer: Any = self._table.client.batch_write_item(RequestItems=requests)
        except (ClientError, ParamValidationError, UnicodeError) as error:
            if isinstance(error, ClientError) and error.response["Error"].get("Code") != "ValidationException":
                raise
            raise ItemsRefusedError(str(error)) from error
        return [r["PutRequest"]["Item"] for r in answer.get("UnprocessedItems", {}).get(self._table.name, [])]


def _name(item: Mapping[str, Any]) -> tuple[str, str]:
    return item[ADDRESS]["S"], item[LEASE]["S"]
