"""How soon the kernel is looked at again: at once after one loss, ever slower against somebody who keeps at it."""

from __future__ import annotations

from berth_node.pace import Pace
from hypothesis import given
from hypothesis import strategies as st


def test_the_first_loss_is_mended_at_once() -> None:
    assert Pace().told("a rule").pause(100.0) == 0.1


def test_looks_are_a_second_apart_however_much_is_told() -> None:
    pace = Pace().looks(100.0)
    assert pace.pause(100.25) == 0.75
    assert pace.pause(102.0) == 0.1


def test_a_fight_is_met_ever_more_slowly_and_told() -> None:
    pace, now, pauses = Pace(), 100.0, []
    for _ in range(12):
        pace = pace.told("a rule")
        pauses.append(pace.pause(now))
        assert bool(pace.fight(now)) == (len(pauses) > 5)
        now += pauses[-1]
        pace = pace.looks(now)
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
    assert pace.fight(now) == "a rule"


def test_a_quiet_half_minute_ends_a_fight() -> None:
    pace, now = Pace(), 100.0
    for _ in range(6):
        pace = pace.told("a rule").looks(now)
    assert pace.fight(now + 29.9)
    assert not pace.fight(now + 30.0)
    assert pace.pause(now + 30.0) == 0.1
    assert pace.looks(now + 30.0).strikes == 0


@given(st.lists(st.floats(0.0, 10.0), max_size=50))
def test_looks_that_found_nothing_lost_are_no_fight(steps: list[float]) -> None:
    pace, now = Pace(), 0.0
    for step in steps:
        now += step
        assert 0.1 <= pace.pause(now) <= 1.001
        pace = pace.looks(now)
    assert not pace.fight(now)
