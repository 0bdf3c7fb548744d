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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from berth.contract import BODY, KIND, NODE
from berth.model import InterfaceView
from berth.table import Table, item_key, number, told

__all__ = ["CREATING", "REAPER", "StandbyItem", "StandbyTable", "encode", "interface_key", "read_item"]

REAPER: Final = "reaper"
"""Claims what is to be deleted, as a node would claim it."""
PARTITION: Final = "standby#"
CREATING: Final = "creating"

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


class StandbyTable(Table):
    """The table, with what nodes and the filler both do to an interface of a pool."""

    def take(self, interface: InterfaceView, who: str, now: float) -> bool:
        """Claim it. False: somebody else has it, or it is not in its pool."""
        values = {":me": {"S": who}, ":now": number(now)}
        return self.update(
            interface_key(interface),
            "SET claimed_by = :me, claimed_at = :now",
            values,
            ConditionExpression=CLAIMABLE,
        )

    def end(self, interface: InterfaceView, who: str, now: float) -> None:
        """The claim has served. The item stays for as long as a describe may still show the interface as it was."""
        values = {":me": {"S": who}, ":now": number(now)}
        self.update(interface_key(interface), "SET settled_at = :now", values, ConditionExpression=CLAIMED_BY)

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
            answer = self.client.query(
                TableName=self.name, ExpressionAttributeNames=names, ExpressionAttributeValues=values, **request
            )
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def interface_key(interface: InterfaceView) -> dict[str, Any]:
    return item_key(f"{PARTITION}{interface.standby}", interface.id)


def encode(interface: InterfaceView) -> str:
    """As it is while it stands by: attached to nothing, and no node's."""
    return json.dumps(asdict(replace(interface, attachment=None, node=None)), separators=(",", ":"), sort_keys=True)


_FIELDS: Final = {f.name for f in fields(InterfaceView)}


def read_item(item: Mapping[str, Any]) -> StandbyItem:
    """Fields that this version does not know belong to a newer one."""
    body: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(item[BODY]["S"]).items() if k in _FIELDS
    }

    claimed_by = item.get("claimed_by", {}).get("S", "")
    return StandbyItem(
        InterfaceView(**body), told(item, "created_at"), claimed_by, told(item, "claimed_at"), told(item, "settled_at")
    )
