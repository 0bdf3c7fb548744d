"""Random schedules over HTTP. ``WIRE_SEED=n`` runs one of them and tells it step by step, ``WIRE_SCHEDULES=n`` more."""

from __future__ import annotations

import os

import pytest

from .account import Account
from .schedule import Result, run

SEED = os.environ.get("WIRE_SEED")
SEEDS = [int(SEED)] if SEED else list(range(int(os.environ.get("WIRE_SCHEDULES", "12"))))
SEEN: dict[int, Result] = {}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_the_promises_hold(account: Account, seed: int) -> None:
    told: list[str] = []
    try:
        SEEN[seed] = run(seed, account, trace=told.append)
    except BaseException:
        # it may be no Exception: a broken promise must get past every handler of the code under test
        print(f"WIRE_SEED={seed}", *told, sep="\n")
        raise
    if SEED:
        print(*told, sep="\n")


@pytest.mark.skipif(len(SEEDS) < 12, reason="a single schedule need not have everything")
def test_schedules_are_rich() -> None:
    """Schedules in which nothing happens would hold every promise."""
    calls = sum((r.calls for r in SEEN.values()), start=type(SEEN[0].calls)())
    outcomes = {outcome for _, outcome in calls}
    done = {action for action, outcome in calls if outcome == "ok"}
    assert {"RequestLimitExceeded", "InternalError", "Unavailable"} <= outcomes
    assert {"CreateNetworkInterface", "AttachNetworkInterface", "ModifyNetworkInterfaceAttribute"} <= done
    assert {"AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"} <= done
    assert sum(r.hits for r in SEEN.values()) >= 5 * len(SEEN)
