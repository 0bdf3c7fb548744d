"""``berth who`` and ``berth where``: answers from one Query, unknown with its reason, times with their zone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import boto3
import pytest
from berth.cli import ledger as reading
from berth.cli.ledger import iso, parse_time
from berth.cli.main import main
from berth.contract import Order, PodLease, Policy, Report
from berth.ledger import DynamoLedger
from berth.ledger_items import Closing, Fact
from berth.settings import Settings
from berth.store import DynamoStore
from moto import mock_aws

from tests.unit.dynamo import make_ledger, make_table

NODE, PREFIX = "i-0123456789abcdef0", "arn:aws:ec2:eu-west-1:123456789012:instance/"
UID = "0a1b2c3d-0000-4000-8000-0123456789ab"
SETTINGS = Settings(("demo",), "nodes", "", "", "berth", PREFIX, Policy(), ledger_table="ledger", ledger_days=90)
NOW = round(time.time(), 3)


def fact(began: float, ended: float = 0.0, name: str = "web-1", **changes: Any) -> Fact:
    row = PodLease(0, "10.0.3.7", began, ended, namespace="default", name=name, uid=UID, epoch="boot-1")
    return replace(Fact(row, NODE, "eni-1", "subnet-a", began + 1, began + 1), **changes)


@dataclass
class Account:
    session: Any
    calls: list[str] = field(default_factory=list)

    def keep(self, *facts: Fact, closings: tuple[Closing, ...] = ()) -> None:
        DynamoLedger(self.session.client("dynamodb"), "ledger", 90).write(facts, closings)

    def beats(self, until: float, epoch: str = "boot-1") -> None:
        store = DynamoStore(self.session.client("dynamodb"), "nodes")
        store.accept_report(PREFIX + NODE, Report(Order(1, int(until)), 0, 0, epoch=epoch, leases_until=until))


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    with mock_aws():
        session = boto3.Session("test", "test", region_name="eu-west-1")
        client = session.client("dynamodb")
        make_table(client, "nodes")
        make_ledger(client, "ledger")
        made = Account(session)
        session.events.register("before-call.dynamodb", lambda model, **_: made.calls.append(model.name))
        monkeypatch.setattr(reading, "session", lambda _: session)
        monkeypatch.setattr(reading, "stack_settings", lambda *_: SETTINGS)
        yield made


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(list(arguments))
    return code, capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out = said(capsys, *arguments, "--json")
    return code, json.loads(out)


def test_who_had_an_address_is_one_query(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(50):
        account.keep(fact(NOW - 5000 + 60 * n), fact(NOW - 5000 + 60 * n, NOW - 4950 + 60 * n, f"web-{n}"))
    account.calls.clear()
    code, found = as_json(capsys, "who", "10.0.3.7", "--at", iso(NOW - 5000 + 60 * 7 + 5))
    assert account.calls == ["Query"]
    assert (code, found["state"]) == (0, "held")
    (lease,) = found["leases"]
    assert (lease["name"], lease["node"], lease["interface"]) == ("web-7", NODE, "eni-1")
    assert (lease["from"], lease["to"]) == (iso(NOW - 5000 + 420), iso(NOW - 4950 + 420))


def test_a_long_lease_behind_a_page_of_later_ones_is_not_overlooked(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page of a Query is 1 MB."""
    padding = "x" * 500
    other = "i-0fedcba9876543210"
    account.keep(
        fact(NOW - 9000, name="long", instance_id=other, subnet_id="subnet-b"),
        *(fact(NOW - 5000 + n, NOW - 4999.5 + n, f"web-{n}", interface_id=padding * 2) for n in range(1000)),
        fact(NOW - 3000, NOW - 2000, "late"),
    )
    account.calls.clear()
    code, found = as_json(capsys, "who", "10.0.3.7", "--at", iso(NOW - 2500))
    assert account.calls.count("Query") > 1
    assert (code, found["state"]) == (3, "unknown")
    assert [v["name"] for v in found["leases"]] == ["late", "long"]


