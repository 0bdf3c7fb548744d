"""The account's timer thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from tests.sandbox.cloud.lock import API_LOCK
from tests.sandbox.cloud.timers import Timers

from .waiting import eventually


@pytest.fixture
def timers() -> Iterator[Timers]:
    made = Timers()
    yield made
    made.close()


def test_callbacks_run_in_order_of_their_time(timers: Timers) -> None:
    seen: list[int] = []
    for order in (3, 1, 2):
        timers.call_later(order / 50, lambda order=order: seen.append(order))  # type: ignore[misc]
    eventually(lambda: len(seen) == 3)
    assert seen == [1, 2, 3]


def test_no_delay_runs_in_the_calling_thread(timers: Timers) -> None:
    seen: list[threading.Thread] = []
    timers.call_later(0, lambda: seen.append(threading.current_thread()))
    assert seen == [threading.current_thread()]


def test_callbacks_wait_for_the_api_lock(timers: Timers) -> None:
    done = threading.Event()
    with API_LOCK:
        timers.call_later(0.001, done.set)
        assert not done.wait(0.05)
    assert done.wait(5)


def test_a_callback_that_fails_stops_no_other(timers: Timers, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()

    def fail() -> None:
        raise RuntimeError("on purpose")

    with caplog.at_level(logging.CRITICAL, logger="tests.sandbox.cloud.timers"):
        timers.call_later(0.001, fail)
        timers.call_later(0.002, done.set)
        assert done.wait(5)


def test_closing_drops_what_is_due_and_a_later_call_starts_anew(timers: Timers) -> None:
    never, again = threading.Event(), threading.Event()
    timers.call_later(30, never.set)
    timers.close()
    timers.call_later(0.001, again.set)
    assert again.wait(5)
    assert not never.is_set()
