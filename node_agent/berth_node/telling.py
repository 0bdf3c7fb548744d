"""What the running agent tells of itself: to operators, to Prometheus and kubelet, and to systemd. It only reads."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from berth_node.comparison import compare
from berth_node.config import Config
from berth_node.desk import Desk
from berth_node.http import Answer, HttpServer, listen_address
from berth_node.measures import Measures, families
from berth_node.metrics import CONTENT_TYPE, Family, text, tree
from berth_node.notify import Notifier
from berth_node.process import Threads
from berth_node.reporter import Reporter
from berth_node.seams import Dataplane
from berth_node.settling import Settling
from berth_node.views import Snapshot, answer
from berth_node.watcher import Watcher

__all__ = ["Telling"]

_AGAIN: Final = 30.0  # seconds until a busy port is tried again
_PATIENCE: Final = 3.0  # for the kernel's thread to answer; nft alone may take a moment


@dataclass(slots=True)
class Telling:
    """All parts of an agent, to look into."""

    config: Config
    instance: str
    desk: Desk
    dataplane: Dataplane
    threads: Threads
    watcher: Watcher
    node: Settling
    reporter: Reporter
    measures: Measures
    notifier: Notifier
    _asked: asyncio.Future[None] | None = field(default=None)

    def snapshot(self) -> Snapshot:
        """Everything a view is made from, as it is now."""
        watcher = self.watcher
        return Snapshot(
            instance=self.instance,
            ready=self.node.ready,
            why=self.node.why_not_ready(),
            now=self.desk.clock(),
            pool=self.desk.pool,
            entries=tuple(self.desk.entries.values()),
            record=watcher.keeper.current,
            boot=self.desk.boot,
            reported=self.reporter.last,
            report_failures=self.reporter.failures,
            trouble=dict(watcher.trouble),
            problems=watcher.problems,
            prefixes=self.desk.prefixes,
            requests=self.desk.requests,
            read_at=dict(watcher.read_at),
        )

    def families(self) -> tuple[Family, ...]:
        """All metrics as they are now."""
        return families(self.measures, self.snapshot())

    async def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer an operator; see :func:`berth_node.views.answer` for the other views."""
        match request["view"]:
            case "metrics":
                return {"metrics": tree(self.families())}
            case "check":
                wire, kernel = self.threads.wire, self.dataplane
                return await compare(
                    lambda: self.desk.entries,
                    lambda: self.threads.in_rtnl(kernel.survey),
                    functools.partial(wire, kernel.check),
                    self.watcher.problems,
                )
            case _:
                return answer(self.snapshot(), request)

    async def serve_http(self) -> None:
        """Until cancelled. A port that is taken must not stop pods from getting addresses: it is tried again."""
        where = listen_address(self.config.metrics_listen)
        if where is None:
            await asyncio.Event().wait()
            return
        pages = {"/metrics": self._metrics, "/healthz": self._health, "/readyz": self._readiness}
        server = HttpServer(where, pages)
        while True:
            try:
                listening = await server.open()
            except OSError as error:
                self.watcher.note("metrics", error)
                await asyncio.sleep(_AGAIN)
                continue
            self.watcher.trouble.pop("metrics", None)
            await server.run(listening)

    async def tell_systemd(self) -> None:
        """Until cancelled; see :meth:`berth_node.notify.Notifier.run`."""
        await self.notifier.run(self._status_line, self.alive)

    async def alive(self) -> bool:
        """Whether the event loop runs (or this would not) and the kernel's thread gets to its next call in time.

        One question at a time: those that a stuck thread left unanswered must not pile up.
        """
        if self._asked is None or self._asked.done():
            self._asked = asyncio.ensure_future(self.threads.in_rtnl(_nothing))
        done, _ = await asyncio.wait({self._asked}, timeout=_PATIENCE)
        return bool(done)

    def _status_line(self) -> str:
        pool = self.desk.pool
        told = "ready" if self.node.ready else f"not ready: {self.node.why_not_ready()}"
        trouble = f"; trouble with {', '.join(self.watcher.trouble)}" if self.watcher.trouble else ""
        waiting = f", {len(pool.waiting)} waiting" if pool.waiting else ""
        return f"{told}; {len(self.desk.entries)} pods, {pool.free} addresses free{waiting}{trouble}"

    async def _metrics(self) -> Answer:
        return Answer(text(self.families()), content_type=CONTENT_TYPE)

    async def _health(self) -> Answer:
        if await self.alive():
            return Answer("ok\n")
        return Answer(f"the kernel's thread has not answered for {_PATIENCE:g} s\n", 503)

    async def _readiness(self) -> Answer:
        if self.node.ready:
            return Answer("ok\n")
        return Answer(f"not ready: {self.node.why_not_ready()}\n", 503)


def _nothing() -> None:
    return None
