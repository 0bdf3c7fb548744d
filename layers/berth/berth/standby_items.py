"""Standby interfaces as items of the table, and the writes that nodes and the filler share.

Partition key ``node``, sort key ``kind``, beside the items of :mod:`berth.store`::

    standby#<pool>  <interface>  body (the interface), created_at, claimed_by, claimed_at, settled_at
    standby#<pool>  creating     body (tokens of creations that may have been made, and since when)
    standby#pools   pools        pools (string set): every pool that may have interfaces; problems
    <node's ARN>    standby      claims (string set of <pool>/<interface>): where to look for what the node has claimed

An interface through time::

    ready ── claimed by a node ── attached, tagged ── settled ── forgotten, once no describe can lag behind that
       └─── claimed by the reaper ──────── deleted ───┘

The claim on the interface's own item is what counts. The node's item is written before it and only says where to look,
so a process that dies between the two leaves a pointer to somebody else's interface, which nobody follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from berth.contract import BODY, KIND, NODE
from berth.model import InterfaceView

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = ["CREATING", "REAPER", "StandbyItem", "StandbyTable", "encode", "item_key", "key", "number", "read_item"]

REAPER: Final = "reaper"
"""Claims what is to be deleted, as a node would claim it."""
PARTITION: Final = "standby#"
CREATING: Final = "creating"
_BATCH: Final = 100
"""Keys in one BatchGetItem (DynamoDB API reference)."""

# boto3 repeats a write whose answer was lost: a condition must hold for the very write that it has let through
CLAIMABLE: Final = (
    f"attribute_exists({BODY}) AND attribute_not_exists(settled_at) "
    "AND (attribute_not_exists(claimed_by) OR claimed_by = :me)"
)
CLAIMED_BY: Final = "claimed_by = :me"


@dataclass(frozen=True, slots=True)
class StandbyItem:
    """One interface of a pool. ``claimed_by`` is an instance id, :data:`REAPER` or ""; times are Unix seconds or 0."""

    interface: InterfaceView
    created_at: float
    claimed_by: str = ""
    claimed_at: float = 0.0
    settled_at: float = 0.0


class StandbyTable:
    """The table through boto3."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client, self._table = client, table

    def take(self, interface: InterfaceView, who: str, now: float) -> bool:
        """Claim it. False: somebody else has it, or it is not in its pool."""
        values = {":me": {"S": who}, ":now": number(now)}
        return self.update(item_key(interface), "SET claimed_by = :me, claimed_at = :now", CLAIMABLE, values)

    def end(self, interface: InterfaceView, who: str, now: float) -> None:
        """The claim has served. The item stays for as long as a describe may still show the interface as it was."""
        values = {":me": {"S": who}, ":now": number(now)}
        self.update(item_key(interface), "SET settled_at = :now", CLAIMED_BY, values)

    def query(
        self, pool: str, condition: str = "", start: str = "", *, page: int = 0, consistent: bool = False
    ) -> Iterator[Mapping[str, Any]]:
        """A pool's items by ``kind``, those for which ``condition`` holds of ``#kind`` and ``:start``."""
        names, values = {"#node": NODE}, {":pool": {"S": PARTITION + pool}}
        request: dict[str, Any] = {"KeyConditionExpression": "#node = :pool", "ConsistentRead": consistent}
        if condition:
            request["KeyConditionExpression"] += f" AND {condition}"
            names, values = names | {"#kind": KIND}, values | {":start": {"S": start}}
        if page:
            request["Limit"] = page
        while True:
            answer = self._client.query(
                TableName=self._table, ExpressionAttributeNames=names, ExpressionAttributeValues=values, **request
            )
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def get(self, keys: Sequence[dict[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """The items with these keys, read consistently; what is not there is missing."""
        waiting = list(keys)
        while waiting:
            batch, waiting = waiting[:_BATCH], waiting[_BATCH:]
            answer = self._client.batch_get_item(RequestItems={self._table: {"Keys": batch, "ConsistentRead": True}})
            yield from answer["Responses"].get(self._table, [])
            left: Any = answer.get("UnprocessedKeys", {})
            waiting += left.get(self._table, {}).get("Keys", [])

    def update(self, item: dict[str, Any], expression: str, condition: str | None, values: Mapping[str, Any]) -> bool:
        """UpdateItem; False: the condition did not hold."""
        checked = {"ConditionExpression": condition} if condition else {}
        return self._conditionally(
            self._client.update_item,
            Key=item,
            UpdateExpression=expression,
            ExpressionAttributeValues=values,
            **checked,
        )

    def put(self, item: dict[str, Any], **checked: Any) -> bool:
        """PutItem; False: the condition did not hold."""
        return self._conditionally(self._client.put_item, Item=item, **checked)

    def delete(self, item: dict[str, Any], **checked: Any) -> bool:
        """DeleteItem; False: the condition did not hold."""
        return self._conditionally(self._client.delete_item, Key=item, **checked)

    def _conditionally(self, call: Any, **parameters: Any) -> bool:
        try:
            call(TableName=self._table, **parameters)
        except ClientError as error:
            if error.response["Error"].get("Code") == "ConditionalCheckFailedException":
                return False
            raise
        return True


def key(node: str, kind: str) -> dict[str, Any]:
    return {NODE: {"S": node}, KIND: {"S": kind}}


def item_key(interface: InterfaceView) -> dict[str, Any]:
    return key(f"{PARTITION}{interface.standby}", interface.id)


def number(value: float) -> dict[str, str]:
    return {"N": str(value)}


def encode(interface: InterfaceView) -> str:
    """As it is while it stands by: attached to nothing, and no node's."""
    return json.dumps(asdict(replace(interface, attachment=None, node=None)), separators=(",", ":"), sort_keys=True)


_FIELDS: Final = {f.name for f in fields(InterfaceView)}


def read_item(item: Mapping[str, Any]) -> StandbyItem:
    """Fields that this version does not know belong to a newer one."""
    body: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(item[BODY]["S"]).items() if k in _FIELDS
    }

    def moment(name: str) -> float:
        return float(item.get(name, {}).get("N", "0"))

    claimed_by = item.get("claimed_by", {}).get("S", "")
    return StandbyItem(
        InterfaceView(**body), moment("created_at"), claimed_by, moment("claimed_at"), moment("settled_at")
    )
