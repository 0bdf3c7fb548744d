"""Small scenes, exhaustively: every crash, every lost call, every hold-up. Nothing here is chance."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from tests.simulator.interleavings import Scene, behind, crashes, held_up, in_step, left_out, pairs, unanswered
from tests.simulator.small import SCENES

CHEAP = [name for name in SCENES if name != "changed_type"]
"""Those whose function makes few enough calls to try all pairs of two functions' steps."""
CONTESTED = ["launch", "surrender", "race"]
"""Those in which a successor decides differently."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "berth")


def all_hold(scene: Scene, tried: Callable[[Scene], Iterator[str]]) -> None:
    """Say which one failed."""
    done = ["the beginning"]
    try:
        done.extend(tried(scene))
    except BaseException:
        print(f"{scene.__name__}: after {done[-1]}")
        raise
    assert len(done) > 10


@pytest.mark.parametrize("name", SCENES)
def test_killed_before_any_call_the_next_function_finishes_the_work(name: str) -> None:
    all_hold(SCENES[name], crashes)


@pytest.mark.parametrize("name", SCENES)
def test_any_call_may_be_lost_or_not_answered(name: str) -> None:
    all_hold(SCENES[name], unanswered)


@pytest.mark.parametrize("name", SCENES)
def test_any_call_may_be_not_answered_and_described_late(name: str) -> None:
    all_hold(SCENES[name], behind)


@pytest.mark.parametrize("name", ["launch", "second_interface", "surrender"])
def test_an_instance_may_be_left_out_of_describes_for_a_moment(name: str) -> None:
    all_hold(SCENES[name], left_out)


@pytest.mark.parametrize("name", CHEAP)
def test_killed_and_killed_again_the_third_function_finishes_the_work(name: str) -> None:
    all_hold(SCENES[name], pairs)


@pytest.mark.parametrize("name", SCENES)
def test_held_up_within_its_lease_others_leave_the_node_to_it(name: str) -> None:
    all_hold(SCENES[name], lambda scene: held_up(scene, past_lease=False))


@pytest.mark.parametrize("name", SCENES)
def test_held_up_past_its_lease_it_does_no_harm_when_it_goes_on(name: str) -> None:
    all_hold(SCENES[name], lambda scene: held_up(scene, past_lease=True))


@pytest.mark.parametrize("name", CONTESTED)
def test_held_up_past_its_lease_it_may_go_on_in_the_midst_of_its_successor(name: str) -> None:
    all_hold(SCENES[name], lambda scene: in_step(scene, stride=3))
