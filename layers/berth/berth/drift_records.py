"""The table as the search for changes by others reads it: which records list an interface that is gone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from berth.contract import BODY, KIND, NODE, RECORD_KIND
from berth.store import EXPIRES

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = ["LISTING_IDS", "DynamoDriftRecords"]

LISTING_IDS: Final = 100
"""Interfaces in one Scan: an expression has at most 4 KB and 300 operators and functions (DynamoDB quotas)."""


class DynamoDriftRecords:
    """The table through boto3. Reads all of it, so only ever for interfaces that EC2 does not show any more."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client, self._table = client, table

    def listing(self, interface_ids: Sequence[str], token: str) -> tuple[tuple[str, ...], str]:
        """ARNs of nodes on one page of the table whose records list one of these, and the next page's token.

        At most :data:`LISTING_IDS` ids. The record's body is JSON text, in which an id stands between quotes.
        """
        values: dict[str, Any] = {f":i{n}": {"S": f'"{i}"'} for n, i in enumerate(interface_ids)}
        listed = " OR ".join(f"contains(#body, {name})" for name in values)
        answer = self._client.scan(
            TableName=self._table,
            FilterExpression=f"#kind = :record AND attribute_not_exists({EXPIRES}) AND ({listed})",
            ProjectionExpression="#node",
            ExpressionAttributeNames={"#node": NODE, "#kind": KIND, "#body": BODY},
            ExpressionAttributeValues={**values, ":record": {"S": RECORD_KIND}},
            **({"ExclusiveStartKey": json.loads(token)} if token else {}),
        )
        last = answer.get("LastEvaluatedKey")
        return tuple(i[NODE]["S"] for i in answer["Items"]), json.dumps(last) if last else ""
