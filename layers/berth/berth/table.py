"""A DynamoDB table with the keys ``node`` and ``kind``: reads in batches, and writes whose condition may not hold."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from berth.contract import KIND, NODE

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = ["Table", "item_key", "number", "refused", "told"]

_BATCH: Final = 100
"""Keys in one BatchGetItem (DynamoDB API reference)."""
_PAUSES: Final = 6
_PAUSE_SECONDS: Final = 0.05
"""The first pause; with jitter all of them together last 3 seconds at the most."""


class Table:
    """The table through boto3. ``name`` and ``client`` are for requests that nobody else makes."""

    def __init__(self, client: DynamoDBClient, name: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.client, self.name, self._sleep = client, name, sleep

    def get(self, keys: Sequence[dict[str, Any]], *, consistent: bool = True) -> Iterator[Mapping[str, Any]]:
        """The items with these keys; what is not there is missing.

        Raises TimeoutError if DynamoDB has no capacity for them for some three seconds.
        """
        waiting, pauses = list(keys), 0
        while waiting:
            batch, waiting = waiting[:_BATCH], waiting[_BATCH:]
            request: Any = {self.name: {"Keys": batch, "ConsistentRead": consistent}}
            answer = self.client.batch_get_item(RequestItems=request)
            yield from answer["Responses"].get(self.name, [])
            # what DynamoDB had no capacity for comes back, to be asked for again after a pause (BatchGetItem, API
            # reference: "we strongly recommend that you use an exponential backoff algorithm")
            unread: Any = answer.get("UnprocessedKeys", {})
            left = unread.get(self.name, {}).get("Keys", [])
            if left:
                if pauses == _PAUSES:
                    raise TimeoutError(f"DynamoDB has no capacity to read {len(left) + len(waiting)} items")
                self._sleep(_PAUSE_SECONDS * 2**pauses * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
                pauses += 1
                waiting += left

    def put(self, item: dict[str, Any], **checked: Any) -> bool:
        """PutItem. False: the condition did not hold."""
        return self._holds(self.client.put_item, Item=item, **checked)

    def update(self, key: dict[str, Any], expression: str, values: Mapping[str, Any], **checked: Any) -> bool:
        """UpdateItem. False: the condition did not hold."""
        return self._holds(
            self.client.update_item,
            Key=key,
            UpdateExpression=expression,
            ExpressionAttributeValues=values,
            **checked,
        )

    def delete(self, key: dict[str, Any], **checked: Any) -> bool:
        """DeleteItem. False: the condition did not hold."""
        return self._holds(self.client.delete_item, Key=key, **checked)

    def _holds(self, call: Callable[..., Any], **parameters: Any) -> bool:
        try:
            call(TableName=self.name, **parameters)
        except ClientError as error:
            if refused(error):
                return False
            raise
        return True


def refused(error: ClientError) -> bool:
    """Whether a write was refused because its condition did not hold."""
    return error.response["Error"].get("Code") == "ConditionalCheckFailedException"


def item_key(node: str, kind: str) -> dict[str, Any]:
    return {NODE: {"S": node}, KIND: {"S": kind}}


def number(value: float) -> dict[str, str]:
    return {"N": str(value)}


def told(item: Mapping[str, Any], name: str) -> float:
    """A number of an item, 0 where there is none."""
    return float(item.get(name, {}).get("N", "0"))
