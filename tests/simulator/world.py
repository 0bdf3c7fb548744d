"""Everything together: the cloud, the table, the queues, and the functions that consume them."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from berth.absent import Unlimited
from berth.bus import Event
from berth.calls import Call
from berth.contract import Policy
from berth.ec2_wire import Ec2Error
from berth.edges import Edges
from berth.events import Signal
from berth.events.node_look_requested import HookWait
from berth.fill import fill
from berth.hooks import Hook
from berth.ingest import SentReport, ingest
from berth.model import PodGroups
from berth.reconcile import reconcile
from berth.standby_work import FillEdges
from berth.store import RevisionConflictError
from berth.sweep import SweepEdges, sweep

from tests.simulator.agent import Agent
from tests.simulator.cloud import Cloud
from tests.simulator.ec2 import Faults, SimEc2
from tests.simulator.extras import SimBrake, SimBudget, SimHooks
from tests.simulator.kernel import Background, Died, Kernel, Process
from tests.simulator.leases import SimLedger
from tests.simulator.promises import BrokenPromise, Promises
from tests.simulator.standby import SimStandby, SimStandbyEc2
from tests.simulator.table import Table, TableTroubleError
from tests.unit.control.fakes import ARN_PREFIX, GROUP, FakeBus, settings
from tests.unit.control.sweeping import FakeSurvey, FakeSweepStore

__all__ = ["HOOK", "Message", "Queues", "World"]

HOOK = Hook("group", "berth")
SECONDS = 50.0
FILL_SECONDS = 60.0
SWEEP_SECONDS = 300.0
VISIBILITY = 120.0
_RECEIVES = {True: 3, False: 5}
"""After so many receives a report is dropped, and an event goes to the dead-letter queue (template.yaml)."""
_REPORT_SECONDS = 300.0
_POD_GROUPS = PodGroups((), (("*", ("*",)),))
_EXPECTED = (BlockingIOError, TimeoutError, Ec2Error, TableTroubleError, RevisionConflictError)
"""What a look may fail with, to be tried again: the fault was the world's."""


@dataclass(eq=False)
class Message:
    """A signal or a report on its queue, visible from ``due`` on."""

    body: Any
    due: float
    sent: float
    receives: int = 0

    @property
    def is_report(self) -> bool:
        return isinstance(self.body, SentReport)

    @property
    def node(self) -> str:
        return str(self.body.instance_id)


@dataclass
class Queues:
    """Both queues, in no promised order. Also where looks are asked for."""

    kernel: Kernel
    messages: list[Message] = field(default_factory=list)
    dropped: int = 0

    def put(self, body: Any, delay: float = 0.0) -> None:
        self.messages.append(Message(body, self.kernel.now + delay, self.kernel.now))

    def ask(
        self,
        instance_ids: Iterable[str],
        reason: str,
        delay: int = 0,
        hook: HookWait | None = None,
        due: float = 0.0,
    ) -> None:
        self.kernel.step("SendMessage")
        group, name, at = hook or ("", "", 0.0)
        for instance_id in instance_ids:
            self.kernel.say(f"  a look at {instance_id} in {delay} s: {reason}")
            self.put(Signal(instance_id, reason, hook_group=group, hook_name=name, hook_at=at, due=due), delay)

    def due(self) -> list[Message]:
        now = self.kernel.now
        old = [m for m in self.messages if m.is_report and m.sent < now - _REPORT_SECONDS]
        if old:
            self.messages = [m for m in self.messages if m not in old]
        return [m for m in self.messages if m.due <= now]


class Bus:
    """Events as they are sent; their schemas are checked now and then, since that is slow."""

    def __init__(self, checks: bool) -> None:
        self._checked = FakeBus() if checks else None
        self.events: list[Event] = []

    def send(self, events: Iterable[Event]) -> int:
        sent = list(events)
        self.events += sent
        if self._checked is not None:
            self._checked.send(sent)
        return 0


