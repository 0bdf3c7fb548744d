"""The filler's side of standby interfaces: what each pool holds. The table: :mod:`standby_items`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from berth.contract import BODY, KIND, NODE
from berth.model import InterfaceView
from berth.standby_items import (
    CREATING,
    PARTITION,
    REAPER,
    StandbyItem,
    StandbyTable,
    encode,
    interface_key,
    read_item,
)
from berth.table import item_key, number

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = ["Creating", "DynamoStock", "Stock"]

UNCLAIMED: Final = "attribute_not_exists(claimed_by)"
NEW: Final = f"attribute_not_exists({NODE}) OR ({UNCLAIMED} AND {BODY} = :body)"
AS_CLAIMED: Final = "claimed_by = :me"
OTHER_PROBLEMS: Final = "attribute_not_exists(problems) OR problems <> :p"
_REGISTRY: Final = item_key(f"{PARTITION}pools", "pools")


@dataclass(frozen=True, slots=True)
class Creating:
    """ClientTokens of creations begun at ``at`` (Unix seconds), whose outcome nobody noted yet.

    ``noted`` others that were begun with them have their items; all carry ``at`` as the time they were created.
    """

    tokens: tuple[str, ...] = ()
    at: float = 0.0
    noted: int = 0


class Stock(Protocol):
    """What the filler needs of the table. Pools are named by key; times are Unix seconds."""

    def pools(self) -> frozenset[str]:
        """All pools that may have interfaces or items."""

    def register(self, keys: Sequence[str]) -> None:
        """Remember pools, before anything is made for them."""

    def unregister(self, keys: Sequence[str]) -> None:
        """Forget pools that have nothing left."""

    def news(self, problems: str) -> bool:
        """Note the problems that are told of now. False: they are the ones that were told of last."""

    def items(self, pool: str) -> tuple[tuple[StandbyItem, ...], Creating]:
        """Everything in a pool, read consistently, sorted by interface id."""

    def note_creating(self, pool: str, creating: Creating) -> None:
        """Before the calls: what nobody heard of is asked for again with the same token. No tokens: all is noted."""

    def add(self, interface: InterfaceView, now: float) -> bool:
        """Put an interface into its pool. False: it is known there, and may be claimed or settled."""

    def condemn(self, interface: InterfaceView, now: float) -> bool:
        """Claim it for deletion. False: a node has it."""

    def deleted(self, interface: InterfaceView, now: float) -> None:
        """What was condemned is deleted."""

    def forget(self, item: StandbyItem) -> bool:
        """Remove an item as it was read. False: it has changed since."""


class DynamoStock:
    """The table through boto3."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._table = StandbyTable(client, table)

    def pools(self) -> frozenset[str]:
        return frozenset(p for item in self._table.get([_REGISTRY]) for p in item.get("pools", {}).get("SS", ()))

    def register(self, keys: Sequence[str]) -> None:
        self._table.update(_REGISTRY, "ADD pools :p", {":p": {"SS": list(keys)}})

    def unregister(self, keys: Sequence[str]) -> None:
        self._table.update(_REGISTRY, "DELETE pools :p", {":p": {"SS": list(keys)}})

    def news(self, problems: str) -> bool:
        return self._table.update(
            _REGISTRY, "SET problems = :p", {":p": {"S": problems}}, ConditionExpression=OTHER_PROBLEMS
        )

    def items(self, pool: str) -> tuple[tuple[StandbyItem, ...], Creating]:
        found: list[StandbyItem] = []
        creating = Creating()
        for item in self._table.query(pool, consistent=True):
            if item[KIND]["S"] == CREATING:
                creating = _creating(item)
            else:
                found.append(read_item(item))
        return tuple(found), creating

    def note_creating(self, pool: str, creating: Creating) -> None:
        item = item_key(PARTITION + pool, CREATING)
        if creating.tokens:
            body = json.dumps(asdict(creating))
            self._table.put({**item, BODY: {"S": body}})
        else:
            self._table.delete(item)

    def add(self, interface: InterfaceView, now: float) -> bool:
        body = {"S": encode(interface)}
        item = {**interface_key(interface), BODY: body, "created_at": number(interface.created_at or now)}
        return self._table.put(item, ConditionExpression=NEW, ExpressionAttributeValues={":body": body})

    def condemn(self, interface: InterfaceView, now: float) -> bool:
        return self._table.take(interface, REAPER, now)

    def deleted(self, interface: InterfaceView, now: float) -> None:
        self._table.end(interface, REAPER, now)

    def forget(self, item: StandbyItem) -> bool:
        checked: dict[str, Any] = {"ConditionExpression": UNCLAIMED}
        if item.claimed_by:
            values = {":me": {"S": item.claimed_by}}
            checked = {"ConditionExpression": AS_CLAIMED, "ExpressionAttributeValues": values}
        return self._table.delete(interface_key(item.interface), **checked)


def _creating(item: Mapping[str, Any]) -> Creating:
    body = json.loads(item[BODY]["S"])
    return Creating(tuple(body["tokens"]), body["at"], body["noted"])
