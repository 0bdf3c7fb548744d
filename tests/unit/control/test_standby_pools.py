"""Standby pools as the parameter names them: every bad entry is named, and none stops another."""

from __future__ import annotations

import pytest
from berth.standby_pools import StandbyPool, parse_pools
from hypothesis import given
from hypothesis import strategies as st

SUBNET, GROUP, OTHER = "subnet-0123456789abcdef0", "sg-0123456789abcdef0", "sg-0fedcba9876543210"


def problem(entry: str, clusters: tuple[str, ...] = ("demo",)) -> str:
    pools, problems = parse_pools([entry], clusters)
    (found,) = problems
    assert pools == ()
    assert (found.key, found.value) == ("StandbyPools", entry)
    return found.message


def test_an_entry_names_everything_that_a_pool_is() -> None:
    pools, problems = parse_pools([f"{SUBNET}/{OTHER}+{GROUP}/prefixes=3/count=200/max=300"], ["demo"])
    assert problems == ()
    assert pools == (StandbyPool("demo", SUBNET, (GROUP, OTHER), 3, 200, 300),)


def test_the_most_is_the_count_unless_given() -> None:
    (pool,), _ = parse_pools([f"{SUBNET}/{GROUP}/prefixes=1/count=5"], ["demo"])
    assert pool.most == 5


def test_no_entry_is_no_pool_and_no_problem() -> None:
    assert parse_pools(["", " "], ["demo"]) == ((), ())


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ("subnet-1", "subnet-1"),
        (f"{SUBNET}", "security group"),
        (f"{SUBNET}/{GROUP}+x/prefixes=1/count=1", "security group"),
        (f"{SUBNET}/{GROUP}/count=1", "prefixes: expected a whole number from 1 to 49, it is missing"),
        (f"{SUBNET}/{GROUP}/prefixes=1", "count"),
        (f"{SUBNET}/{GROUP}/prefixes=0/count=1", "prefixes"),
        (f"{SUBNET}/{GROUP}/prefixes=50/count=1", "prefixes"),
        (f"{SUBNET}/{GROUP}/prefixes=1/count=-1", "count"),
        (f"{SUBNET}/{GROUP}/prefixes=1/count=٣", "count"),
        (f"{SUBNET}/{GROUP}/prefixes=1/count=2/max=1", "max=1 is below count=2"),
        (f"{SUBNET}/{GROUP}/prefixes=1/prefixes=1/count=2", "twice"),
        (f"{SUBNET}/{GROUP}/prefixes=1/count=2/size=3", "'size=3'"),
        (f"{SUBNET}/{GROUP}/prefixes=1/count=2/cluster=other", "cluster"),
    ],
)
def test_a_bad_entry_is_told_with_what_is_wrong(entry: str, word: str) -> None:
    assert word in problem(entry)


def test_with_several_clusters_an_entry_must_name_one() -> None:
    entry = f"{SUBNET}/{GROUP}/prefixes=1/count=2"
    assert "blue, green" in problem(entry, ("blue", "green"))
    (pool,), _ = parse_pools([f"{entry}/cluster=green"], ["blue", "green"])
    assert pool.cluster == "green"


def test_a_bad_entry_does_not_stop_the_others_and_a_repeated_one_is_told() -> None:
    good = f"{SUBNET}/{GROUP}/prefixes=1/count=2"
    pools, problems = parse_pools([good, "rubbish", f"{SUBNET}/{GROUP}/prefixes=1/count=9"], ["demo"])
    assert [p.count for p in pools] == [2]
    assert ["rubbish" in p.value for p in problems] == [True, False]
    assert "another entry" in problems[1].message


def test_a_changed_count_keeps_the_pool_and_changed_prefixes_do_not() -> None:
    one, same, other = (StandbyPool("demo", SUBNET, (GROUP,), p, c, c).key for p, c in ((1, 5), (1, 9), (2, 5)))
    assert one == same != other


@given(st.text(alphabet="subnet-g0123456789abcdef/+=prxcoum ,é", max_size=60))
def test_no_text_stops_the_parser(entry: str) -> None:
    pools, problems = parse_pools([entry], ["demo"])
    assert len(pools) + len(problems) == (1 if entry.strip() else 0)
