"""Elastic IP addresses as EC2 shows them, and who has claimed them in the table.

Partition key ``node``, sort key ``kind``, beside the items of :mod:`berth.node_items`::

    public        <allocation id>  claimed_by (instance id), asked_by (PodRequest.id), private_address, claimed_at
    <node's ARN>  standby          publics (string set of allocation ids): the node may have claimed them

The claim's own item is what counts. The node's item is written before it and taken back after it: it only says that
claims are worth reading, so a process that dies between the two leaves a pointer that leads nowhere.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from berth.chunks import chunks
from berth.contract import KIND, NODE
from berth.ec2 import call_ec2
from berth.ec2_wire import Ec2Error, Trouble, read_public_address
from berth.model import POOL_TAG, PublicAddress
from berth.node_items import STANDBY_KIND
from berth.table import Table, item_key, number

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_ec2.client import EC2Client

__all__ = ["PARTITION", "AwsPublics", "Publics", "may_use"]

PARTITION: Final = "public"
# boto3 repeats a write whose answer was lost: a condition must hold for the very write that it has let through
NOBODY_HAS_IT: Final = "attribute_not_exists(claimed_by) OR (claimed_by = :me AND asked_by = :request)"
IT_IS_MINE: Final = "claimed_by = :me"


def may_use(public: PublicAddress, pools: Sequence[str]) -> bool:
    """Whether a stack that is given these pools (patterns) may use an address that carries the tag."""
    return any(fnmatch.fnmatchcase(public.pool, pattern) for pattern in pools)


class Publics(Protocol):
    """What reconcile needs of them. Times are Unix seconds."""

    def load(self) -> tuple[PublicAddress, ...]:
        """All that the stack may use, and all that are claimed, without a tag too. Raises what EC2 and the table do."""

    def claim(self, public: PublicAddress, instance_id: str, request: str, address: str, now: float) -> bool:
        """Make it this request's. False: somebody else has it."""

    def unclaim(self, allocation_id: str, instance_id: str) -> None:
        """Nobody's any more, if it was this node's."""


class AwsPublics:
    """EC2 and the table through boto3. ``pools`` are patterns of the tag's values, as the stack's policy has them.

    ``pay`` takes a token for one describe, or raises; ``arn`` gives the key of a node's items by instance id.
    """

    def __init__(
        self,
        ec2: EC2Client,
        table: DynamoDBClient,
        name: str,
        pools: Sequence[str],
        arn: Callable[[str], str],
        pay: Callable[[str], None],
    ) -> None:
        self._ec2, self._table, self._pools, self._arn, self._pay = ec2, Table(table, name), tuple(pools), arn, pay

    def load(self) -> tuple[PublicAddress, ...]:
        """Claims are read after EC2: one that was given up in between looks as if it were still where it was."""
        tagged = {p.id: p for p in self._described("tag-key", [POOL_TAG])}
        found = {p.id: p for p in tagged.values() if may_use(p, self._pools)}
        claims = {item[KIND]["S"]: item for item in self._claims()}
        known = {**tagged, **{p.id: p for p in self._without_tag(sorted(claims.keys() - tagged.keys()))}}
        for name, item in claims.items():
            shown = found.get(name) or replace(known.get(name, PublicAddress(name)), shown=False)
            claim = {name: item.get(name, {}).get("S", "") for name in ("claimed_by", "asked_by", "private_address")}
            found[name] = replace(
                shown, claimed_by=claim["claimed_by"], request=claim["asked_by"], claimed_for=claim["private_address"]
            )
        return tuple(sorted(found.values(), key=lambda p: p.id))

    def claim(self, public: PublicAddress, instance_id: str, request: str, address: str, now: float) -> bool:
        self._point("ADD", instance_id, public.id)
        won = self._table.update(
            item_key(PARTITION, public.id),
            "SET claimed_by = :me, asked_by = :request, private_address = :address, claimed_at = :now",
            {
                ":me": {"S": instance_id},
                ":request": {"S": request},
                ":address": {"S": address},
                ":now": number(now),
            },
            ConditionExpression=NOBODY_HAS_IT,
        )
        if not won:
            self._unpoint(instance_id, public.id)
        return won

    def unclaim(self, allocation_id: str, instance_id: str) -> None:
        self._table.delete(
            item_key(PARTITION, allocation_id),
            ConditionExpression=IT_IS_MINE,
            ExpressionAttributeValues={":me": {"S": instance_id}},
        )
        self._unpoint(instance_id, allocation_id)

    # ------------------------------------------------------------------------------------------- plumbing

    def _without_tag(self, claimed: Sequence[str]) -> Iterator[PublicAddress]:
        """What is claimed and not shown by its tag: without one it is where it was all the same. None, nearly always.

        A filter leaves out what has been released; to ask for it by its id would be an error.
        """
        for chunk in chunks(claimed):
            yield from self._described("allocation-id", chunk)

    def _described(self, name: str, values: Sequence[str]) -> Iterator[PublicAddress]:
        """DescribeAddresses knows no pages: all in one answer. Once more if it was not answered."""
        parameters = {"Filters": [{"Name": name, "Values": list(values)}]}
        self._pay("DescribeAddresses")
        try:
            answer = call_ec2(self._ec2, "describe_addresses", parameters)
        except Ec2Error as error:
            if error.trouble is not Trouble.IN_DOUBT:
                raise
            self._pay("DescribeAddresses")
            answer = call_ec2(self._ec2, "describe_addresses", parameters)
        # those of EC2-Classic had no allocation id
        yield from (read_public_address(a) for a in answer["Addresses"] if a.get("AllocationId"))

    def _claims(self) -> Iterator[Mapping[str, Any]]:
        request: dict[str, Any] = {
            "KeyConditionExpression": "#node = :public",
            "ExpressionAttributeNames": {"#node": NODE},
            "ExpressionAttributeValues": {":public": {"S": PARTITION}},
            "ConsistentRead": True,
        }
        while True:
            answer = self._table.client.query(TableName=self._table.name, **request)
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def _point(self, verb: str, instance_id: str, allocation_id: str) -> dict[str, Any]:
        key = item_key(self._arn(instance_id), STANDBY_KIND)
        self._table.update(key, f"{verb} publics :p", {":p": {"SS": [allocation_id]}})
        return key

    def _unpoint(self, instance_id: str, allocation_id: str) -> None:
        key = self._point("DELETE", instance_id, allocation_id)
        # DynamoDB drops a set with its last member; what is left is an item that says nothing
        self._table.delete(key, ConditionExpression="attribute_not_exists(claims) AND attribute_not_exists(publics)")