class World:
    """``seed`` decides everything that is chance. ``trace`` is told what happens."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None, policy: Policy | None = None) -> None:
        # the product's jitter is chance too
        random.seed(seed)
        self.rng = random.Random(seed)
        self.kernel = Kernel(trace=trace)
        self.faults = Faults()
        self.cloud = Cloud(self.kernel, self.rng)
        self.promises = Promises(self.cloud)
        self.cloud.watch = self.promises.changed
        self.agents: dict[str, Agent] = self.promises.agents
        self.ec2 = SimEc2(self.kernel, self.cloud, self.rng, self.faults, judge=self.promises.judge)
        self.table = Table(self.kernel, self.rng, self.faults, wire=seed % 16 == 0, watch=self.promises.recorded)
        self.queues = Queues(self.kernel)
        self.bus = Bus(checks=seed % 64 == 0)
        self.budget = SimBudget(kernel=self.kernel)
        self.brake = SimBrake(self.kernel)
        self.hooks = SimHooks(self.kernel)
        self.standby = SimStandby(self.kernel)
        self.standby_ec2 = SimStandbyEc2(self.ec2)
        self.ledger: SimLedger | None = SimLedger(self.kernel, self.rng, self.faults)
        self.promises.owner_of = lambda i: self.standby.by_id[i].claimed_by if i in self.standby.by_id else ""
        self.promises.held_back = self._held_back
        self.background: list[Background] = []
        self.others: dict[str, list[str]] = {}
        self._survey = FakeSurvey(self.ec2, size=2 if seed % 8 == 0 else 50)
        self._progress = FakeSweepStore(self.table, size=2 if seed % 8 == 0 else 50)
        self._numbers = itertools.count(1)
        tokens = itertools.count(1)
        self.edges = Edges(
            ec2=self.ec2,
            store=self.table,
            bus=self.bus,
            looks=self.queues,
            settings=settings(defaults=policy or Policy(), launch_hook=HOOK.name, pod_groups=_POD_GROUPS),
            budget=self.budget if seed % 4 else Unlimited(),
            brake=self.brake,
            hooks=self.hooks,
            standby=self.standby,
            ledger=self.ledger,
            token=lambda: f"token-{next(tokens)}",
        )

    # ------------------------------------------------------------------------------------------- functions

    def invoke(self, *, steps: int | None = None, **fate: Any) -> Process:
        """A function takes some of the messages that are due. ``steps``: it stops after so many, in the background.

        ``fate`` is its :class:`~tests.simulator.kernel.Process`'s.
        """
        due = self.queues.due()
        batch = self.rng.sample(due, min(len(due), self.rng.choice([1, 2, 3, 10])))
        process = Process(
            f"lambda-{next(self._numbers)}",
            skew=self.rng.uniform(-1, 1),
            killed_at=self.kernel.now + SECONDS,
            **fate,
        )
        if not batch:
            return process
        for message in batch:
            message.receives += 1
            message.due = self.kernel.now + VISIBILITY
        if steps is None:
            self._as(process, lambda: self._serve(process, batch))
        else:
            work = Background(self.kernel, process, lambda: self._serve(process, batch))
            self.background.append(work)
            work.advance(steps)
        return process

    def _as(self, process: Process, work: Callable[[], None]) -> None:
        others, self.kernel.current = self.kernel.current, process
        try:
            work()
        finally:
            self.kernel.current = others

    def _serve(self, process: Process, batch: list[Message]) -> None:
        self.kernel.say("takes " + ", ".join(_brief(m) for m in batch))
        try:
            failed = self._handle(process, batch)
        except Died:
            return  # its messages become visible again
        except _EXPECTED as error:
            self.kernel.say(f"fails: {error}")
            return
        for message in batch:
            if message.node not in failed:
                if message in self.queues.messages:
                    self.queues.messages.remove(message)
            elif message.receives >= _RECEIVES[message.is_report] and message in self.queues.messages:
                self.queues.messages.remove(message)
                self.queues.dropped += 1
        self.kernel.say("ends" + (f"; failed: {failed}" if failed else ""))

    def _handle(self, process: Process, batch: list[Message]) -> Mapping[str, Exception]:
        edges = replace(self.edges, clock=self.kernel.clock(process), told={})
        reports = [m.body for m in batch if m.is_report]
        arns = {r.instance_id: ARN_PREFIX + r.instance_id for r in reports}
        intake = ingest(self.table, arns, reports, self.ledger)
        signals = [m.body for m in batch if not m.is_report]
        result = reconcile(edges, [*signals, *intake.signals], SECONDS)
        for error in result.failed.values():
            if not isinstance(error, _EXPECTED):
                raise BrokenPromise(f"a look failed: {type(error).__name__}: {error}") from error
        return result.failed

    def sweep(self, dies_at: int | None = None) -> tuple[int, bool]:
        """The scheduled function. Returns how many looks it has asked for, and whether it came to its end."""
        process = Process(f"sweep-{next(self._numbers)}", skew=self.rng.uniform(-1, 1), dies_at=dies_at)
        before = len(self.queues.messages)
        counts: Counter[str] = Counter()
        self._survey.groups = {i: h.group for i, h in self.hooks.waiting.items()}
        self._survey.hooks = {HOOK.group: HOOK.name}

        def work() -> None:
            try:
                counts.update(sweep(self._sweep_edges(process), SWEEP_SECONDS))
            except (Died, *_EXPECTED) as error:
                self.kernel.say(f"fails: {error}")

        self._as(process, work)
        self.kernel.say(f"    a sweep: { ({k: v for k, v in counts.items() if v}) }")
        return len(self.queues.messages) - before, counts["SweepsFinished"] > 0 and not counts["SweepTroubles"]

    def keep_standby(self, subnet: str, prefixes: int, count: int) -> None:
        """What the stack's parameter asks for from now on."""
        entry = f"{subnet}/{GROUP}/prefixes={prefixes}/count={count}"
        self.edges = replace(self.edges, settings=replace(self.edges.settings, standby_pools=(entry,)))

    def fill(self, dies_at: int | None = None) -> None:
        """The scheduled function that keeps standby pools at their level."""
        process = Process(f"fill-{next(self._numbers)}", skew=self.rng.uniform(-1, 1), dies_at=dies_at)
        edges = FillEdges(
            ec2=self.standby_ec2,
            stock=self.standby,
            leases=self.table,
            looks=self.queues,
            bus=self.bus,
            settings=self.edges.settings,
            budget=self.edges.budget,
            brake=self.brake,
            clock=self.kernel.clock(process),
            token=self.edges.token,
        )

        def work() -> None:
            try:
                fill(edges, FILL_SECONDS)
            except (Died, *_EXPECTED) as error:
                self.kernel.say(f"fails: {error}")

        self._as(process, work)

    def _sweep_edges(self, process: Process) -> SweepEdges:
        return SweepEdges(
            survey=self._survey,
            store=self._progress,
            looks=self.queues,
            bus=self.bus,
            settings=self.edges.settings,
            budget=self.edges.budget,
            clock=self.kernel.clock(process),
            sleep=self.kernel.advance,
            token=self.edges.token,
        )

    def advance_background(self, work: Background, steps: int) -> None:
        work.advance(steps)
        if work.done:
            self.background.remove(work)

    def end_background(self, *, kill: bool = False) -> None:
        """Every function that was held up goes on to its end, or dies where it is."""
        while self.background:
            work = self.background[0]
            work.process.dead |= kill
            self.advance_background(work, 10_000)

    def _held_back(self, call: Call) -> bool:
        """A batch that had read the brake before it was pulled has ended by now."""
        return not self.brake.at.allows(call) and self.kernel.now - self.brake.since > 2 * SECONDS

    # ------------------------------------------------------------------------------------------- happenings

    def tell(self, instance_id: str, reason: str, **hints: Any) -> None:
        """An event that may be lost, late or repeated."""
        for _ in range(self.rng.choice([0, 1, 1, 1, 2])):
            self.queues.put(Signal(instance_id, reason, **hints), self.rng.choice([0, 0, self.rng.uniform(0, 60)]))

    def send(self, agent: Agent) -> None:
        report = SentReport(agent.id, agent.report())
        self.kernel.say(f"    {agent.id} reports {report.report}")
        for _ in range(self.rng.choice([0, 1, 1, 1, 2])):
            self.queues.put(report, self.rng.choice([0, 0, self.rng.uniform(0, 60)]))

    def hear(self, agent: Agent) -> None:
        """The agent reads which of its leases the ledger has."""
        item = self.table.items.get(agent.arn)
        if item is not None and item.report is not None:
            agent.pods.hears(item.heard.told)

    def living(self) -> list[str]:
        return [i for i, n in self.cloud.instances.items() if not n.dead]


def _brief(message: Message) -> str:
    what = f"report {message.body.report.order}" if message.is_report else message.body.reason
    return f"{message.node}: {what}"
