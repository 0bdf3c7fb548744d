"""The agent: wires pool, journal, kernel, metadata, record, reports and the CNI socket together.

Threads: the event loop (all decisions, and the wiring of a pod when nobody else uses the data plane), one rtnl thread
(the rest of the data plane), one for reading metadata and record, one for sending reports (blocking HTTP). Nothing but
frozen values crosses between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

from berth.contract import Policy, Record, Report

from berth_node import front
from berth_node.admin import Admin
from berth_node.aws import AwsClient, endpoint
from berth_node.chain import Chain
from berth_node.collecting import Collecting
from berth_node.config import Config
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.flushing import Flushing
from berth_node.imds import DEFAULT_ENDPOINT, Identity, Imds, ImdsError
from berth_node.journal import Journal, JournalError
from berth_node.leasefile import LeaseFile
from berth_node.measures import Measures
from berth_node.notify import Notifier
from berth_node.plugin_files import PluginFiles
from berth_node.process import AlreadyRunningError, Threads, kernel_boot, last_beat, only_one, steady_clock
from berth_node.record import RecordKeeper
from berth_node.report import build
from berth_node.reporter import Reporter
from berth_node.seams import Dataplane
from berth_node.server import Server
from berth_node.settling import Settling
from berth_node.spool import Kept, Spool
from berth_node.telling import Telling
from berth_node.unwritten import resume
from berth_node.usable import unusable_of
from berth_node.verbs import Verbs
from berth_node.watcher import Watcher

__all__ = ["Agent", "AlreadyRunningError", "run"]

_log = logging.getLogger(__name__)
_HEARTBEAT: Final = 10.0  # seconds; the plugin trusts a mark younger than 60 s
_BACKOFF: Final = 1.15
_ATTENTIVE: Final = 2.0  # longest pause between looks while pods wait or the node is not ready, seconds


class Agent:
    """One node's agent. :meth:`run` is its whole life."""

    def __init__(
        self,
        config: Config,
        make_dataplane: Callable[[], Dataplane],
        environment: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        """``make_dataplane`` is called in the rtnl thread: netlink sockets and namespaces belong to a thread."""
        self.config, self._make_dataplane, self.environment = config, make_dataplane, environment
        self._threads = Threads()
        self._look_now = asyncio.Event()
        self._looks = 0  # since something last changed
        self._clock = clock
        self.measures = Measures()
        self._spool = Spool(config.run_dir / "spool", self.measures.requests)
        self.notifier = Notifier(environment)

    # -------------------------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises :class:`AlreadyRunningError`, ``OSError`` if a folder cannot be written."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        self.config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._spool.open()
        with only_one(self.config.run_dir / "agent.lock"):
            stopping = asyncio.ensure_future(stop.wait())
            try:
                await _first(asyncio.ensure_future(self._start()), stopping)
                if not stopping.done():
                    gc.freeze()  # what is there by now stays: looking through it again would hold up somebody's ADD
                    await self._serve(stopping)
            finally:
                self._threads.shut_down()
        _log.info("stopped")

    async def _start(self) -> None:
        """Everything before the socket opens. A kill at any point leaves the next start the same work to do."""
        config, threads = self.config, self._threads
        self.dataplane = await threads.in_rtnl(self._make_dataplane)
        url = (self.environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        imds = Imds(url)
        self.identity = identity = await self._identify(imds)
        region = config.region or identity.region
        reads = _client(region, imds, self.environment)
        # Reports have a metadata client of their own: a client belongs to one thread.
        writes = _client(region, Imds(url), self.environment)
        keeper = RecordKeeper(identity, config.state_dir, lambda key: reads.get_item(config.table, key))
        await self._take_stock(keeper.load(), identity)
        self.watcher = Watcher(config, keeper, imds, self.dataplane, self.desk, threads.in_cloud, threads.in_rtnl)
        self.chain = Chain(config.chain, config.cni_bin_dir, config.poll_slow_seconds)
        await self.chain.refresh()
        self._assemble(lambda text: threads.send(writes.send_message, config.reports_queue_url, text))
        self.node.ready = self.node.mark.exists()  # of this boot: /run is a tmpfs
        self.node.publish()
        await self.watcher.look()
        self.node.settle()

    def _assemble(self, send: Callable[[str], Awaitable[None]]) -> None:
        """Put together what decides and what tells. ``send`` takes a report to its queue."""
        config, threads = self.config, self._threads
        self.node = Settling(config, self.desk, self.watcher, config.run_dir / "ready", self.chain)
        self.verbs = Verbs(
            self.desk,
            self.dataplane,
            threads.wire,
            self.node,
            config.add_wait_seconds,
            config.mtu,
            threads.wire_now,
            self.measures.waits,
        )
        self.kept = Kept(self._spool, self.verbs, self.watcher.noting)
        self.verbs.kept, self.watcher.kept = self.kept.drain, self.kept.drain_soon
        self.files = PluginFiles(config, self.dataplane, self.node, self.verbs, self.watcher.noting)
        self.reporter = Reporter(
            self._build_report,
            send,
            self._report_sent,
            config.report_interval_seconds,
            config.report_debounce_seconds,
            counted=self.measures.reports.add,
        )
        self.node.serve_waiting, self.node.reporter = self.verbs.lending.queue.serve, self.reporter
        self.telling = Telling(
            config,
            self.identity.instance_id,
            self.desk,
            self.dataplane,
            threads,
            self.watcher,
            self.node,
            self.reporter,
            self.measures,
            self.notifier,
        )

    async def _take_stock(self, record: Record | None, identity: Identity) -> None:
        """What earlier agents have left, in the kernel and beside it."""
        config = self.config
        self.desk = Desk(
            Journal.open(config.run_dir / "pods.journal"),
            DurableFile(config.state_dir / "node.json", identity.instance_id),
            self._clock,
            hold=config.surrender_hold_seconds,
            kernel_boot=kernel_boot(),
            alive=last_beat(config.run_dir / "ready"),
            lease_file=LeaseFile(config.state_dir / "leases.json", identity.instance_id),
        )
        survey = await self._threads.in_rtnl(self.dataplane.survey)
        undo = self.desk.start(survey, record.policy if record else Policy())
        held = tuple(entry.attachment for entry in self.desk.entries.values())
        await self._threads.wire(self.dataplane.adopt, held)
        await resume(self.desk, undo, self.dataplane, self._threads.wire)

    async def _identify(self, imds: Imds) -> Identity:
        delay = 0.2
        while True:
            try:
                return await self._threads.in_cloud(imds.identity)
            except (ImdsError, KeyError, ValueError) as error:
                _log.warning("instance metadata does not answer", extra={"why": str(error)})
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, 5.0)

    async def _serve(self, stopping: asyncio.Future[Any]) -> None:
        server = Server(self.config.run_dir / "cni.sock", self.verbs, self.measures.requests)
        admin = Admin(self.config.run_dir / "admin.sock", self._answer)
        await admin.open()
        # Before the socket accepts: an ADD must not meet what a DEL before it should have taken away.
        await self.kept.drain()
        self.files.begin()
        server.open()
        _log.info("serving", extra={"instance": self.identity.instance_id, "boot": self.desk.boot})
        loops = [asyncio.ensure_future(c) for c in self._loops()]
        try:
            # A loop ends only by a bug: then the agent does too, and its supervisor starts it afresh.
            await _first(*loops, stopping)
        finally:
            self.notifier.tell("STOPPING=1")
            self.verbs.lending.queue.abandon()
            self.files.end()
            await server.close()
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self.kept.close()
            await admin.close()
            await self._end()

    async def _answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        await self.kept.drain_soon()
        return await self.telling.answer(request)

    async def _end(self) -> None:
        if self.node.ready:
            self.node.mark.touch()  # the plugin's 60 s for a restart count from here
        try:
            self.desk.save()
            self.desk.upkeep.save()
        except OSError as error:
            self.watcher.note("durable state", error)
        await self._threads.in_rtnl(self.dataplane.close)
        self.desk.journal.close()

    async def _keep_leases(self, now: float) -> None:
        """A copy of what is untold on disk, and what is to be told again by its age."""
        leases, file = self.desk.journal.leases, self.desk.lease_file
        try:
            self.desk.upkeep.renew()
            if file and file.due(leases, now):
                await asyncio.to_thread(file.save, file.taken(leases, now))
            self.watcher.trouble.pop("untold leases", None)
        except (OSError, JournalError) as error:
            if file:
                file.failed()
            self.watcher.note("untold leases", error)

    # ------------------------------------------------------------------------------------------------- loops

    def _loops(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What runs for as long as the agent serves."""
        yield self._look_loop()
        yield self._tick_loop()
        yield self._kernel_loop()
        yield self.reporter.run()
        yield self.telling.serve_http()
        yield self.telling.tell_systemd()
        yield self.chain.watch(self.node.publish)
        yield Collecting(self.config, self.desk, self.verbs.remove, self.watcher.note, self.watcher.trouble).run()
        flush, changed = self.dataplane.flush_connections, self.node.pool_changed
        yield Flushing(self.desk, flush, changed, self.watcher.note, self.watcher.trouble).run()

    async def _look_loop(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                # not wait_for: in Python 3.11 it can swallow the cancellation that ends this loop
                async with asyncio.timeout(self._pause()):
                    await self._look_now.wait()
            self._look_now.clear()
            self._looks += 1
            if await self.watcher.look():
                self._looks = 0
            self.node.settle()
            pool = self.desk.pool
            self.measures.looked(frozenset(b.cidr for b in pool.lendable), pool.deficit, self._clock())

    async def _kernel_loop(self) -> None:
        with self.watcher.listening():
            while True:
                await self.watcher.follow()
                self.node.settle()

    def _pause(self) -> float:
        """Quick while something is expected, then ever slower: a shortage that lasts must not cost reads for ever."""
        pool, config = self.desk.pool, self.config
        attentive = bool(pool.waiting) or bool(self.verbs.lending.queue) or not self.node.ready
        expected = pool.deficit > 0 or pool.surrendered or self.desk.requests.pending
        if not (attentive or expected or unusable_of(pool.blocks)):
            return config.poll_slow_seconds
        longest = min(_ATTENTIVE, config.poll_slow_seconds) if attentive else config.poll_slow_seconds
        return float(min(longest, config.poll_quick_seconds * _BACKOFF ** min(self._looks, 60)))

    async def _tick_loop(self) -> None:
        """What time alone brings: addresses cool down, a surplus lasts, a DEL was spooled while the socket opened."""
        beat = saved = self._clock()
        while True:
            await asyncio.sleep(0.2 if self.desk.pool.waiting else 1.0)
            self.node.settle()
            now = self._clock()
            if self.desk.dirty and now - saved >= 1.0:
                saved = now
                await self._save()
            await self._keep_leases(now)
            if self.node.ready and now - beat >= _HEARTBEAT:
                beat = now
                self.node.beat()
            await self.kept.drain_soon()
            with self.watcher.noting("journal", JournalError):
                self.verbs.left.again()
            self.files.publish()

    async def _save(self) -> None:
        value, ticket = self.desk.snapshot()
        try:
            await asyncio.to_thread(self.desk.durable.save, value, ticket)
        except OSError as error:
            self.desk.dirty = True
            self.watcher.note("durable state", error)

    # --------------------------------------------------------------------------------------------- reporting

    def _build_report(self) -> Report | None:
        """None before the first record: until then the order of this node's reports may not be known."""
        if self.watcher.applied_revision is None:
            return None
        leases = self.desk.journal.leases
        revision, asked = self.watcher.applied_revision, self.desk.requests.listed
        return build(self.desk.pool, revision, self.desk.order(), leases, self._clock(), asked)

    def _report_sent(self, report: Report) -> None:
        if self.desk.pool.deficit > 0:
            self.measures.shortage_reported(self._clock())
        waits = report.waiting or report.surrendered or self.desk.pool.deficit > 0 or self.desk.requests.pending
        if waits or self.desk.journal.leases.backlog:
            self._looks = 0
            self._look_now.set()


async def _first(*tasks: asyncio.Future[Any]) -> None:
    """Until one of them is done; raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _client(region: str, imds: Imds, environment: Mapping[str, str]) -> AwsClient:
    return AwsClient(region, imds.credentials, {s: endpoint(s, region, environment) for s in ("sqs", "dynamodb")})


def run(config: Config, make_dataplane: Callable[[], Dataplane]) -> None:
    """Run an agent until it is told to stop; see :meth:`Agent.run`."""

    async def whole_life() -> None:
        await Agent(config, make_dataplane, os.environ, steady_clock()).run()

    with asyncio.Runner(loop_factory=front.new_loop) as runner:
        runner.run(whole_life())
