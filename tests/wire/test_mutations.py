"""Schedules find what is wrong: each test breaks the product in one way, and some schedule must break a promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from berth import plan
from berth.model import InterfaceView

from tests.simulator.promises import BrokenPromise

from .account import Account
from .schedule import run

SCHEDULES = 8
Patch = pytest.MonkeyPatch


def whatever_is_attached_is_ours(patch: Patch) -> None:
    """Foreign interfaces are used like our own."""

    def is_ours(self: InterfaceView, _clusters: Any, instance_id: str) -> bool:
        return self.node == instance_id or bool(self.attachment and self.attachment.instance_id == instance_id)

    patch.setattr(InterfaceView, "is_ours", is_ours)


def interfaces_outlive_their_node(patch: Patch) -> None:
    """DeleteOnTermination is not set."""
    patch.setattr(plan, "_protect", lambda _: [])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutation", [whatever_is_attached_is_ours, interfaces_outlive_their_node])
def test_a_defect_breaks_a_promise(account: Account, mutation: Callable[[Patch], None]) -> None:
    for seed in range(SCHEDULES):
        with pytest.MonkeyPatch.context() as patch:
            mutation(patch)
            try:
                run(seed, account)
            except BrokenPromise:
                return
    raise AssertionError(f"{SCHEDULES} schedules did not find it")