def test_a_running_pod_is_told_as_of_its_last_report(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    now = round(time.time(), 3)  # of this test: the command goes by its own clock
    account.keep(fact(now - 500))
    account.beats(now - 15)
    code, text = said(capsys, "who", "10.0.3.7")
    assert (code, "held by default/web-1" in text) == (0, True)
    assert f"goes on, as of {iso(now - 15)}" in text
    code, found = as_json(capsys, "who", "10.0.3.7", "--at", iso(now - 5))
    assert (code, found["state"]) == (3, "unknown"), "who asks for a time gets no guess"
    assert found["reason"] == "this lease's end was never told: its node has told nothing later"


def test_an_end_that_was_never_told_is_unknown_and_says_why(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    closing = Closing(NODE, "boot-1", NOW - 300, NOW - 200, "the node was terminated")
    account.keep(fact(NOW - 500), closings=(closing,))
    code, text = said(capsys, "who", "10.0.3.7", "--at", iso(NOW - 250))
    assert (code, "unknown: this lease's end was never told: the node was terminated" in text) == (3, True)
    assert f"held until {iso(NOW - 300)}, then unknown (between that and {iso(NOW - 200)}" in text
    assert as_json(capsys, "who", "10.0.3.7", "--at", iso(NOW - 100))[1]["state"] == "none"


def test_an_address_that_nobody_had_tells_who_had_it_before(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    account.keep(fact(NOW - 500, NOW - 400))
    code, found = as_json(capsys, "who", "10.0.3.7")
    assert (code, found["state"], len(found["leases"])) == (3, "none", 1)
    code, text = said(capsys, "who", "10.9.9.9")
    assert (code, text.splitlines()[1:]) == (3, [])


def test_one_address_in_two_networks_is_told_apart_by_its_subnet(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    account.keep(fact(NOW - 500, NOW - 400), fact(NOW - 501, NOW - 399, "other", subnet_id="subnet-b"))
    at = ("--at", iso(NOW - 450))
    assert {v["name"] for v in as_json(capsys, "who", "10.0.3.7", *at)[1]["leases"]} == {"web-1", "other"}
    assert [v["name"] for v in as_json(capsys, "who", "10.0.3.7", *at, "--subnet", "subnet-b")[1]["leases"]] == [
        "other"
    ]


def test_what_has_expired_is_not_believed(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    """DynamoDB deletes it within days, an end perhaps before its begin."""
    ledger = DynamoLedger(account.session.client("dynamodb"), "ledger", 90, clock=lambda: NOW - 91 * 86_400)
    ledger.write([fact(NOW - 500)])
    assert as_json(capsys, "who", "10.0.3.7", "--at", iso(NOW - 499.5))[1]["state"] == "none"


@pytest.mark.parametrize("pod", ["default/web-1", UID, UID.upper()])
def test_where_a_pod_was_is_one_query(account: Account, capsys: pytest.CaptureFixture[str], pod: str) -> None:
    account.keep(fact(NOW - 500, NOW - 400), fact(NOW - 300, NOW - 200))
    account.calls.clear()
    code, found = as_json(capsys, "where", pod)
    assert account.calls == ["Query"]
    assert (code, [v["from"] for v in found["leases"]]) == (0, [iso(NOW - 300), iso(NOW - 500)])
    code, found = as_json(capsys, "where", pod, "--at", iso(NOW - 450))
    assert [v["from"] for v in found["leases"]] == [iso(NOW - 500)]
    assert len(as_json(capsys, "where", pod, "--limit", "1")[1]["leases"]) == 1


def test_a_pod_that_nobody_knows_is_no_error_and_no_success(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "where", "default/nobody") == (3, "no lease of default/nobody is recorded\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["who", "10.0.3"], "no IP address"),
        (["who", "10.0.3.7", "--at", "2026-11-22T10:00"], "no time zone"),
        (["who", "10.0.3.7", "--at", "yesterday"], "is no time"),
        (["where", "web-1"], "default/web-1"),
        (["where", "default/web-1", "--limit", "0"], "1 or more"),
    ],
)
def test_wrong_usage_says_what_to_write(
    account: Account, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    assert main(arguments) == 2
    assert problem in capsys.readouterr().err


def test_a_stack_without_a_ledger_says_so(
    account: Account, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "stack_settings", lambda *_: replace(SETTINGS, ledger_table=""))
    assert main(["who", "10.0.3.7"]) == 1
    assert "LedgerRetentionDays is 0" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["2026-11-22T10:00Z", "2026-11-22T10:00:00+00:00", "2026-11-22T11:00:00.000+01:00"])
def test_times_have_a_zone(text: str) -> None:
    assert iso(parse_time(text)) == "2026-11-22T10:00:00Z"
