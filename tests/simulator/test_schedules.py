"""Ten thousand random schedules. ``make simulate TRACE=n`` tells one step by step, ``SCHEDULES=n`` runs more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulator.runner import run_many

SCHEDULES = int(os.environ.get("SCHEDULES", "10000"))
DIGEST = """
import hashlib
from tests.simulator.schedule import run
told = hashlib.sha256()
for seed in range(40):
    run(seed, trace=lambda line: told.update(line.encode()))
print(told.hexdigest())
"""


@pytest.mark.timeout(900)
def test_whatever_happens_the_promises_hold() -> None:
    summary = run_many(range(SCHEDULES))
    told = [f"SEED={f.seed}: {f.problem}\n{f.traceback}" for f in summary.failures]
    assert not told, "\n".join(told)
    assert summary.schedules == SCHEDULES


def test_a_schedule_is_the_same_each_time_it_is_run() -> None:
    """In another process too, where texts have other hashes: or a seed would be of no use."""
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1
    assert digests != {""}


def test_schedules_are_rich() -> None:
    """A simulator in which nothing happens would hold every promise."""
    summary = run_many(range(400))
    outcomes = {outcome for _, outcome in summary.calls}
    actions = {action for action, outcome in summary.calls if outcome == "ok"}
    assert {"done, answer lost", "RequestLimitExceeded", "InternalError", "InsufficientCidrBlocks"} <= outcomes
    assert "IncorrectState" in outcomes
    assert {"UnassignPrivateIpAddresses", "DetachNetworkInterface", "DeleteNetworkInterface", "CreateTags"} <= actions
