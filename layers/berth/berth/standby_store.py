"""The nodes' side of standby interfaces: candidates, claims, and what is claimed. The table: :mod:`standby_items`."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from berth.contract import KIND, NODE
from berth.model import InterfaceView
from berth.node_items import STANDBY_KIND
from berth.standby_items import CREATING, PARTITION, StandbyTable, read_item
from berth.table import item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = ["DynamoStandby"]

_ENOUGH: Final = 8
"""Candidates of a pool for one look: a race that is lost costs one of them."""
_PAGE: Final = 40
_EMPTY_SECONDS: Final = 2.0
"""A pool that had nothing is not asked again for so long."""


class DynamoStandby:
    """The table through boto3, as :class:`berth.standby.StandbyPools`.

    ``pools`` gives the keys of the pools in force by subnet; ``arn`` the key of a node's items by instance id.
    """

    def __init__(
        self, client: DynamoDBClient, table: str, arn: Callable[[str], str], pools: Mapping[str, Sequence[str]]
    ) -> None:
        self._table, self._arn, self._pools = StandbyTable(client, table), arn, dict(pools)
        self._empty: dict[str, float] = {}

    def candidates(self, subnet_ids: frozenset[str], now: float) -> tuple[InterfaceView, ...]:
        """Some of each pool, from a place chosen at random: those who ask at the same time rarely meet."""
        found: list[InterfaceView] = []
        for pool in (k for s in sorted(subnet_ids) for k in self._pools.get(s, ())):
            if now - self._empty.get(pool, 0.0) < _EMPTY_SECONDS:
                continue
            some = self._some(pool)
            if not some:
                self._empty[pool] = now
            found += some
        return tuple(found)

    def claimed(self, instance_ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        """Nodes without any are missing."""
        arns = {self._arn(i): i for i in instance_ids}
        pointers = {
            arns[item[NODE]["S"]]: sorted(c.split("/", 1) for c in item["claims"]["SS"])
            for item in self._table.get([item_key(arn, STANDBY_KIND) for arn in arns])
            if "claims" in item
        }
        wanted = sorted({(pool, eni) for claims in pointers.values() for pool, eni in claims})
        read = map(read_item, self._table.get([item_key(PARTITION + pool, eni) for pool, eni in wanted]))
        items = {i.interface.id: i for i in read if not i.settled_at}
        found = {
            node: tuple(items[eni].interface for _, eni in claims if eni in items and items[eni].claimed_by == node)
            for node, claims in pointers.items()
        }
        return {node: interfaces for node, interfaces in found.items() if interfaces}

    def claim(self, interface: InterfaceView, instance_id: str, now: float) -> bool:
        mine, pointer = self._mine(interface, instance_id)
        self._table.update(mine, "ADD claims :c", pointer)
        if self._table.take(interface, instance_id, now):
            return True
        self._unpoint(mine, pointer)
        return False

    def settle(self, interface: InterfaceView, instance_id: str, now: float) -> None:
        mine, pointer = self._mine(interface, instance_id)
        self._table.end(interface, instance_id, now)
        self._unpoint(mine, pointer)

    def _mine(self, interface: InterfaceView, instance_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The node's own item, and its pointer to the interface."""
        return item_key(self._arn(instance_id), STANDBY_KIND), {":c": {"SS": [f"{interface.standby}/{interface.id}"]}}

    def _unpoint(self, mine: dict[str, Any], pointer: dict[str, Any]) -> None:
        self._table.update(mine, "DELETE claims :c", pointer)
        # DynamoDB drops a set with its last member; what is left is an item that says nothing
        self._table.delete(mine, ConditionExpression="attribute_not_exists(claims) AND attribute_not_exists(publics)")

    def _some(self, pool: str) -> list[InterfaceView]:
        """Up to eight that nobody has claimed, in no order. Not read consistently: the claim tells."""
        start = f"eni-{random.getrandbits(68):017x}"
        found: list[InterfaceView] = []
        for condition in ("#kind > :start", "#kind <= :start"):
            for item in self._table.query(pool, condition, start, page=_PAGE):
                if item[KIND]["S"] != CREATING and "claimed_by" not in item:
                    found.append(read_item(item).interface)
                    if len(found) == _ENOUGH:
                        return found
        return found
