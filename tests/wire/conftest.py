"""One account for all schedules: the sandbox replaces parts of moto, once in a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .account import Account


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    running = Account(tmp_path_factory.mktemp("wire"))
    yield running
    running.close()
