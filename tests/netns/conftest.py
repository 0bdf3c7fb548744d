"""Tests here make network namespaces, so they run only in a private world that dies with the test run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks everything below this directory, and skips it outside a private world."""
    outside = os.environ.get("BERTH_SANDBOX_WORLD") != "1"
    reason = "not in a private world: run `make kernel`, or python -m tests.sandbox.world_ns -- python -m pytest ..."
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.netns)
            if outside:
                item.add_marker(pytest.mark.skip(reason=reason))
