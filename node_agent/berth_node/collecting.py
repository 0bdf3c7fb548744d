"""Asks the container runtime what it runs, and removes the attachments that are nobody's any more.

The decision is :mod:`berth_node.collector`'s; the question is put by a child process (:mod:`berth_node.cri`), so that
nothing of it stays in the agent's memory. Killed anywhere: what was missed is forgotten, and the next agent looks
twice again before it removes anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from berth_node import cri
from berth_node.collector import Absences
from berth_node.config import Config
from berth_node.desk import Desk
from berth_node.journal import JournalError
from berth_node.seams import Attachment, DataplaneError

__all__ = ["KNOWN_SOCKETS", "Collecting", "choose_socket", "listing"]

_log = logging.getLogger(__name__)
KNOWN_SOCKETS: Final = (Path("/run/containerd/containerd.sock"), Path("/run/crio/crio.sock"))
_TIMEOUT: Final = 10.0  # seconds for the child, its start included
_WHAT: Final = "container runtime"


def choose_socket(setting: str | None, known: Sequence[Path] = KNOWN_SOCKETS) -> Path | None:
    """The runtime's socket: the one that is set, none if that is empty, else the one that is there.

    Raises :class:`berth_node.cri.CriError` if there are several: one of them has pods that the other knows nothing of.
    """
    if setting is not None:
        return Path(setting) if setting else None
    there = [path for path in known if path.exists()]
    if len(there) > 1:
        raise cri.CriError(f"{' and '.join(map(str, there))} are both there; set cri_socket to the one kubelet uses")
    return there[0] if there else None


async def listing(socket: Path) -> frozenset[str]:
    """The container ids of all sandboxes, from a child process. Raises :class:`berth_node.cri.CriError`."""
    # -I and -S: nothing of the environment and of the installed packages; the file needs the standard library alone
    argv = [sys.executable, "-I", "-S", cri.__file__, str(socket)]
    child = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            out, complaint = await child.communicate()
    except TimeoutError:
        raise cri.CriError(f"no listing from {socket} within {_TIMEOUT:g} s") from None
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode:
        raise cri.CriError(complaint.decode(errors="replace").strip()[-500:] or f"exit status {child.returncode}")
    return frozenset(json.loads(out))


@dataclass(slots=True)
class Collecting:
    """The loop. ``remove`` detaches and frees one attachment; ``trouble`` is what ``berth-node status`` shows."""

    config: Config
    desk: Desk
    remove: Callable[[Attachment], Awaitable[None]]
    note: Callable[[str, Exception], None]
    trouble: dict[str, str]
    absences: Absences = field(default_factory=Absences)

    def __post_init__(self) -> None:
        config = self.config
        self.absences = Absences(
            config.collect_age_seconds, config.collect_interval_seconds, trusted=bool(config.cri_socket)
        )

    async def run(self) -> None:
        """For as long as the agent serves. A listing that fails changes nothing and is tried again next time."""
        while True:
            await asyncio.sleep(self.config.collect_interval_seconds)
            try:
                await self._collect()
                self.trouble.pop(_WHAT, None)
            except (cri.CriError, OSError, ValueError) as error:
                self.note(_WHAT, error)

    async def _collect(self) -> None:
        socket = choose_socket(self.config.cri_socket)
        if socket is None:
            return
        now = self.desk.clock()
        listed = await listing(socket)
        self.absences, gone = self.absences.after(now, listed, self.desk.entries.values())
        for attachment in gone:
            _log.warning(
                "the runtime has lost a pod: removing it",
                extra={"container": attachment.container_id, "address": attachment.address},
            )
            try:
                await self.remove(attachment)
            except (DataplaneError, JournalError) as error:  # still absent at the next listing, so tried again then
                self.note(_WHAT, error)
