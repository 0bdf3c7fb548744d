"""What the ledger and EC2 are asked: each address once, no further back than needed, subnets now and then."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from berth.budget import Slot
from berth.flows.asking import Wanted, ask_ledger
from berth.flows.connect import RememberedSubnets
from berth.flows.window import Window

from tests.unit.flows.flow_world import START, FakeLedger, fact

ADDRESS = "10.0.1.20"
WINDOW = Window.of(START, START + 30)


def asked(ledger: FakeLedger, *subnets: str) -> tuple[list[str], int]:
    """The pods of the leases that are kept, and the Queries that it took."""
    counts = Counter[str]()
    found = ask_ledger(ledger, {ADDRESS: Wanted(WINDOW, frozenset(subnets))}, START + 600.0, counts)
    assert counts["FlowLedgerQueries"] == sum(ledger.asked.values())
    return [lease.name for lease in found.get(ADDRESS, ())], counts["FlowLedgerQueries"]


def test_one_query_is_enough_for_an_address_with_a_long_history() -> None:
    old = [fact(f"pod-{n}", ADDRESS, START - 600.0 * n - 100, START - 600.0 * n + 300) for n in range(1, 500)]
    assert asked(FakeLedger([*old, fact("web", ADDRESS, START - 90.0, START + 90.0)]), "subnet-a") == (["web"], 1)


def test_an_address_that_many_pods_had_within_the_window_takes_more() -> None:
    busy = [fact(f"pod-{n:02}", ADDRESS, START - 60.0 + n, START - 59.5 + n) for n in range(60)]
    names, queries = asked(FakeLedger([*busy, fact("before", ADDRESS, START - 500.0, START - 300.0)]), "subnet-a")
    assert set(names) == {f"pod-{n:02}" for n in range(60)}
    assert queries == 3


def test_a_lease_whose_items_a_page_cuts_in_two_is_read_whole() -> None:
    """23 items of the window, then the first of two of the lease before: its begin is on the next page."""
    within = [fact(f"pod-{n:02}", ADDRESS, START - 50.0 + n, START - 49.5 + n) for n in range(23)]
    cut = [fact("web", ADDRESS, START - 500.0, epoch=epoch) for epoch in ("boot-1", "boot-2")]
    names, queries = asked(FakeLedger([*within, *cut]), "subnet-a")
    assert queries == 2
    assert "web" in names, "it may have gone on until the next one began, which was within the window"


def test_each_subnet_that_the_address_is_in_needs_an_answer() -> None:
    facts = [fact(f"a-{n}", ADDRESS, START - 90.0 * n - 100, START - 90.0 * n - 70) for n in range(100)]
    there = fact("there", ADDRESS, START - 20_000.0, START + 90.0, subnet_id="subnet-other")
    ledger = FakeLedger([*facts, there])
    assert asked(ledger, "subnet-a") == ([], 1)
    ledger.asked.clear()
    names, queries = asked(ledger, "subnet-a", "subnet-other")
    assert names == ["there"]
    assert queries > 3


def test_an_address_of_nobody_takes_one_query() -> None:
    assert asked(FakeLedger(), "subnet-a") == ([], 1)


class Ec2:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def describe_subnets(self, **request: Any) -> dict[str, Any]:
        self.calls.append(request)
        page = len(self.calls)
        shown = {"SubnetId": f"subnet-{page}", "VpcId": "vpc-1", "CidrBlock": f"10.0.{page}.0/24"}
        six = [{"Ipv6CidrBlock": "2001:db8::/64"}]
        more = {} if "NextToken" in request else {"NextToken": "more"}
        return {"Subnets": [{**shown, "Ipv6CidrBlockAssociationSet": six}], **more}


class Tokens:
    def __init__(self, wait: float, reserved: bool) -> None:
        self.wait, self.reserved = wait, reserved

    def reserve(self, action: str, count: int, priority: object, now: float) -> Slot:
        assert (action, count) == ("DescribeSubnets", 1)
        return Slot(now + self.wait, self.reserved)


def remembered(
    ec2: Ec2, wait: float, clock: list[float], slept: list[float], *, reserved: bool = True
) -> RememberedSubnets:
    return RememberedSubnets(ec2, Tokens(wait, reserved), "vpc-1", lambda: clock[0], slept.append)  # type: ignore[arg-type]


def test_subnets_are_read_page_by_page_and_remembered_for_five_minutes() -> None:
    ec2, clock = Ec2(), [1000.0]
    subnets = remembered(ec2, 0.0, clock, [])
    assert [s.id for s in subnets().of("10.0.2.9")] == ["subnet-2"]
    assert {s.id for s in subnets().of("2001:db8::1")} == {"subnet-1", "subnet-2"}
    assert len(ec2.calls) == 2
    assert all(call["Filters"] == [{"Name": "vpc-id", "Values": ["vpc-1"]}] for call in ec2.calls)
    clock[0] += 299.0
    subnets()
    assert len(ec2.calls) == 2
    clock[0] += 2.0
    subnets()
    assert len(ec2.calls) == 4


def test_a_token_of_the_budget_is_waited_for_but_not_for_long() -> None:
    slept: list[float] = []
    remembered(Ec2(), 3.0, [1000.0], slept)()
    assert slept == [3.0, 3.0]
    for wait, reserved in ((60.0, True), (9.0, False)):
        ec2 = Ec2()
        with pytest.raises(TimeoutError, match="DescribeSubnets"):
            remembered(ec2, wait, [1000.0], slept, reserved=reserved)()
        assert ec2.calls == [], "a slot that is not ours is asked for again, not taken"
