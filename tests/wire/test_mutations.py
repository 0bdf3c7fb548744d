"""Schedules find what is wrong: with a defect in the product, some schedule must break a promise."""

from __future__ import annotations

import pytest
from berth import plan

from tests.simulator.promises import BrokenPromise

from .account import Account
from .schedule import run

SCHEDULES = 8
Patch = pytest.MonkeyPatch


def interfaces_outlive_their_node(patch: Patch) -> None:
    """DeleteOnTermination is not set."""
    patch.setattr(plan, "_protect", lambda _: [])


@pytest.mark.timeout(300)
def test_a_defect_breaks_a_promise(account: Account) -> None:
    for seed in range(SCHEDULES):
        with pytest.MonkeyPatch.context() as patch:
            interfaces_outlive_their_node(patch)
            try:
                run(seed, account)
            except BrokenPromise:
                return
    raise AssertionError(f"{SCHEDULES} schedules did not find it")
