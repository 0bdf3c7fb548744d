"""The simulator's world over the wire: the same agents, happenings and promises; real edges, HTTP, the sandbox."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import berth.connect
import pytest
from berth.brake import BRAKE_CONFIG, Level, SsmBrake
from berth.bus import Event
from berth.clients import make_client, quick_session
from berth.connect import connect, connect_fill, connect_sweep
from berth.contract import BODY, KIND, NODE, RECORD_KIND, Policy, decode_record
from berth.ec2 import CLIENT_CONFIG, MUTATING_CONFIG, Boto3Ec2
from berth.ec2_wire import Ec2Error
from berth.fill import fill
from berth.ingest import SentReport, ingest
from berth.reconcile import reconcile
from berth.settings import Settings
from berth.store import DynamoStore, RevisionConflictError
from berth.sweep import sweep
from botocore.exceptions import BotoCoreError, ClientError

from tests.sandbox.cloud import consistency
from tests.sandbox.cloud.calls import Call
from tests.sandbox.cloud.faults import Fault
from tests.sandbox.cloud.identity import ADMIN_KEY, REGION
from tests.simulator.agent import Agent
from tests.simulator.ec2 import Faults
from tests.simulator.extras import SimHooks
from tests.simulator.kernel import Background, Died, Kernel, Process
from tests.simulator.promises import BrokenPromise, Promises
from tests.simulator.world import FILL_SECONDS, SECONDS, SWEEP_SECONDS, World
from tests.unit.control.fakes import ARN_PREFIX, GROUP

from . import virtual_time
from .account import BRAKE, BUDGET_TABLE, BUS, TABLE, Account
from .cloud import WireCloud
from .judge import Judge
from .parts import WireBrake, WireBuckets, WireBus, WireEc2, WireTable
from .queues import Received, WireQueues

__all__ = ["WireWorld"]

_EXPECTED = (BlockingIOError, BotoCoreError, ClientError, Ec2Error, RevisionConflictError, RuntimeError, TimeoutError)
"""What a function may fail with, to be tried again: the fault was the world's."""


