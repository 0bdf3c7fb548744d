"""The loop that asks the runtime, against a fake one at a real socket and a real desk."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from berth_node import cri
from berth_node.collecting import Collecting
from berth_node.config import Config
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.journal import Journal
from berth_node.seams import Attachment, DataplaneError, Wired

from tests.unit.node.test_cri import TRAILERS, answer, in_frames

LOST = Attachment("lost", "eth0", "10.0.1.16", "enilost", uid="uid")
KEPT = Attachment("kept", "eth0", "10.0.1.17", "enikept", uid="uid")


def desk_with(folder: Path, *held: Attachment) -> Desk:
    desk = Desk(Journal.open(folder / "pods.journal"), DurableFile(folder / "node.json", "i-1"), time.time)
    for attachment in held:
        desk.journal.lend(attachment)
        desk.journal.wired((attachment.container_id, "eth0"), Wired("02:00:00:00:00:01", "02:00:00:00:00:02", 7))
    return desk


async def fake_runtime(path: Path, frames: bytes) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"ListPodSandbox")
        writer.write(frames)
        await writer.drain()
        await reader.read()
        writer.close()

    return await asyncio.start_unix_server(serve, path)


def test_a_removal_that_the_kernel_refuses_is_told_and_tried_again(tmp_path: Path) -> None:
    removed: list[str] = []
    told: list[str] = []
    absent, done = asyncio.Event(), asyncio.Event()

    async def remove(attachment: Attachment) -> None:
        removed.append(attachment.container_id)
        if len(removed) == 1:
            raise DataplaneError("RTM_DELLINK: Device or resource busy")
        done.set()

    def note(what: str, error: Exception) -> None:
        told.append(f"{what}: {error}")
        absent.set()

    async def scene() -> None:
        path = tmp_path / "cri.sock"
        config = Config("t", "q", cri_socket=str(path), collect_interval_seconds=0.01, collect_age_seconds=0)
        loop = Collecting(config, desk_with(tmp_path, LOST, KEPT), remove, note, {})
        task = asyncio.ensure_future(loop.run())
        # no runtime is there yet: told of, and nothing is removed
        async with asyncio.timeout(30):
            await absent.wait()
            server = await fake_runtime(path, in_frames(answer("kept")) + TRAILERS)
            await done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()

    asyncio.run(scene())
    assert set(removed) == {"lost"}
    assert len(removed) >= 2
    assert "No such file" in told[0]
    assert any("Device or resource busy" in line for line in told)


def test_a_child_that_is_left_when_the_agent_stops_is_ended(tmp_path: Path) -> None:
    async def scene() -> None:
        path = tmp_path / "cri.sock"
        asked = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()  # until the child is gone
            gone.set()
            writer.close()

        gone = asyncio.Event()
        server = await asyncio.start_unix_server(silent, path)
        config = Config("t", "q", cri_socket=str(path), collect_interval_seconds=0.01)
        loop = Collecting(config, desk_with(tmp_path), _nothing, lambda what, error: None, {})
        task = asyncio.ensure_future(loop.run())
        async with asyncio.timeout(cri.TIMEOUT / 2):
            await asked.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await gone.wait()
        server.close()

    asyncio.run(scene())


async def _nothing(_: Attachment) -> None:
    raise AssertionError("nothing was to be removed")
