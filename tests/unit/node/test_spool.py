"""DELs that were told that they succeeded: each is done once, whoever asks for it, and until it is done."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from berth_node.measures import Measures
from berth_node.seams import DataplaneError
from berth_node.spool import Spool

from tests.unit.node.test_answers import KEY, Site


def kept(container: str = "c1", ifname: str = "eth0", command: str = "DEL") -> bytes:
    return f"CNI_COMMAND={command}\0CNI_CONTAINERID={container}\0CNI_IFNAME={ifname}\0\0not JSON".encode()


class Verbs:
    """Deletes, fails to, or takes its time."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.refuses = 0
        self.hold: asyncio.Event | None = None

    async def delete_spooled(self, key: tuple[str, str]) -> None:
        if self.hold:
            await self.hold.wait()
        if self.refuses:
            self.refuses -= 1
            raise DataplaneError("the kernel is out of memory")
        self.deleted.append(key[0])


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    (tmp_path / "spool").mkdir()
    return Spool(tmp_path / "spool", Measures().requests)


def test_what_is_kept_is_done_in_order_and_counted(spool: Spool) -> None:
    verbs: Any = Verbs()
    (spool.folder / "2.0").write_bytes(kept("second"))
    (spool.folder / "1.0").write_bytes(kept("first"))
    (spool.folder / ".3.0").write_bytes(kept("not finished"))
    assert asyncio.run(spool.drain(verbs)) == 2
    assert verbs.deleted == ["first", "second"]
    assert [p.name for p in spool.folder.iterdir()] == [".3.0"]
    assert list(spool.requests.family().samples) == [("DEL", "ok")]


def test_a_del_that_the_kernel_refuses_stays_until_it_is_done(spool: Spool) -> None:
    verbs: Any = Verbs()
    verbs.refuses = 2
    (spool.folder / "1.0").write_bytes(kept())

    async def main() -> list[int]:
        return [await spool.drain(verbs) for _ in range(4)]

    assert asyncio.run(main()) == [0, 0, 1, 0]
    assert verbs.deleted == ["c1"]
    assert set(spool.requests.family().samples) == {("DEL", "failed"), ("DEL", "ok")}


@pytest.mark.parametrize("content", [b"", b"x", kept(command="ADD"), kept("../x"), kept(ifname="")])
def test_what_can_never_be_done_is_dropped(spool: Spool, content: bytes) -> None:
    verbs: Any = Verbs()
    (spool.folder / "1.0").write_bytes(content)
    assert asyncio.run(spool.drain(verbs)) == 0
    assert list(spool.folder.iterdir()) == []


def test_who_asks_while_it_is_being_done_waits_until_it_is(spool: Spool) -> None:
    verbs: Any = Verbs()
    (spool.folder / "1.0").write_bytes(kept())

    async def main() -> None:
        verbs.hold = asyncio.Event()
        first, second = (asyncio.ensure_future(spool.drain(verbs)) for _ in range(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not second.done()
        verbs.hold.set()
        assert (await first, await second) == (1, 0)

    asyncio.run(main())
    assert verbs.deleted == ["c1"]


def test_an_add_of_a_container_whose_del_is_kept_is_a_new_pod(tmp_path: Path) -> None:
    """podman starts a stopped container again under its id. The entry is still there, its links are not."""
    site = Site(tmp_path)
    site.asks("ADD")
    (first,) = site.kernel.survey()

    async def kept_del() -> None:
        site.verbs.kept = nothing
        await site.verbs.delete_spooled(KEY)

    async def nothing() -> None:
        pass

    site.verbs.kept = kept_del
    assert "lend" in site.asks("ADD")
    (second,) = site.kernel.survey()
    assert (second.key, second.address != first.address) == (first.key, True), "the first one's address cools"
