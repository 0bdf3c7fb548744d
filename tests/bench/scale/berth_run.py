"""Berth's side: its real code (ingest, reconcile, look, converge, plan, the EC2 edge) on virtual queues and Lambdas.

In memory are what it talks to: EC2, the table (its state as the table keeps it, JSON included), queues, the bus.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, cast

from berth.buckets import Buckets
from berth.budget import DynamoBudget
from berth.bus import Event
from berth.contract import Report, encode_report
from berth.ec2 import MUTATING_CONFIG, Boto3Ec2
from berth.edges import Edges
from berth.events import Signal, parse
from berth.events.node_look_requested import HookWait, body
from berth.ingest import ingest, read_report
from berth.meters import Meters
from berth.model import InterfaceView
from berth.reconcile import reconcile
from berth.settings import Settings
from berth.world import pay

from tests.bench.scale.agent import Agent
from tests.bench.scale.assumed import (
    API_SECONDS,
    DYNAMODB,
    EMISSION,
    EPOCH,
    EVENT_BUS,
    HANDLER,
    HANDLER_PER_MESSAGE,
    METADATA,
    NETWORK_LEG,
    PUT_EVENTS,
    SQS_DELIVERY,
    SQS_SEND,
)
from tests.bench.scale.budget_table import BudgetTable
from tests.bench.scale.clients import Delayed, Ec2Client
from tests.bench.scale.deployed import deployed
from tests.bench.scale.ec2 import Machine
from tests.bench.scale.fleet import Fleet, capacity
from tests.bench.scale.result import Result, bound_by_action, percentile
from tests.bench.scale.serverless import Function, Message, Queue
from tests.bench.scale.stock import Stock, stock
from tests.bench.scale.table import Table
from tests.sandbox.cloud.throttle import limit_of

__all__ = ["SYSTEMS", "run_berth"]

SYSTEMS: Final = ("berth-prefixes", "berth-addresses", "berth-standby", "berth-launch-template")
ARN_PREFIX: Final = "arn:aws:ec2:eu-west-1:123456789012:instance/"
REPORTS_ARN: Final = "arn:aws:sqs:eu-west-1:123456789012:node-reports"
LIMIT_SECONDS: Final = 20_000.0


class _CountedEc2(Boto3Ec2):
    """Counts the rounds of describing: a batch's, and those for nodes that somebody knocked for meanwhile."""

    def __init__(self, client: Any, arn_prefix: str, clock: Callable[[], float], pay: Callable[[str], None]) -> None:
        super().__init__(client, client, arn_prefix, clock, pay)
        self.rounds = self.nodes = 0

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        self.rounds += 1
        self.nodes += len(ids)
        return super().interfaces(ids)


