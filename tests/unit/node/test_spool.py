"""DELs that were told that they succeeded: each is done once, whoever asks for it, and until it is done."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from berth_node.measures import Measures
from berth_node.seams import DataplaneError
from berth_node.skel import CniError
from berth_node.spool import Kept, Spool

from tests.unit.node.test_answers import KEY, Site


def kept(container: str = "c1", ifname: str = "eth0", command: str = "DEL") -> bytes:
    return f"CNI_COMMAND={command}\0CNI_CONTAINERID={container}\0CNI_IFNAME={ifname}\0\0not JSON".encode()


class Verbs:
    """Deletes, fails to, or takes its time."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.indexes: list[int] = []
        self.refuses = 0
        self.hold: asyncio.Event | None = None

    async def delete_spooled(self, key: tuple[str, str], index: int = 0) -> None:
        if self.hold:
            await self.hold.wait()
        if self.refuses:
            self.refuses -= 1
            raise DataplaneError("the kernel is out of memory")
        self.deleted.append(key[0])
        self.indexes.append(index)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    (tmp_path / "spool").mkdir()
    return Spool(tmp_path / "spool", Measures().requests)


def test_what_is_kept_is_done_in_order_and_counted(spool: Spool) -> None:
    verbs: Any = Verbs()
    (spool.folder / "2.0").write_bytes(kept("second"))
    (spool.folder / "1.0").write_bytes(kept("first"))
    (spool.folder / ".3.0").write_bytes(kept("not finished"))
    assert asyncio.run(spool.drain(verbs)) == set()
    assert verbs.deleted == ["first", "second"]
    assert [p.name for p in spool.folder.iterdir()] == [".3.0"]
    assert list(spool.requests.family().samples) == [("DEL", "ok")]


def test_a_del_that_the_kernel_refuses_stays_until_it_is_done(spool: Spool) -> None:
    verbs: Any = Verbs()
    verbs.refuses = 2
    (spool.folder / "1.0").write_bytes(kept())

    async def main() -> list[int]:
        return [len(await spool.drain(verbs)) for _ in range(4)]

    assert asyncio.run(main()) == [1, 1, 0, 0]
    assert verbs.deleted == ["c1"]
    assert set(spool.requests.family().samples) == {("DEL", "failed"), ("DEL", "ok")}


@pytest.mark.parametrize("content", [b"", b"x", kept(command="ADD"), kept("../x"), kept(ifname="")])
def test_what_can_never_be_done_is_dropped(spool: Spool, content: bytes) -> None:
    verbs: Any = Verbs()
    (spool.folder / "1.0").write_bytes(content)
    assert asyncio.run(spool.drain(verbs)) == set()
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
        assert await first == await second == frozenset()

    asyncio.run(main())
    assert verbs.deleted == ["c1"]


def test_what_is_no_file_or_cannot_be_read_stops_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    verbs: Any = Verbs()
    (spool.folder / "0.0").mkdir()
    (spool.folder / "1.0").write_bytes(kept("unreadable"))
    (spool.folder / "2.0").write_bytes(kept("vanished"))
    (spool.folder / "3.0").write_bytes(kept("fine"))
    real = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.name == "1.0":
            raise PermissionError(13, "Permission denied")
        if path.name == "2.0":
            path.unlink()
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert asyncio.run(spool.drain(verbs)) == set()
    assert verbs.deleted == ["fine"]
    monkeypatch.undo()
    asyncio.run(spool.drain(verbs))
    assert verbs.deleted == ["fine", "unreadable"], "it is done when it can be"


@pytest.mark.parametrize(
    ("name", "index"),
    [("1.000000001.7.1073741830", 1073741830), ("1.000000001.7.0", 0), ("1.000000001.7", 0), ("1.0.7.x", 0), ("1", 0)],
)
def test_the_name_says_which_link_was_buried(spool: Spool, name: str, index: int) -> None:
    verbs: Any = Verbs()
    (spool.folder / name).write_bytes(kept())
    asyncio.run(spool.drain(verbs))
    assert verbs.indexes == [index]


def test_what_killed_plugins_have_not_finished_goes_at_a_start(spool: Spool) -> None:
    old, young = spool.folder / ".1.0", spool.folder / ".2.0"
    for path in (old, young):
        path.write_bytes(b"")
    os.utime(old, (1, 1))
    spool.open()
    assert list(spool.folder.iterdir()) == [young]


def test_who_only_looks_waits_for_a_second_at_most_and_no_queue_grows(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DEL that waits for another ADD of its container holds up nobody's look."""
    monkeypatch.setattr("berth_node.spool._SECONDS", 0.01)
    verbs: Any = Verbs()
    (spool.folder / "1.0").write_bytes(kept())

    async def main() -> None:
        verbs.hold = asyncio.Event()
        keeping = Kept(spool, verbs, lambda *_: contextlib.nullcontext())
        for _ in range(5):
            await keeping.drain_soon()
        assert len(keeping._under_way) == 2
        verbs.hold.set()
        await keeping.drain_soon()
        assert verbs.deleted == ["c1"]
        await keeping.close()

    asyncio.run(main())


# ---------------------------------------------------------------------------- the same container, started again


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """podman starts a stopped container again under its id."""
    return Site(tmp_path)


def wired_index(site: Site) -> int:
    wired = site.desk.entries[KEY].wired
    assert wired
    return wired.host_ifindex


def test_an_add_of_a_container_whose_del_is_kept_is_a_new_pod(site: Site) -> None:
    """The entry is still there, its links are not."""
    site.asks("ADD")
    (first,), index = site.kernel.survey(), wired_index(site)

    async def kept_del() -> list[Any]:
        site.verbs.kept = nothing
        await site.verbs.delete_spooled(KEY, index)
        return []

    async def nothing() -> list[Any]:
        return []

    site.verbs.kept = kept_del
    assert "lend" in site.asks("ADD")
    (second,) = site.kernel.survey()
    assert (second.key, second.address != first.address) == (first.key, True), "the first one's address cools"


def test_an_add_of_a_container_whose_del_cannot_be_done_is_to_be_tried_again(site: Site) -> None:
    site.asks("ADD")

    async def kept_del() -> list[Any]:
        return [KEY]

    site.verbs.kept = kept_del
    with pytest.raises(CniError, match="could not be done yet") as raised:
        site.asks("ADD")
    assert raised.value.code == 11


def test_a_kept_del_takes_no_later_pod_of_its_container_away(site: Site) -> None:
    """Another DEL came before it was done, and did it: it is of a pod that nobody has any more."""
    site.asks("ADD")
    index = wired_index(site)
    site.asks("DEL")
    site.asks("ADD")
    assert wired_index(site) != index
    asyncio.run(site.verbs.delete_spooled(KEY, index))
    assert len(site.kernel.survey()) == 1
    asyncio.run(site.verbs.delete_spooled(KEY, wired_index(site)))
    assert site.kernel.survey() == ()
