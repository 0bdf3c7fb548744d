"""``berth standby``: pools as the parameter and the table have them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
from berth.cli import standby
from berth.cli.command import DIFFERENT, OK
from berth.contract import Policy
from berth.model import InterfaceView
from berth.settings import Settings
from berth.standby_pools import parse_pools
from berth.standby_stock import DynamoStock
from moto import mock_aws

from tests.unit.dynamo import make_table

SUBNET, GROUP = "subnet-0123456789abcdef0", "sg-0123456789abcdef0"
ENTRY = f"{SUBNET}/{GROUP}/prefixes=3/count=2"
SETTINGS = Settings(("demo",), "nodes", "", "", "berth", "arn:aws:ec2:eu-west-1:123456789012:instance/", Policy())


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with mock_aws():
        session = boto3.Session("test", "test", region_name="eu-west-1")
        make_table(session.client("dynamodb"), "nodes")
        monkeypatch.setattr(standby, "session", lambda _: session)
        yield session


def shown(
    account: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *entries: str,
    as_json: bool = True,
) -> tuple[int, str, str]:
    monkeypatch.setattr(standby, "stack_settings", lambda *_: replace(SETTINGS, standby_pools=entries))
    code = standby.run(argparse.Namespace(stack=None, json=as_json, region=None, profile=None))
    out = capsys.readouterr()
    return code, out.out, out.err


def stocked(account: Any, count: int) -> DynamoStock:
    ((pool,), _), stock = parse_pools([ENTRY], ["demo"]), DynamoStock(account.client("dynamodb"), "nodes")
    stock.register([pool.key])
    for n in range(count):
        prefixes = tuple(f"10.0.{n}.{16 * p}/28" for p in range(3))
        stock.add(
            InterfaceView(f"eni-{n}", "06:00:00:00:00:01", SUBNET, "vpc-1", "a", "10.0.1.1", (), prefixes,
                          groups=(GROUP,), cluster="demo", standby=pool.key),
            1.0,
        )  # fmt: skip
    return stock


def test_what_each_pool_holds_and_the_addresses_that_lie_idle(
    account: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stocked(account, 2)
    code, out, _ = shown(account, monkeypatch, capsys, ENTRY)
    (pool,) = json.loads(out)["pools"]
    assert code == OK
    assert (pool["ready"], pool["count"], pool["claimed"], pool["idle_addresses"]) == (2, 2, 0, 2 * 49)
    _, text, _ = shown(account, monkeypatch, capsys, ENTRY, as_json=False)
    assert "2/2" in text
    assert SUBNET in text


def test_a_pool_that_was_removed_is_shown_until_nothing_is_left(
    account: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stocked(account, 1)
    _, text, _ = shown(account, monkeypatch, capsys, as_json=False)
    assert "(removed)" in text
    assert "1/0" in text


def test_without_any_pool_it_says_so(
    account: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no standby pool" in shown(account, monkeypatch, capsys, as_json=False)[1]


def test_a_bad_entry_is_named_and_is_the_exit_code(
    account: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = shown(account, monkeypatch, capsys, "rubbish", as_json=False)
    assert code == DIFFERENT
    assert "rubbish" in err
