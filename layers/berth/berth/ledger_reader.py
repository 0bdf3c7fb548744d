"""Reading the lease ledger: for ``berth who`` and ``berth where``, and for the names in flow logs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from berth.contract import BODY, NODE, REPORT_KIND, ContractError, decode_report
from berth.history import Heartbeat, Held, histories, undecided
from berth.ledger_items import EXPIRES, Closing, Fact, closing_key, read_closing, read_fact
from berth.settings import Settings
from berth.table import Table, item_key, told

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = ["LedgerReader"]


class LedgerReader:
    """The ledger's table, and of the nodes' table when each node was last heard of."""

    def __init__(self, client: DynamoDBClient, settings: Settings) -> None:
        self._client, self._settings = client, settings

    def pages(
        self, index: str | None, key: str, value: str, sort: str | None = None, limit: int | None = None
    ) -> Iterator[list[Fact]]:
        """The leases of a key, the latest first, up to ``sort`` if given: one Query a page, which is 1 MB, or ``limit``
        items. A lease has an item for its begin and one for its end; a page may end between them."""
        request: dict[str, Any] = {
            "TableName": self._settings.ledger_table,
            "KeyConditionExpression": "#key = :key" + (" AND lease < :sort" if sort else ""),
            "ExpressionAttributeNames": {"#key": key},
            "ExpressionAttributeValues": {":key": {"S": value}} | ({":sort": {"S": sort}} if sort else {}),
            "ScanIndexForward": False,
        }
        if index:
            request["IndexName"] = index
        if limit:
            request["Limit"] = limit
        while True:
            answer: Any = self._client.query(**request)
            # DynamoDB deletes what has expired within days, and not in the order in which it has
            yield [read_fact(i) for i in answer["Items"] if told(i, EXPIRES) > time.time()]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def leases(self, facts: Sequence[Fact]) -> list[Held]:
        """What these facts say. Leases without an end take a BatchGetItem of each table, for how far they go."""
        asked = undecided(facts)
        if not asked:
            return histories(facts, {}, {})
        return histories(facts, self._closings(asked), self._beats({node for node, _ in asked}))

    def _closings(self, asked: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Closing]:
        keys = [closing_key(node, epoch) for node, epoch in sorted(asked)]
        items = Table(self._client, self._settings.ledger_table).get(keys, consistent=False)
        return {(c.instance_id, c.epoch): c for c in map(read_closing, items)}

    def _beats(self, nodes: Iterable[str]) -> dict[str, Heartbeat]:
        keys = [item_key(self._settings.arn(node), REPORT_KIND) for node in sorted(nodes)]
        beats = {}
        for item in Table(self._client, self._settings.table).get(keys, consistent=False):
            try:
                report = decode_report(item[BODY]["S"])
            except ContractError:
                continue  # of a newer version: then nothing is known of the present
            beats[item[NODE]["S"].rpartition("/")[2]] = Heartbeat(report.epoch, report.leases_until)
        return beats