class WireWorld(World):
    """``seed`` decides everything that is chance."""

    def __init__(
        self, seed: int, account: Account, patch: pytest.MonkeyPatch, trace: Callable[[str], None] | None = None
    ) -> None:
        random.seed(seed)
        self.rng = random.Random(seed)
        self.account = account
        self.kernel = Kernel(now=1_800_000_000.0, trace=trace)
        self.faults = Faults()
        self.cloud: Any = WireCloud(self.kernel, self.rng, account)
        self.promises = Promises(self.cloud)
        self.cloud.watch = self.promises.changed
        self.agents: dict[str, Agent] = self.promises.agents
        self.table: Any = WireTable(account)
        self.standby: Any = self.table
        self.promises.owner_of = lambda i: self.table.by_id[i].claimed_by if i in self.table.by_id else ""
        self.judge = Judge(self.cloud, self.promises, self._is_braked)
        virtual_time.install(patch, self.kernel, self.cloud.later)
        account.begin(seed, self.kernel, self._watch)
        self.cloud.begin(patch)
        self.ec2: Any = WireEc2(WireBuckets(account), account)
        self.queues: Any = WireQueues(self.kernel, account)
        self.bus: Any = WireBus()
        self.brake: Any = WireBrake(self.kernel, account)
        self.hooks = SimHooks(self.kernel)
        self.ledger = None
        self.background: list[Background] = []
        self.others: dict[str, list[str]] = {}
        self.script: list[Fault] = []
        self._revisions: dict[str, int] = {}
        self._numbers, self._tokens = itertools.count(1), itertools.count(1)
        self._connect(patch)

    # ------------------------------------------------------------------------------------------- edges

    def _connect(self, patch: pytest.MonkeyPatch) -> None:
        for name in [n for n in os.environ if n.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", self.account.endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", ADMIN_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", ADMIN_KEY)
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        quick_session.cache_clear()
        patch.setattr(berth.connect, "make_client", self._client)
        self.settings = Settings(
            clusters=("demo",),
            table=TABLE,
            events_queue_url=self.account.queue_url("events"),
            reports_queue_arn="arn:aws:sqs:eu-west-1:123456789012:reports",
            bus=BUS,
            arn_prefix=ARN_PREFIX,
            defaults=Policy(),
            no_snat_cidrs=("192.168.0.0/16",),
            brake_parameter=BRAKE,
            budget_table=BUDGET_TABLE,
        )
        self.start_cold()

    def start_cold(self) -> None:
        """New execution environments: nothing is remembered."""
        ec2 = self._client("ec2", MUTATING_CONFIG)
        self.store = DynamoStore(self._client("dynamodb", CLIENT_CONFIG), TABLE, self.kernel.advance)
        brake = SsmBrake(lambda: self._client("ssm", BRAKE_CONFIG), BRAKE, lambda: self.kernel.now)
        self.edges = replace(
            connect(self.settings),
            ec2=Boto3Ec2(ec2, ec2, ARN_PREFIX, lambda: self.kernel.now),
            store=self.store,
            brake=brake,
            token=self._token,
        )
        self._sweeper = replace(connect_sweep(self.settings), sleep=self.kernel.advance, token=self._token)
        self._filler = replace(connect_fill(self.settings), leases=self.store, brake=brake, token=self._token)

    def _token(self) -> str:
        return f"token-{next(self._tokens)}"

    def _client(self, service: str, config: Any) -> Any:
        """As the product makes it; before each call the process may die or be held up."""
        client = make_client(service, config)
        client.meta.events.register("before-call", lambda model, **_: self._step(model.name))
        return client

    def _step(self, action: str) -> None:
        self._raise_wrong()
        self.kernel.step(action)

    def _raise_wrong(self) -> None:
        if self.cloud.wrong:
            raise self.cloud.wrong[0]

    # ------------------------------------------------------------------------------------------- the ledger

    def _is_braked(self) -> Level:
        """What a batch that began since then must keep to."""
        return self.brake.at if self.kernel.now - self.brake.since > 2 * SECONDS else Level.NORMAL

    def _watch(self, call: Call, done: bool) -> None:
        """In the server's thread: what is wrong is raised later, by the schedule's."""
        try:
            if call.service == "ec2":
                if done:
                    self.ec2.changes += 1
                    self.cloud.look()
                else:
                    self.judge.about_to(call)
            elif call.service == "dynamodb" and done and call.params.get("TableName") == TABLE:
                self.table.changed = True
                self._written(call.params)
            elif call.action == "PutEvents" and done:
                for e in call.params["Entries"]:
                    self.bus.events.append(Event(e["DetailType"], json.loads(e["Detail"])))
        except BaseException as error:
            self.cloud.wrong.append(error)

    def _written(self, params: Mapping[str, Any]) -> None:
        body = params.get("ExpressionAttributeValues", {}).get(":body")
        key = params.get("Key", {})
        if body and key.get(KIND, {}).get("S") == RECORD_KIND and BODY in params.get("UpdateExpression", ""):
            arn, record = key[NODE]["S"], decode_record(body["S"])
            self.table.revisions += self._revisions.get(arn) != record.revision
            self._revisions[arn] = record.revision
            self.kernel.say(f"  {arn.rpartition('/')[2]}: record of revision {record.revision}")
            self.promises.recorded(arn, record)

    # ------------------------------------------------------------------------------------------- functions

    def invoke(self, *, steps: int | None = None, **fate: Any) -> Process:
        process = self._process("lambda", killed_at=self.kernel.now + SECONDS, **fate)
        batch = self.queues.receive(self.rng.choice([1, 2, 10, 10]))
        if not batch:
            return process
        if steps is None:
            self._as(process, lambda: self._serve(process, batch))
        else:
            work = Background(self.kernel, process, lambda: self._serve(process, batch))
            self.background.append(work)
            work.advance(steps)
        self._raise_wrong()
        return process

    def _process(self, name: str, **fate: Any) -> Process:
        return Process(f"{name}-{next(self._numbers)}", skew=self.rng.uniform(-1, 1), **fate)

    def _serve(self, process: Process, batch: list[Received]) -> None:  # type: ignore[override]
        self.kernel.say("takes " + ", ".join(f"{m.node} ({m.queue})" for m in batch))
        try:
            failed = self._handle(process, batch)
        except Died:
            return  # its messages become visible again
        except _EXPECTED as error:
            self.kernel.say(f"fails: {error}")
            return
        for message in batch:
            if message.node not in failed:
                self.queues.done(message)
        self.kernel.say("ends" + (f"; failed: {failed}" if failed else ""))

    def _handle(self, process: Process, batch: list[Received]) -> Mapping[str, Exception]:  # type: ignore[override]
        edges = replace(self.edges, clock=self.kernel.clock(process), told={})
        reports = [m.content for m in batch if isinstance(m.content, SentReport)]
        intake = ingest(self.store, {r.instance_id: ARN_PREFIX + r.instance_id for r in reports}, reports)
        signals = [m.content for m in batch if not isinstance(m.content, SentReport)]
        result = reconcile(edges, [*signals, *intake.signals], SECONDS)
        for error in result.failed.values():
            if not isinstance(error, _EXPECTED):
                raise BrokenPromise(f"a look failed: {type(error).__name__}: {error}") from error
        return result.failed

    def sweep(self, dies_at: int | None = None) -> tuple[int, bool]:
        process, before = self._process("sweep", dies_at=dies_at), len(self.queues.messages)
        edges = replace(self._sweeper, clock=self.kernel.clock(process))
        counts = self._run(process, lambda: sweep(edges, SWEEP_SECONDS))
        asked = len(self.queues.messages) - before
        return asked, counts["SweepsFinished"] > 0 and not counts["SweepTroubles"]

    def keep_standby(self, subnet: str, prefixes: int, count: int) -> None:
        entry = f"{subnet}/{GROUP}/prefixes={prefixes}/count={count}"
        self.settings = replace(self.settings, standby_pools=(entry,))
        self.start_cold()

    def fill(self, dies_at: int | None = None) -> None:
        process = self._process("fill", dies_at=dies_at)
        edges = replace(self._filler, clock=self.kernel.clock(process))
        self._run(process, lambda: fill(edges, FILL_SECONDS))

    def _run(self, process: Process, function: Callable[[], Mapping[str, int]]) -> Counter[str]:
        """A scheduled function."""
        counts: Counter[str] = Counter()

        def work() -> None:
            try:
                counts.update(function())
            except (Died, *_EXPECTED) as error:
                self.kernel.say(f"fails: {error!r}")

        self._as(process, work)
        self.kernel.say(f"    {process.name}: { ({k: v for k, v in counts.items() if v}) }")
        self._raise_wrong()
        return counts

    # ------------------------------------------------------------------------------------------- bad luck

    def misfortune(self, script: list[Fault]) -> None:
        """From now on calls fail as the script says, and describes lag."""
        self.script = script
        self.account.faults.clear()
        self.account.faults.add(*script)
        consistency.set_lag(self.faults.lag, lambda: self.kernel.now)

    def end_misfortune(self) -> None:
        self.account.faults.clear()
        consistency.set_lag(0)
