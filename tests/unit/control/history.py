"""A world for random histories: EC2 whose describes lag and whose answers get lost, queues that repeat and reorder,
functions that die and overlap, and an agent for each node that does what the protocol allows it to."""

from __future__ import annotations

import ipaddress
import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from berth.calls import Call, CreateInterface, Detach, Unassign
from berth.contract import Order, Policy, Record, Report, Surrender, address_count
from berth.ec2_wire import Trouble
from berth.events import Signal
from berth.events.node_look_requested import HookWait
from berth.ingest import SentReport, ingest
from berth.model import Attachment, Instance, Intent, InterfaceView, Outcome
from berth.reconcile import reconcile

from tests.unit.control.fakes import (
    ARN_PREFIX,
    GROUP,
    LIMITS,
    SUBNET,
    Died,
    FakeBus,
    FakeEc2,
    FakeStore,
    Machine,
    Scene,
    refusal,
)
from tests.unit.control.sweeping import sweep_all

SECONDS = 50.0
VISIBILITY = 120.0


@cache
def addresses(cidr: str) -> tuple[str, ...]:
    return tuple(map(str, ipaddress.ip_network(cidr)))


class Ec2(FakeEc2):
    """Describes show a moment up to ``lag`` seconds ago, each another one; answers are lost at ``lost``."""

    def __init__(self, machine: Machine, rng: random.Random) -> None:
        self._rng = rng
        self.lag, self.lost = 0.0, 0.0
        self.past: list[tuple[float, dict[str, Instance], dict[str, InterfaceView]]] = []
        self.foreign: set[str] = set()
        self.agents: dict[str, Agent] = {}
        super().__init__(machine)
        self.remember()

    def remember(self) -> None:
        now = self._machine.now
        self.past = [p for p in self.past if p[0] > now - 60] or self.past[-1:]
        self.past.append((now, dict(self.all_instances), dict(self.all_interfaces)))

    def _shown(self) -> tuple[dict[str, Instance], dict[str, InterfaceView]]:
        moment = self._machine.now - self._rng.uniform(0, self.lag)
        seen = [p for p in self.past if p[0] <= moment] or self.past[:1]
        return seen[-1][1:]

    def instances(self, ids: Sequence[str]) -> dict[str, Instance]:
        self._machine.step()
        shown = self._shown()[0]
        return {i: shown[i] for i in ids if i in shown}

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        self._machine.step()
        shown = self._shown()[1].values()
        return {i: tuple(v for v in shown if i in (v.node, v.attachment and v.attachment.instance_id)) for i in ids}

    def add_foreign(self, instance_id: str) -> None:
        used = {i.attachment.device_index for i in self.attached(instance_id) if i.attachment}
        if len(used) < LIMITS.interfaces:
            view = self._new(SUBNET, (GROUP,))
            index = max(set(range(LIMITS.interfaces)) - used)
            at = Attachment(f"foreign-{view.id}", instance_id, index, 0, "attached", True)
            self.all_interfaces[view.id] = replace(view, attachment=at)
            self.foreign.add(view.id)
            self.remember()

    def attached(self, instance_id: str) -> list[InterfaceView]:
        at = [i for i in self.all_interfaces.values() if i.attachment]
        return [i for i in at if i.attachment and i.attachment.instance_id == instance_id]

    def mutate(self, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        if self._rng.random() < self.lost / 2:
            self._machine.step()
            raise refusal("ReadTimeoutError", Trouble.IN_DOUBT)
        self._judge(intent.call, instance_id)
        outcome = super().mutate(intent, instance_id, cluster)
        if self._rng.random() < self.lost:
            raise refusal("ReadTimeoutError", Trouble.IN_DOUBT)
        return outcome

    def _judge(self, call: Call, instance_id: str) -> None:
        if isinstance(call, CreateInterface):
            return
        assert call.interface_id not in self.foreign, f"{call}: not ours to touch"
        alive = not self.all_instances[instance_id].dead
        if isinstance(call, Detach):
            assert not alive, f"{call}: detached from a living node"
        if isinstance(call, Unassign) and alive:
            used = self.agents[instance_id].used
            taken = {a for b in call.blocks for a in addresses(b)} & used
            assert not taken, f"{call}: pods use {sorted(taken)}"

    def _apply(self, call: Call, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        try:
            return super()._apply(call, intent, instance_id, cluster)
        finally:
            self.remember()
            for view in self.all_interfaces.values():
                assert view.slots <= LIMITS.addresses_per_interface


@dataclass
class Agent:
    """``used`` are the addresses of pods. ``record`` is the one it has read last, which may be old."""

    world: World
    id: str
    record: Record | None = None
    used: set[str] = field(default_factory=set)
    surrendered: set[Surrender] = field(default_factory=set)
    waiting: int = 0
    order: Order = field(default_factory=lambda: Order(1, 0))

    @property
    def arn(self) -> str:
        return ARN_PREFIX + self.id

    def read(self) -> None:
        found = self.world.store.record(self.arn)
        if found and (self.record is None or found.revision >= self.record.revision):
            self.record = found
        listed = {(c, i) for _, c, i, _ in self._blocks()}
        self.surrendered = {s for s in self.surrendered if (s.cidr, s.assignment) in listed}
        waiting, self.waiting = self.waiting, 0
        for _ in range(waiting):
            self.add_pod()

    def _blocks(self) -> list[tuple[str, str, str, bool]]:
        """(MAC, block, assignment id, lendable): what is listed and not marked, and in instance metadata."""
        if self.record is None:
            return []
        real = {(i.mac, b) for i in self.world.ec2.attached(self.id) for b in i.blocks}
        return [
            (i.mac, a.cidr, a.id, not a.releasing and (i.mac, a.cidr) in real)
            for i in self.record.interfaces
            for a in i.assignments
        ]

    def _mine(self) -> list[tuple[str, str, str]]:
        given = {(s.mac, s.cidr, s.assignment) for s in self.surrendered}
        return [(m, c, i) for m, c, i, usable in self._blocks() if usable and (m, c, i) not in given]

    def add_pod(self) -> None:
        free = (a for _, cidr, _ in self._mine() for a in addresses(cidr) if a not in self.used)
        address = next(free, None) if not self.waiting else None
        if address is None:
            self.waiting += 1
        else:
            self.used.add(address)

    def _deficit(self) -> int:
        policy = self.record.policy if self.record else Policy()
        supply = sum(address_count(c) for _, c, _ in self._mine())
        need = len(self.used) + self.waiting
        least = min(policy.max_pods, policy.minimum_addresses)
        return max(min(policy.max_pods, need + policy.warm_addresses), least) - supply

    def balance(self) -> None:
        """Take back while something is missing, then give up idle blocks that nothing wants."""
        for s in sorted(self.surrendered, key=lambda s: s.cidr):
            if self._deficit() > 0 and (s.mac, s.cidr, s.assignment, True) in self._blocks():
                self.surrendered.discard(s)
        for mac, cidr, assignment in self._mine():
            idle = self.used.isdisjoint(addresses(cidr))
            if idle and len(self._mine()) > 1 and self._deficit() <= -address_count(cidr):
                self.surrendered.add(Surrender(mac, cidr, assignment))

    def lose_files(self) -> None:
        """What is in /var/lib/berth is gone; the pods, which the kernel knows, are not."""
        self.surrendered.clear()
        self.record = self.world.store.record(self.arn)
        if self.record:
            self.order = Order(max(self.order.boot, self.record.accepted.boot) + 1, 0)

    def report(self) -> Report:
        self.order = Order(self.order.boot, self.order.sequence + 1)
        real = {b for i in self.world.ec2.attached(self.id) for b in i.blocks}
        return Report(
            order=self.order,
            acknowledged_revision=self.record.revision if self.record else 0,
            in_use=len(self.used),
            waiting=tuple(f"pod-{n}" for n in range(self.waiting)),
            unusable=tuple(sorted({c for _, c, _, _ in self._blocks()} - real)),
            surrendered=tuple(sorted(self.surrendered, key=lambda s: s.cidr)),
        )


class Queue:
    """(due, number, message) in no promised order. Also where looks are asked for."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._numbers = machine, itertools.count()
        self.waiting: list[tuple[float, int, Any]] = []

    def put(self, message: Any, delay: float = 0.0) -> None:
        self.waiting.append((self._machine.now + delay, next(self._numbers), message))

    def ask(
        self,
        instance_ids: Iterable[str],
        reason: str,
        delay: int = 0,
        hook: HookWait | None = None,
        due: float = 0.0,
    ) -> None:
        group, name, at = hook or ("", "", 0.0)
        for instance_id in instance_ids:
            self.put(Signal(instance_id, reason, hook_group=group, hook_name=name, hook_at=at, due=due), delay)

    def due(self) -> list[tuple[float, int, Any]]:
        return [w for w in self.waiting if w[0] <= self._machine.now]


class World:
    """Everything, and the functions that consume the queue."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        scene = Scene(Policy(warm_addresses=self.rng.choice([0, 4, 8])))
        self.machine = scene.machine
        self.ec2 = Ec2(self.machine, self.rng)
        self.ec2.add_subnet("subnet-b", "10.0.2.0/25")
        self.store: FakeStore = scene.store
        self.queue = Queue(self.machine)
        self.bus = FakeBus()
        self.edges = replace(scene.edges, ec2=self.ec2, looks=self.queue, bus=self.bus)
        self.agents: dict[str, Agent] = self.ec2.agents
        self.overlap = 0.0
        self._depth = 0
        self._step, self.machine.step = self.machine.step, self._overlapped  # type: ignore[method-assign]

    # ------------------------------------------------------------------------------------------- functions

    def _overlapped(self) -> None:
        """Between two steps of one function, another one may run."""
        self._step()
        if self._depth == 1 and self.machine.dies_at is None and self.rng.random() < self.overlap:
            self.invoke()

    def invoke(self) -> None:
        """One function takes up to three messages that are due. If it dies they come back."""
        due = self.queue.due()
        batch = self.rng.sample(due, min(len(due), self.rng.randint(1, 3)))
        self.queue.waiting = [w for w in self.queue.waiting if w not in batch]
        self._depth += 1
        try:
            failed = self._handle([m for _, _, m in batch])
        except Died:
            self.machine.restart()
            failed = {self._node(m) for _, _, m in batch}
        finally:
            self._depth -= 1
        for _, _, message in batch:
            if self._node(message) in failed:
                self.queue.put(message, VISIBILITY)

    def _handle(self, messages: list[Any]) -> set[str]:
        skew = self.rng.uniform(-1, 1)
        edges = replace(self.edges, clock=lambda: self.machine.clock() + skew)
        reports = [m for m in messages if isinstance(m, SentReport)]
        intake = ingest(self.store, {r.instance_id: ARN_PREFIX + r.instance_id for r in reports}, reports)
        signals = [m for m in messages if isinstance(m, Signal)]
        result = reconcile(edges, [*signals, *intake.signals], SECONDS)
        unexpected = {k: e for k, e in result.failed.items() if not isinstance(e, BlockingIOError)}
        assert not unexpected, unexpected
        return set(result.failed)

    @staticmethod
    def _node(message: Any) -> str:
        return str(message.instance_id)

    def sweep(self) -> None:
        sweep_all(self.ec2, self.store, self.queue, self.bus, self.edges.settings, self.machine.clock)

    # ------------------------------------------------------------------------------------------- what happens

    def launch(self) -> None:
        instance_id = f"i-{len(self.agents):08x}"
        tags = {"berth__mode": self.rng.choice(["prefixes", "addresses"]), "berth__max_pods": "60"}
        self.ec2.launch(instance_id, state="pending", **tags)
        self.ec2.remember()
        self.agents[instance_id] = Agent(self, instance_id)
        self.tell(instance_id, "pending")

    def change(self, instance_id: str, state: str) -> None:
        self.ec2.set_state(state, instance_id)
        if state == "terminated":
            self.agents[instance_id].used.clear()
        self.ec2.remember()
        self.tell(instance_id, state)

    def tell(self, instance_id: str, reason: str, **hints: Any) -> None:
        """An event that may be lost, late or repeated."""
        for _ in range(self.rng.choice([0, 1, 1, 1, 2])):
            self.queue.put(Signal(instance_id, reason, **hints), self.rng.choice([0, 0, self.rng.uniform(0, 60)]))

    def send(self, agent: Agent) -> None:
        report = SentReport(agent.id, agent.report())
        for _ in range(self.rng.choice([0, 1, 1, 1, 2])):
            self.queue.put(report, self.rng.choice([0, 0, self.rng.uniform(0, 60)]))

    def living(self) -> list[str]:
        return [i for i, n in self.ec2.all_instances.items() if not n.dead]
