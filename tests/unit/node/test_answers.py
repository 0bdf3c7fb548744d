"""ADD and DEL are answered by what the kernel has, and the journal is told after that: what if it cannot be?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.journal import Journal, JournalError
from berth_node.skel import Call, CniError
from berth_node.unwritten import resume
from berth_node.verbs import Verbs

from tests.unit.node.cloud import INSTANCE
from tests.unit.node.kernel import FakeKernel
from tests.unit.node.make import all_blocks, interface, record

_A = TypeVar("_A")
_R = TypeVar("_R")
KEY = ("pod-1", "eth0")
RECORD = record(interface(0, "10.0.0.16/28"))


class Node:
    ready = True
    refusal = ""

    def pool_changed(self) -> None:
        pass

    def why_not_ready(self) -> str:
        return "it is"


@dataclass
class Disk(Journal):
    """Says what it is told; ``full``: cannot be told anything."""

    full: bool = False
    told: list[str] = field(default_factory=list)

    def _write(self, event: Mapping[str, Any]) -> None:
        if self.full:
            raise JournalError("the disk is full")
        self.told.append(event["op"])
        super()._write(event)


class Site:
    """One agent's verbs; the kernel outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kernel, self.now = folder, FakeKernel(), 1000.0
        self.start()

    def start(self) -> None:
        """An agent starts, the one before having been killed."""
        self.disk = Disk.open(self.folder / "journal")
        self.desk = Desk(self.disk, DurableFile(self.folder / "node.json", INSTANCE), lambda: self.now)
        self.unsure = self.desk.start(self.kernel.survey(), RECORD.policy)
        asyncio.run(resume(self.desk, self.unsure, self.kernel, self.rtnl))
        self.desk.refresh(RECORD, all_blocks(RECORD))
        self.verbs = Verbs(self.desk, self.kernel, self.rtnl, Node())

    async def rtnl(self, call: Callable[[_A], _R], argument: _A, /) -> _R:
        return call(argument)

    def asks(self, command: str, killed: bool = False, previous: Any = None) -> list[str]:
        """The answer and the journal's lines, in their order. ``killed``: right after the answer."""
        told = self.disk.told
        told.clear()

        def reply(_body: object) -> bool:
            told.append("answer")
            if killed:
                raise SystemExit
            return True

        call = Call(command, "1.1.0", *KEY, "/proc/1/ns/net", config={"name": "berth", "prevResult": previous})
        try:
            asyncio.run(self.verbs.run(call, 3, asyncio.Event(), reply))
        except SystemExit:
            self.disk.close()
        return told


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def fill_up(site: Site) -> None:
    """With the next answer."""
    attach, detach = site.kernel.attach, site.kernel.detach

    def full(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def done(attachment: Any) -> Any:
            site.disk.full = True
            return call(attachment)

        return done

    site.kernel.attach, site.kernel.detach = full(attach), full(detach)  # type: ignore[method-assign, assignment]


def test_the_journal_is_told_of_an_address_before_the_kernel_and_of_the_rest_after_the_answer(site: Site) -> None:
    assert site.asks("ADD") == ["lend", "answer", "wired"]
    assert site.asks("DEL") == ["answer", "free"]


def test_a_pod_that_was_answered_keeps_its_address_when_the_agent_is_killed_before_it_says_so(site: Site) -> None:
    site.asks("ADD", killed=True)
    site.start()
    (entry,) = site.desk.entries.values()
    assert entry.wired is not None
    assert site.kernel.survey() != ()
    assert KEY in site.disk.leases.live
    assert site.asks("ADD")[-2:] == ["answer", "wired"], "whose answer was lost asks again, and is answered"
    assert len(site.kernel.links) == 1


def test_an_address_is_taken_back_at_the_next_start_when_the_agent_is_killed_before_it_says_so(site: Site) -> None:
    site.asks("ADD")
    site.asks("DEL", killed=True)
    site.start()
    assert not site.desk.entries
    assert site.desk.pool.cooling


def test_a_pod_that_only_the_journal_knows_was_not_answered(site: Site) -> None:
    def killed(_attachment: object) -> Any:
        raise SystemExit

    site.kernel.attach = killed  # type: ignore[method-assign, assignment]
    site.asks("ADD")
    site.kernel = FakeKernel()
    site.start()
    assert [a.container_id for a in site.unsure] == ["pod-1"]
    assert not site.desk.entries
    assert site.desk.pool.cooling


def test_a_full_disk_fails_no_pod_that_is_there(site: Site) -> None:
    fill_up(site)
    assert site.asks("ADD") == ["lend", "answer"]
    with pytest.raises(JournalError):
        site.verbs.left.again()
    site.disk.full = False
    site.verbs.left.again()
    assert site.desk.entries[KEY].wired is not None
    site.disk.told.clear()
    site.verbs.left.again()
    assert site.disk.told == []


def test_a_full_disk_fails_no_del_and_the_address_is_taken_back_when_there_is_room(site: Site) -> None:
    site.asks("ADD")
    fill_up(site)
    assert site.asks("DEL") == ["answer"]
    with pytest.raises(JournalError):
        site.verbs.left.again()
    assert site.desk.entries
    site.disk.full = False
    site.verbs.left.again()
    assert not site.desk.entries
    assert site.desk.pool.cooling


def test_a_pod_that_is_made_again_keeps_its_address_when_an_earlier_return_is_written_at_last(site: Site) -> None:
    site.asks("ADD")
    fill_up(site)
    site.asks("DEL")
    site.disk.full = False
    site.kernel.detach = FakeKernel.detach.__get__(site.kernel)  # type: ignore[method-assign]
    site.kernel.attach = FakeKernel.attach.__get__(site.kernel)  # type: ignore[method-assign]
    site.asks("DEL")
    site.asks("ADD")
    site.verbs.left.again()
    assert site.desk.entries[KEY].wired is not None


def test_check_knows_a_pod_that_could_not_be_written_down(site: Site) -> None:
    fill_up(site)
    site.asks("ADD")
    address = site.desk.entries[KEY].attachment.address
    assert site.asks("CHECK", previous={"ips": [{"address": f"{address}/32"}]}) == ["answer"]


def test_a_pod_that_is_gone_is_not_taken_for_one_that_is_there(site: Site) -> None:
    site.asks("ADD")
    fill_up(site)
    site.asks("DEL")
    with pytest.raises(CniError, match="disk is full"):
        site.asks("ADD")
    site.disk.full = False
    assert site.asks("ADD")[:3] == ["free", "lend", "answer"]
    assert len(site.kernel.links) == 1
