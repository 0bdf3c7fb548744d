"""Whose an address was within a record's window."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from berth.flows.window import SLACK_SECONDS, PodState, Window, attribute, concerning, constant, settled
from berth.history import Held
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.flows.flow_world import START, held

WINDOW = Window.of(START, START + 30)
LONG_AGO = START - 5000.0


def state(*leases: Held, window: Window = WINDOW, now: float = 0.0) -> tuple[str, str]:
    found = attribute(leases, window, now)
    return found.state.value, found.lease.name if found.lease else ""


def test_a_pod_that_had_it_all_the_time_is_named() -> None:
    assert state(held("web", LONG_AGO, START + 500, START + 500)) == ("held", "web")


def test_a_pod_that_began_or_ended_within_the_window_is_the_only_one_it_can_be() -> None:
    assert state(held("web", START + 10, START + 500, START + 500)) == ("held", "web")
    assert state(held("web", LONG_AGO, START + 10, START + 10)) == ("held", "web")


def test_a_packet_may_have_been_on_the_wire_a_minute_before_the_record_starts() -> None:
    assert state(held("web", LONG_AGO, START - 59, START - 59)) == ("held", "web")
    assert state(held("web", LONG_AGO, START - SLACK_SECONDS, START - SLACK_SECONDS)) == ("none", "")


def test_two_pods_within_a_window_are_ambiguous_and_both_are_told() -> None:
    leases = (held("web", LONG_AGO, START - 20, START - 20), held("job", START + 5, START + 500, START + 500))
    found = attribute(leases, WINDOW)
    assert (found.state, found.lease) == (PodState.AMBIGUOUS, None)
    assert {lease.name for lease in found.candidates} == {"web", "job"}


def test_two_leases_of_one_pod_are_one_pod() -> None:
    first = held("web", LONG_AGO, START, START)
    assert state(first, replace(first, began=START + 3.0, held_until=START + 90.0, over_by=START + 90.0)) == (
        "held",
        "web",
    )


def test_a_lease_whose_end_nobody_told_is_unknown_beyond_what_is_known() -> None:
    vanished = held("web", LONG_AGO, START + 10)
    found = attribute([vanished], WINDOW)
    assert (found.state, found.candidates) == (PodState.UNKNOWN, (vanished,))
    assert vanished.why in found.reason
    assert state(vanished, window=Window.of(START - 600, START - 100)) == ("held", "web")
    assert state(held("web", LONG_AGO, LONG_AGO + 1, START - 500)) == ("none", ""), "over by then at the latest"
    assert state(held("web", LONG_AGO, START - 1, START + 500)) == ("unknown", "")


def test_a_later_lease_in_the_subnet_ends_one_whose_end_nobody_told() -> None:
    vanished = held("web", LONG_AGO, LONG_AGO + 60)
    assert state(vanished, held("job", START - 1000, START + 500, START + 500)) == ("held", "job")
    elsewhere = held("job", START - 1000, START + 500, START + 500, subnet_id="subnet-b")
    assert state(vanished, elsewhere) == ("ambiguous", "")


def test_what_is_known_of_an_earlier_lease_counts_against_a_later_one() -> None:
    lies = held("web", LONG_AGO, START + 500)
    assert state(lies, held("job", START - 1000, START + 500, START + 500)) == ("ambiguous", "")


def test_a_node_that_was_heard_of_within_two_minutes_goes_on() -> None:
    living = held("web", LONG_AGO, START + 10, live=True)
    assert state(living, now=START + 60.0) == ("held", "web")
    assert state(living, now=START + 1000.0) == ("unknown", "")


def test_nothing_recorded_is_none() -> None:
    assert state() == ("none", "")
    assert state(held("web", START + 31.5, START + 90, START + 90)) == ("none", "")


TIMES = st.integers(START - 300, START + 300)


@st.composite
def _leases(draw: st.DrawFn) -> list[Held]:
    """One subnet's leases of an address, one after the other, of which some ends were never told."""
    cuts = sorted(draw(st.lists(TIMES, min_size=2, max_size=10, unique=True)))
    found = []
    for number, (begin, end) in enumerate(zip(cuts[::2], cuts[1::2], strict=False)):
        told = draw(st.booleans())
        known = end if told else draw(st.integers(begin, end))
        found.append(held(f"pod-{number}", float(begin), float(known), float(end) if told else 0.0))
    return found


@given(_leases(), TIMES, st.integers(0, 120))
def test_the_pod_that_is_named_had_the_address_and_no_other_did(leases: list[Held], start: int, length: int) -> None:
    window = Window.of(start, start + length)
    found = attribute(leases, window)
    held_within = {v.name for v in leases if v.began <= window.end and v.held_until > window.begin}
    if found.state is PodState.HELD:
        assert found.lease is not None
        assert held_within <= {found.lease.name}
    if len(held_within) > 1:
        assert found.state is PodState.AMBIGUOUS
    if found.state is PodState.NONE:
        assert not held_within


@given(_leases(), TIMES, st.integers(0, 120), st.randoms())
def test_the_order_of_leases_and_those_of_other_times_do_not_matter(
    leases: list[Held], start: int, length: int, random: Random
) -> None:
    window = Window.of(start, start + length)
    shuffled = list(leases)
    random.shuffle(shuffled)
    expected = attribute(leases, window)
    for some in (shuffled, concerning(leases, window), concerning(leases, window.with_(Window(0.0, window.end)))):
        found = attribute(some, window)
        assert (found.state, found.lease) == (expected.state, expected.lease)
        assert set(found.candidates) == set(expected.candidates)


@given(_leases(), TIMES, st.integers(0, 120), st.integers(0, 200), st.integers(0, 200))
def test_what_is_constant_is_so_for_every_record_within(
    leases: list[Held], start: int, length: int, before: int, after: int
) -> None:
    within, whole = Window.of(start, start + length), Window.of(start - before, start + length + after)
    found = attribute(leases, whole)
    if constant(found, whole):
        assert attribute(leases, within) == found


@given(_leases(), TIMES, st.integers(0, 120))
def test_what_is_older_than_a_settled_reading_changes_nothing(leases: list[Held], start: int, length: int) -> None:
    window = Window.of(start, start + length)
    newest = sorted(leases, key=lambda v: -v.began)
    for count in range(1, len(newest) + 1):
        read = newest[:count]
        if settled(((v.subnet_id, v.began) for v in read), ["subnet-a"], window.begin):
            kept = attribute(read, window)
            assert kept.state == attribute(leases, window).state


@pytest.mark.parametrize(
    ("begun", "subnets", "enough"),
    [
        ([], [], False),
        ([("a", 5.0)], ["a"], True),
        ([("a", 15.0)], ["a"], False),
        ([("a", 5.0)], ["a", "b"], False),
        ([("a", 5.0), ("b", 10.0)], ["a", "b"], True),
    ],
)
def test_reading_ends_when_each_subnet_has_a_lease_begun_before(
    begun: list[tuple[str, float]], subnets: list[str], enough: bool
) -> None:
    assert settled(begun, subnets, 10.0) is enough
