"""A fabric for each test, with nothing left of the one before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.fabric.vpc import two_nodes
from tests.sandbox.fabric import Fabric


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    with Fabric() as made:
        made.apply(two_nodes())
        yield made
