"""The whole path: an event on a bus, a rule, a queue, a function, a row."""

from __future__ import annotations

import json

from .conftest import Stack


def test_an_event_becomes_a_row(stack: Stack) -> None:
    entry = {
        "Source": "shop",
        "DetailType": "Order Placed",
        "EventBusName": "shop",
        "Detail": json.dumps({"order": "a1"}),
    }
    answer = stack.client("events").put_events(Entries=[entry])
    assert answer["FailedEntryCount"] == 0

    row = stack.row("a1")

    event = json.loads(row["event"])
    assert event["id"] == answer["Entries"][0]["EventId"]
    assert event["account"] == "123456789012"
    assert event["time"].endswith("Z")
    assert row["layer"].endswith("/python/sharedlib/__init__.py")
    assert "layers/shared" not in row["layer"]
