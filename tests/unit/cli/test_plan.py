"""``berth plan``: offline with numbers, or by describing the account."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from berth.cli import plan
from berth.cli.main import main
from moto import mock_aws

OFFLINE = ("plan", "--instance-type", "m6i.large", "--interfaces", "3", "--addresses-per-interface", "10")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_offline_nothing_is_asked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "session", None)
    code, found = said(capsys, *OFFLINE, "--nodes", "200", "--subnet", "10.0.0.0/17")
    assert (code, found["fits"], found["all"]["subnet_addresses"]) == (0, True, 22_600)
    assert found["most_pods"] == {"prefixes": 432, "addresses": 27}
    assert found["seconds"] == 20.0
    code, found = said(capsys, *OFFLINE, "--nodes", "200", "--subnet", "10.0.0.0/17=900")
    assert (code, found["fits"], found["nodes_packed"]) == (3, False, 7)


def test_the_arithmetic_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OFFLINE, "--nodes", "200", "--subnet", "10.0.0.0/17"]) == 0
    text = capsys.readouterr().out
    assert "a full node: 110 pods = 7 prefixes, on 1 interfaces of 9" in text
    assert "addresses: 7 × 16 + 1 = 113 a node, × 200 = 22,600" in text
    assert "network address usage: 7 + 1 + 0 further interfaces = 8 a node, × 200 = 1,600" in text
    assert "20 s: AssignPrivateIpAddresses, (200 − 100) / 5" in text
    assert text.endswith("It fits.\n")


def test_the_account_is_described(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that others use are no whole ones, however many addresses are free."""
    with mock_aws():
        session = boto3.Session("test", "test", region_name="eu-west-1")
        monkeypatch.setattr(plan, "session", lambda _: session)
        ec2 = session.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        for last in (40, 60, 100):
            ec2.create_network_interface(SubnetId=subnet, PrivateIpAddress=f"10.0.1.{last}")
        code, found = said(capsys, "plan", "--instance-type", "m5.large", "--nodes", "1", "--subnet", subnet)
    assert (code, found["most_pods"]["addresses"]) == (0, 27)
    ((one,), free) = found["subnets"], 256 - 5 - 3
    assert (one["name"], one["free"], one["prefixes"]) == (subnet, free, 11)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--subnet", "10.0.0.0/8"), "a /16 to /28"),
        (("--subnet", "10.0.0.0/24=999"), "251 addresses"),
        (("--subnet", "here"), "expected an id, a CIDR"),
        (("--subnet", "10.0.0.0/24", "--buckets", "Attach=1"), "--buckets"),
    ],
)
def test_wrong_usage_says_what_to_write(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], problem: str
) -> None:
    assert main([*OFFLINE, "--nodes", "1", *arguments]) == 2
    assert problem in capsys.readouterr().err


def test_limits_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ("plan", "--instance-type", "x", "--interfaces", "3", "--nodes", "1", "--subnet", "10.0.0.0/24")
    assert main(wrong) == 2
    assert "go together" in capsys.readouterr().err
