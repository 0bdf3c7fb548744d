"""Reading the lease ledger for ``berth who`` and ``berth where``, and showing leases and times."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from berth.cli.account import aws_errors, session
from berth.cli.command import CliError, UsageError, table
from berth.cli.stack import DEFAULT_STACK, stack_settings
from berth.contract import BODY, NODE, REPORT_KIND, ContractError, decode_report
from berth.history import Heartbeat, Held, histories, undecided
from berth.ledger_items import EXPIRES, Closing, Fact, closing_key, read_closing, read_fact
from berth.settings import Settings
from berth.table import Table, item_key, told

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = ["LedgerReader", "as_json", "iso", "leases_table", "parse_time", "reader"]


class LedgerReader:
    """The ledger's table, and of the nodes' table when each node was last heard of."""

    def __init__(self, client: DynamoDBClient, settings: Settings) -> None:
        self._client, self._settings = client, settings

    def pages(self, index: str | None, key: str, value: str, sort: str | None = None) -> Iterator[list[Fact]]:
        """The leases of a key, the latest first, up to ``sort`` if given: one Query a page, and a page is 1 MB."""
        request: dict[str, Any] = {
            "TableName": self._settings.ledger_table,
            "KeyConditionExpression": "#key = :key" + (" AND lease < :sort" if sort else ""),
            "ExpressionAttributeNames": {"#key": key},
            "ExpressionAttributeValues": {":key": {"S": value}} | ({":sort": {"S": sort}} if sort else {}),
            "ScanIndexForward": False,
        }
        if index:
            request["IndexName"] = index
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


def reader(arguments: argparse.Namespace) -> LedgerReader:
    """For the stack that the arguments name. Raises :class:`CliError`."""
    account = session(arguments)
    name = arguments.stack or DEFAULT_STACK
    settings = stack_settings(account, name)
    if not settings.ledger_table:
        raise CliError(f"the stack {name} keeps no ledger: its parameter LedgerRetentionDays is 0")
    with aws_errors("read the ledger"):
        return LedgerReader(account.client("dynamodb"), settings)


# ------------------------------------------------------------------------------------------------------ times


def parse_time(text: str) -> float:
    """ISO 8601 with a zone, as Unix seconds. Raises :class:`UsageError`: without a zone it could be any of 26 hours."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time; write it as in 2026-11-22T10:00:00Z") from None
    if when.tzinfo is None:
        raise UsageError(f"{text!r} names no time zone; add Z for UTC, or an offset such as +01:00")
    return when.timestamp()


def iso(when: float) -> str:
    """UTC, to the millisecond where there is more than a second."""
    text = datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
    return text.replace(".000", "").replace("+00:00", "Z")


# ------------------------------------------------------------------------------------------------------ showing


def leases_table(leases: Iterable[Held]) -> str:
    """A line for each lease."""
    header = ("ADDRESS", "POD", "UID", "NODE", "INTERFACE", "SUBNET", "FROM", "TO")
    return table(header, (_row(lease) for lease in leases))


def _row(lease: Held) -> tuple[str, ...]:
    where = (lease.instance_id, lease.interface_id or "-", lease.subnet_id or "-")
    return lease.address, lease.pod, lease.uid or "-", *where, iso(lease.began), _end(lease)


def _end(lease: Held) -> str:
    if lease.live:
        return f"goes on, as of {iso(lease.held_until)}"
    if lease.over_by == lease.held_until:
        return iso(lease.over_by)
    until = f"between that and {iso(lease.over_by)}" if lease.over_by else "nobody knows"
    return f"held until {iso(lease.held_until)}, then unknown ({until}: {lease.why})"


def as_json(lease: Held) -> Mapping[str, Any]:
    """``to`` is null unless the very end is known."""
    exact = bool(lease.over_by) and lease.over_by == lease.held_until
    return {
        "address": lease.address,
        "namespace": lease.namespace,
        "name": lease.name,
        "uid": lease.uid,
        "node": lease.instance_id,
        "interface": lease.interface_id,
        "subnet": lease.subnet_id,
        "from": iso(lease.began),
        "to": iso(lease.over_by) if exact else None,
        "held_until": iso(lease.held_until),
        "over_by": iso(lease.over_by) if lease.over_by else None,
        "goes_on": lease.live,
        "why": lease.why,
        "told": iso(lease.received) if lease.received else None,
    }
