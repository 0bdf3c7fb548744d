"""Sets of ports, against Python's own sets."""

from __future__ import annotations

from itertools import pairwise

from berth.flat.numbers import ALL_PORTS, ONE, Ports, both, minus, shown, within
from hypothesis import given
from hypothesis import strategies as st

ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted).map(tuple), max_size=5)


def spread(ports: Ports) -> set[int]:
    return {n for a, b in ports for n in range(a, b + 1)}


def disjoint(parts: list[tuple[int, int]]) -> Ports:
    made: Ports = ()
    for part in parts:
        made = tuple(sorted((*made, *minus((part,), made))))
    return made


@given(ranges, ranges)
def test_sets_of_ports_behave_as_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    a, b = disjoint(one), disjoint(other)
    assert spread(both(a, b)) == spread(a) & spread(b)
    assert spread(minus(a, b)) == spread(a) - spread(b)
    assert minus(a, a) == ()
    assert both(a, ALL_PORTS) == minus(a, ((0, 0),))


@given(ranges)
def test_ranges_stay_sorted_and_apart(parts: list[tuple[int, int]]) -> None:
    made = disjoint(parts)
    assert all(b < c for (_, b), (c, _) in pairwise(made))


def test_ports_are_shown_as_people_write_them() -> None:
    assert shown(((22, 22), (80, 443))) == "22, 80-443"
    assert (shown(ALL_PORTS), shown(ONE), shown(())) == ("all ports", "", "no port")


def test_both_ends_of_a_cidr_are_in_it() -> None:
    first = int.from_bytes(bytes([10, 0, 1, 0]))
    assert [within(n, "10.0.1.0/24") for n in (first - 1, first, first + 255, first + 256)] == [
        False,
        True,
        True,
        False,
    ]
