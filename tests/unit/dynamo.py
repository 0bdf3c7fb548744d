"""DynamoDB in memory, with tables as the template makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from threading import Lock
from typing import Any

import boto3
from moto import mock_aws

from tests.unit.control.stack_template import load_template

__all__ = ["make_ledger", "make_table", "new_tables", "one_at_a_time"]


def make_table(client: Any, name: str) -> None:
    """A table of nodes, or a budget's: both have the same keys."""
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("node", "kind")],
        KeySchema=[{"AttributeName": "node", "KeyType": "HASH"}, {"AttributeName": "kind", "KeyType": "RANGE"}],
    )


def make_ledger(client: Any, name: str) -> None:
    """The lease ledger, with the keys and indexes that the template gives it."""
    properties = load_template()["Resources"]["LedgerTable"]["Properties"]
    names = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    client.create_table(TableName=name, **{n: properties[n] for n in names})


@contextmanager
def new_tables() -> Iterator[Callable[[], tuple[Any, str]]]:
    """Gives a client and the name of a new, empty table each time it is called."""
    with mock_aws():
        client = boto3.client(
            "dynamodb", region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        one_at_a_time(client)
        numbers = count()

        def new() -> tuple[Any, str]:
            name = f"nodes-{next(numbers)}"
            make_table(client, name)
            return client, name

        yield new


def one_at_a_time(client: Any) -> None:
    """In DynamoDB each write is atomic, in moto it is not: here calls of several threads take turns."""
    turn, call = Lock(), client._make_api_call

    def in_turn(*arguments: Any) -> Any:
        with turn:
            return call(*arguments)

    client._make_api_call = in_turn
