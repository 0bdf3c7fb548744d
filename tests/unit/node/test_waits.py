"""A DEL ends the waiting of its container's ADD, whatever that waits for and whenever the DEL comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from berth.contract import Policy
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.journal import Journal
from berth_node.skel import Call, CniError
from berth_node.verbs import Verbs
from berth_node.waits import Waits

from tests.unit.node.cloud import INSTANCE
from tests.unit.node.kernel import FakeKernel
from tests.unit.node.make import all_blocks, interface, record
from tests.unit.node.test_answers import Node

KEY = ("pod-1", "eth0")
PREFIXES = Policy("prefixes", 0, 0, 110, 0)
EMPTY = record(interface(0, "10.0.0.16/28"), policy=PREFIXES)
SINGLE = record(interface(0, "10.0.0.16/28", "10.0.0.9/32"), policy=PREFIXES)
PATIENCE = 5.0
"""Seconds: far more than a DEL may take, and what one that comes too late for its ADD would take."""
GONE = "cancelled by a DEL"


class Site:
    """An agent's verbs whose kernel is at once done."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(Journal.open(folder / "journal"), DurableFile(folder / "node.json", INSTANCE), lambda: 1000.0)
        self.desk.start((), EMPTY.policy)
        self.desk.refresh(EMPTY, all_blocks(EMPTY))
        self.verbs = Verbs(self.desk, FakeKernel(), self.rtnl, Node(), patience=PATIENCE)
        self.answers: list[str] = []

    async def rtnl(self, call: Callable[[Any], Any], argument: Any, /) -> Any:
        return call(argument)

    async def add(self, name: str = "add") -> None:
        call = Call("ADD", "1.1.0", *KEY, "/proc/1/ns/net", config={}, annotations='{"berth/public-address":"pool:a"}')
        try:
            await self.verbs.run(call, 3, asyncio.Event(), lambda _body: True)
        except CniError as error:
            self.answers.append(f"{name}: {error.message}")
        else:
            self.answers.append(f"{name}: done")

    async def delete(self) -> None:
        await self.verbs.delete_spooled(KEY)
        self.answers.append("del: done")

    def single(self) -> None:
        """A single address for the pod, and no public one yet: who waits is served in this turn."""
        self.desk.refresh(SINGLE, all_blocks(SINGLE))
        self.verbs.lending.queue.serve()

    def tells(self, scenario: Coroutine[Any, Any, None]) -> list[str]:
        """The answers in their order, which must come well before an ADD's patience ends."""
        began = time.monotonic()
        asyncio.run(scenario)
        assert time.monotonic() - began < PATIENCE / 2
        assert not self.verbs.lending.queue
        assert self.desk.entries == {}
        assert self.desk.requests.listed == ()
        return self.answers


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
def test_a_del_is_answered_soon_in_whatever_turn_it_comes(site: Site, before: int, after: int) -> None:
    async def scenario() -> None:
        add = asyncio.create_task(site.add())
        await turns(before)
        site.single()
        await turns(after)
        await asyncio.gather(add, asyncio.create_task(site.delete()))

    told = site.tells(scenario())
    assert sorted(told)[1] == "del: done"
    assert GONE in sorted(told)[0]


def test_an_add_that_has_not_begun_to_wait_is_cancelled_too(site: Site) -> None:
    async def scenario() -> None:
        async with site.verbs._container(KEY[0]):  # something else of the container is at it
            add = asyncio.create_task(site.add())
            await turns(2)
            delete = asyncio.create_task(site.delete())
            await turns(2)
        await asyncio.gather(add, delete)

    told = site.tells(scenario())
    assert GONE in told[0]
    assert told[1] == "del: done"


def test_one_that_comes_after_the_del_is_not_cancelled_by_it(site: Site) -> None:
    async def scenario() -> None:
        first = asyncio.create_task(site.add("first"))
        await turns(2)
        rest = [asyncio.create_task(site.delete()), asyncio.create_task(site.add("second"))]
        await turns(20)
        assert site.answers[1:] == ["del: done"]
        assert bool(site.verbs.lending.queue), "the second one waits"
        await asyncio.gather(first, asyncio.create_task(site.delete()), *rest)

    told = site.tells(scenario())
    assert [GONE in line for line in told] == [True, False, True, False]


def test_of_two_dels_the_first_one_to_end_leaves_the_other_its_word() -> None:
    waits, error, key = Waits(), CniError(11, GONE), KEY
    waits.refuse(key, error)
    waits.refuse(key, error)
    waits.allow(key)

    async def wait() -> None:
        await waits.wait(key, lambda: None, asyncio.Event(), 0.0)

    with pytest.raises(CniError, match=GONE):
        asyncio.run(wait())
    waits.allow(key)
    asyncio.run(wait())
