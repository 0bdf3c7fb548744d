"""The scheduled flat-network check: counts, its event, and the token budget."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from berth.bus import Event, network_not_flat
from berth.flat_check import FlatEdges, check_network
from berth.flat_survey import ACTIONS
from jsonschema import validate
from moto import mock_aws

from tests.unit.control.fake_budget import FakeBudget
from tests.unit.control.fakes import settings
from tests.unit.control.stack_template import ROOT, load_template


class Told:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def send(self, events: Any) -> int:
        self.events += events
        return 0


@pytest.fixture
def ec2() -> Any:
    with mock_aws():
        yield boto3.client("ec2", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")


def with_pods(ec2: Any) -> None:
    """A subnet for pods and a group for them, in a VPC without a way to the internet."""
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    tag = [{"Key": "berth:allowed", "Value": "true"}]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="pods", Description="pods")["GroupId"]
    ec2.create_tags(Resources=[subnet, group], Tags=tag)


def test_what_breaks_is_counted_and_told_with_rule_and_remedy(ec2: Any) -> None:
    with_pods(ec2)
    bus = Told()
    counts = check_network(FlatEdges(ec2, bus, settings()))
    assert counts["FlatCells"] == 6
    assert counts["FlatCellsFailing"] == 6
    (event,) = bus.events
    validate(
        {"source": "berth", "detail-type": event.detail_type, "detail": dict(event.detail)},
        json.loads((ROOT / "docs/events/network-not-flat.schema.json").read_text()),
    )
    assert {c["code"] for c in event.detail["causes"]} == {"group-ingress", "no-route"}


def test_an_account_without_pods_is_quiet(ec2: Any) -> None:
    bus = Told()
    assert check_network(FlatEdges(ec2, bus, settings()))["FlatCells"] == 0
    assert bus.events == []


def test_a_run_that_the_token_budget_has_nothing_for_is_put_off(ec2: Any) -> None:
    with_pods(ec2)
    budget, bus = FakeBudget(), Told()
    budget.exhaust("DescribeNetworkAcls", 1000.0)
    counts = check_network(FlatEdges(ec2, bus, settings(), budget, clock=lambda: 900.0))
    assert counts["FlatChecksPutOff"] == 1
    assert bus.events == []


def test_an_event_names_at_most_twenty_causes_and_counts_the_rest() -> None:
    causes = [{"code": "x", "breaks": [str(n) for n in range(50)]} for _ in range(30)]
    detail = network_not_flat(9, 8, causes).detail
    assert (len(detail["causes"]), detail["causes-left-out"]) == (20, 10)
    assert len(detail["causes"][0]["breaks"]) == 10


def test_the_role_may_describe_what_the_check_asks_and_change_nothing() -> None:
    (policy,) = load_template()["Resources"]["FlatCheckRole"]["Properties"]["Policies"]
    actions = {a for s in policy["PolicyDocument"]["Statement"] for a in _listed(s["Action"]) if a.startswith("ec2:")}
    assert actions == {f"ec2:{name}" for name in ACTIONS}


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