class _Bus:
    """Counts what is told."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()

    def send(self, events: Iterable[Event]) -> int:
        self.told.update(e.detail_type for e in events)
        return 0


@dataclass(slots=True)
class _Looks:
    """The queue ``node-events`` as Berth writes to it."""

    queue: Queue

    def ask(
        self,
        instance_ids: Iterable[str],
        reason: str,
        delay: int = 0,
        hook: HookWait | None = None,
        due: float = 0.0,
    ) -> None:
        if not 0 <= delay <= 900 or delay != int(delay):
            raise ValueError(f"DelaySeconds: SQS takes 0 to 900 whole seconds, got {delay}")
        for instance_id in instance_ids:
            self.queue.send(Message(body(instance_id, reason, hook, due)), delay)


class _ControlPlane:
    """The stack of one run."""

    def __init__(self, fleet: Fleet, policy_tags: dict[str, str]) -> None:
        self.fleet, self.timeline, self.rng = fleet, fleet.timeline, fleet.rng
        self.tags = {"kubernetes.io/cluster/bench": "owned", **policy_tags}
        self.agents: dict[str, Agent] = {}
        self.store = Table(self.agents)
        self.bus = _Bus()
        self.budget_table = BudgetTable()
        self.counts: Counter[str] = Counter()
        self._tokens = itertools.count(1)
        self.stock = Stock(self.rng)
        template = deployed()
        self.settings = Settings(
            clusters=("bench",),
            table="nodes",
            events_queue_url="https://sqs/node-events",
            reports_queue_arn=REPORTS_ARN,
            bus="berth",
            arn_prefix=ARN_PREFIX,
            defaults=template.policy,
            delay=template.delay,
        )
        function = Function(self.timeline, self.rng, self._edges)
        shape = (template.concurrency, template.visibility)
        self.function = function
        self.events = Queue(self.timeline, self.rng, function, self._handle_events, *shape)
        self.reports = Queue(self.timeline, self.rng, function, self._handle_reports, *shape)
        self.timeout = template.timeout
        self.looks_made = 0

    def clock(self) -> float:
        return EPOCH + self.timeline.now

    def _edges(self) -> Edges:
        """What an execution environment makes when it starts."""
        timeline, rng, ec2 = self.timeline, self.rng, self.fleet.ec2
        client: Any = Ec2Client(ec2, timeline, rng, MUTATING_CONFIG)  # of both kinds of calls, as connect_ec2 has it
        delayed: Any = Delayed
        budget_client = delayed(self.budget_table, timeline, lambda: DYNAMODB.draw(rng))
        budget, meters = DynamoBudget(budget_client, "budget", "bench", Buckets()), Meters()
        return Edges(
            ec2=_CountedEc2(client, ARN_PREFIX, self.clock, lambda action: pay(budget, meters, self.clock(), action)),
            budget=budget,
            meters=meters,
            store=delayed(self.store, timeline, lambda: DYNAMODB.draw(rng)),
            bus=delayed(self.bus, timeline, lambda: PUT_EVENTS.draw(rng)),
            looks=delayed(_Looks(self.events), timeline, lambda: SQS_SEND.draw(rng)),
            standby=delayed(self.stock, timeline, lambda: 2 * DYNAMODB.draw(rng)),
            settings=self.settings,
            clock=self.clock,
            token=lambda: f"{next(self._tokens):032x}",
        )

    # ------------------------------------------------------------------------------------------------ the function

    def _handle_events(self, edges: Edges, messages: Sequence[Message]) -> Sequence[Message]:
        self._work(messages)
        signals = [parse(m.body) for m in messages]
        return self._look(edges, messages, signals, [s.instance_id for s in signals])

    def _handle_reports(self, edges: Edges, messages: Sequence[Message]) -> Sequence[Message]:
        self._work(messages)
        sent = [replace(read_report(m.sender, m.body), sent_at=EPOCH + m.sent_at) for m in messages]
        arns = {s.instance_id: self.settings.arn(s.instance_id) for s in sent}
        intake = ingest(edges.store, arns, sent)
        return self._look(edges, messages, list(intake.signals), [s.instance_id for s in sent])

    def _look(
        self, edges: Edges, messages: Sequence[Message], signals: list[Signal], senders: list[str]
    ) -> Sequence[Message]:
        """As ``functions/reconcile_nodes`` does. Messages of nodes that failed come again."""
        began, counted = self.timeline.now, cast("_CountedEc2", edges.ec2)
        rounds, nodes = counted.rounds, counted.nodes
        result = reconcile(edges, signals, self.timeout - 0.5)
        if self.timeline.now - began > self.timeout:
            raise RuntimeError(f"an invocation took {self.timeline.now - began:.0f} s, longer than its time-out")
        self.counts.update(result.counts)
        self.counts["BatchesDescribed"] += counted.rounds > rounds
        self.counts["Rounds"] += counted.rounds - rounds
        self.counts["NodesDescribed"] += counted.nodes - nodes
        self.counts["Looks"] += len(signals)
        self.counts["Batches"] += bool(signals)
        for error in result.failed.values():
            self.counts[f"Failed: {error}"[:100]] += 1
        return [m for m, sender in zip(messages, senders, strict=True) if sender in result.failed]

    def _work(self, messages: Sequence[Message]) -> None:
        self.timeline.sleep(HANDLER.draw(self.rng) + HANDLER_PER_MESSAGE * len(messages))

    # ------------------------------------------------------------------------------------------------ the world

    def state_changed(self, machine: Machine) -> None:
        """EC2 emits the event, EventBridge brings it to the queue."""
        event = {
            "version": "0",
            "id": f"{machine.id}-{machine.state}",
            "detail-type": "EC2 Instance State-change Notification",
            "source": "aws.ec2",
            "account": "123456789012",
            "time": datetime.fromtimestamp(self.clock(), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": "eu-west-1",
            "resources": [ARN_PREFIX + machine.id],
            "detail": {"instance-id": machine.id, "state": machine.state},
        }
        self.events.send(Message(json.dumps(event)), EMISSION.draw(self.rng) + EVENT_BUS.draw(self.rng))

    def node(self, machine: Machine, asked: int) -> None:
        """The node of ``machine``, whose agent starts when it has booted."""
        arn = ARN_PREFIX + machine.id
        self.agents[arn] = Agent(
            self.timeline,
            random.Random(self.fleet.seed * 7919 + len(self.agents)),
            asked,
            record=lambda: self.store.record(arn),
            blocks=lambda: self.fleet.ec2.blocks(machine.id),
            send=lambda report: self._report(machine.id, report),
            served=self.fleet.served,
        )

    def _report(self, instance_id: str, report: Report) -> None:
        message = Message(encode_report(report), f"AROAEXAMPLEEXAMPLE123:{instance_id}")
        self.reports.send(message, SQS_SEND.draw(self.rng))

    def start_agent(self, machine: Machine) -> None:
        self.agents[ARN_PREFIX + machine.id].start()


def latency_floor() -> float:
    """The least time from a node's event to its addresses being usable, with nobody else in the way.

    Event, delivery, handler, lease, describes, one assignment, record, metadata. No boot: nodes boot meanwhile.
    """
    describe = NETWORK_LEG.low + API_SECONDS["Describe"].low
    assign = NETWORK_LEG.low + API_SECONDS["AssignPrivateIpAddresses"].low
    before = EMISSION.low + EVENT_BUS.low + SQS_DELIVERY.low + HANDLER.low + 3 * DYNAMODB.low + 3 * describe
    return before + assign + max(METADATA.low, 2 * DYNAMODB.low)


def policy_for(system: str, pods: int) -> dict[str, str]:
    """The tags that ask for it: warm addresses above the pods, so that the pods' coming asks for no second call.

    max-pods is what the kubelet is told: where the type holds fewer addresses, so many.
    """
    policy = deployed().policy
    mode = "addresses" if system == "berth-addresses" else "prefixes"
    most = min(policy.max_pods, capacity(prefixes=mode == "prefixes"))
    wanted = min(most, pods + policy.warm_addresses)
    return {"berth:mode": mode, "berth:minimum-addresses": str(wanted), "berth:max-pods": str(most)}


def prefixes_for(tags: Mapping[str, str]) -> int:
    return -(-int(tags["berth:minimum-addresses"]) // 16)


def standby_size(nodes: int, subnets: int) -> int:
    """How many interfaces make both buckets end together, and a tenth more; the same number in each subnet.

    Attaching x nodes and assigning to the others takes equally long: (x - 50) / 5 = (nodes - x - 100) / 5.
    """
    attach, assign = limit_of("AttachNetworkInterface", {}), limit_of("AssignPrivateIpAddresses", {})
    share = attach.refill / (attach.refill + assign.refill)
    even = attach.capacity + share * max(0.0, nodes - attach.capacity - assign.capacity)
    return math.ceil(1.1 * min(even, nodes) / subnets) * subnets


def run_berth(system: str, nodes: int, pods: int, seed: int) -> Result:
    """One run of one of :data:`SYSTEMS`."""
    random.seed(seed)  # Berth's own jitter
    fleet = Fleet(nodes, seed, LIMIT_SECONDS)
    tags = policy_for(system, pods)
    plane = _ControlPlane(fleet, tags)
    wanted = min(pods, capacity(prefixes=tags["berth:mode"] == "prefixes"))
    if system == "berth-standby":
        count = standby_size(nodes, len(fleet.ec2.subnets))
        plane.stock = stock(fleet.ec2, fleet.rng, count, prefixes_for(tags), "bench", "0123456789abcdef")
    fleet.ec2.told = lambda instance, when: plane.agents[ARN_PREFIX + instance].changed(when)

    def launched(machine: Machine) -> None:
        plane.node(machine, wanted)
        plane.state_changed(machine)

    at_launch = prefixes_for(tags) if system == "berth-launch-template" else 0
    fleet.launch(plane.tags, launched, plane.state_changed, plane.start_agent, at_launch)
    fleet.run()
    return _result(system, pods, wanted, plane)


def _result(system: str, pods: int, wanted: int, plane: _ControlPlane) -> Result:
    fleet, ec2 = plane.fleet, plane.fleet.ec2
    reading = sum(n for action, n in ec2.calls.items() if action.startswith("Describe"))
    bound, action = bound_by_action(ec2.calls - Counter({"CreateNetworkInterface": plane.stock.size}), ec2.throttled)
    floor = latency_floor()
    result = Result(
        nodes=fleet.nodes,
        pods_per_node=pods,
        system=system,
        mutating_calls_per_node=round((ec2.calls.total() - reading) / fleet.nodes, 3),
        describe_calls_per_node=round(reading / fleet.nodes, 3),
        throttled_calls=ec2.throttled.total(),
        seconds_p50=percentile(fleet.came, 0.5, fleet.nodes),
        seconds_p99=percentile(fleet.came, 0.99, fleet.nodes),
        seconds_all=percentile(fleet.came, 1.0, fleet.nodes),
        bound_seconds=round(floor + bound, 2),
        latency_floor_seconds=round(floor, 2),
        bound_action=action,
        addresses_per_node=wanted,
        calls=dict(sorted(ec2.calls.items())),
        throttled=dict(sorted(ec2.throttled.items())),
        refused=dict(sorted(ec2.refused.items())),
        observed_seconds=round(fleet.timeline.now, 1),
    )
    return replace(result, details=_details(plane) | (_standby(plane, pods) if plane.stock.size else {}))


def _standby(plane: _ControlPlane, pods: int) -> dict[str, Any]:
    """How large the pool was, and the addresses it kept idle: before the launch and what is left after it."""
    stock, each = plane.stock, 16 * prefixes_for(policy_for("berth-standby", pods)) + 1
    idle = {"idle_addresses_before": stock.size * each, "idle_addresses_left": stock.left * each}
    return {"standby_pool": stock.size, "standby_used": stock.size - stock.left, **idle, "claims": dict(stock.races)}


def _details(plane: _ControlPlane) -> dict[str, Any]:
    return {
        "batches": plane.counts["Batches"],
        "batches_described": plane.counts["BatchesDescribed"],
        "rounds_of_describing": plane.counts["Rounds"],
        "nodes_described": plane.counts["NodesDescribed"],
        "budget_writes": plane.budget_table.writes,
        "budget_refusals": plane.budget_table.refused,
        "looks": plane.counts["Looks"],
        "event_batches": plane.events.batches,
        "event_messages": plane.events.messages,
        "report_batches": plane.reports.batches,
        "report_messages": plane.reports.messages,
        "longest_event_queue": plane.events.longest,
        "redelivered": plane.events.redelivered + plane.reports.redelivered,
        "cold_starts": plane.function.cold_starts,
        "told": dict(sorted(plane.bus.told.items())),
        "counts": dict(sorted(plane.counts.items())),
    }
