"""Tests here make network namespaces, so they run only in a private world that dies with the test run.

``pytest tests/netns`` starts itself again in one; collected from further up, where that hook is not heard, they skip.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.sandbox import world_ns

_HERE = Path(__file__).parent


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Runs the same pytest in a private world, unless this is one."""
    if world_ns.in_world():
        return None
    return world_ns.run([sys.executable, "-m", "pytest", *config.invocation_params.args])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks everything below this directory, and skips it outside a private world."""
    outside = not world_ns.in_world()
    reason = "not in a private world: run `make kernel`, or python -m tests.sandbox.world_ns -- python -m pytest ..."
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.netns)
            if outside:
                item.add_marker(pytest.mark.skip(reason=reason))
