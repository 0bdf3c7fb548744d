"""A fabric for each test, with nothing left of the one before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.fabric.vpc import two_nodes
from tests.sandbox import netns
from tests.sandbox.fabric import Fabric
from tests.sandbox.waiting import eventually


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    with Fabric() as made:
        made.apply(two_nodes())
        assert eventually(lambda: netns.settled(*netns.names()))
        yield made
