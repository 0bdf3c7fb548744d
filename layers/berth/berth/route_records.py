"""The table as the follower of routes reads it: which destinations each node's record lists, and for which subnets."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from berth.contract import BODY, KIND, NODE, RECORD_KIND, ContractError, decode_record
from berth.records import pod_subnets
from berth.store import EXPIRES

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = ["DynamoRouteRecords", "Listed"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listed:
    """What a node's record says of routes: ``subnets`` of its pods, and where they keep their addresses."""

    instance_id: str
    subnets: tuple[str, ...]
    no_snat_cidrs: tuple[str, ...]


class DynamoRouteRecords:
    """The table through boto3. Reads all of it, page by page."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client, self._table = client, table

    def page(self, token: str) -> tuple[tuple[Listed, ...], str]:
        """One page of records that list interfaces, and the next page's token. Those of dead nodes are left out."""
        answer = self._client.scan(
            TableName=self._table,
            FilterExpression=f"#kind = :record AND attribute_not_exists({EXPIRES})",
            ProjectionExpression="#node, #body",
            ExpressionAttributeNames={"#node": NODE, "#kind": KIND, "#body": BODY},
            ExpressionAttributeValues={":record": {"S": RECORD_KIND}},
            **({"ExclusiveStartKey": json.loads(token)} if token else {}),
        )
        last = answer.get("LastEvaluatedKey")
        found = (_listed(item) for item in answer["Items"] if BODY in item)
        return tuple(f for f in found if f is not None and f.subnets), json.dumps(last) if last else ""


def _listed(item: Any) -> Listed | None:
    """None for a record that cannot be read: the sweep tells of those."""
    try:
        record = decode_record(item[BODY]["S"])
    except ContractError:
        logger.warning("a record cannot be read", extra={"node": item[NODE]["S"]})
        return None
    instance_id = item[NODE]["S"].rpartition("/")[2]
    return Listed(instance_id, pod_subnets(record.interfaces), record.no_snat_cidrs)
