"""The agent's own pool against the Lambda's own reconcile, in virtual time: pods that come and go on a steady node."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from berth.calls import Unassign
from berth.contract import Policy, Record
from berth.ingest import SentReport, ingest
from berth.reconcile import reconcile
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.journal import Journal
from berth_node.pod import Pod
from berth_node.pool import Key
from berth_node.report import build
from berth_node.usable import MetadataInterface, blocks_of

from tests.unit.control.fakes import ARN, NODE, Scene

REPORT_SECONDS = 30.0
"""An agent reports this often at the least, and a second after each change."""
HOLD_SECONDS = 60.0


class Node:
    """A node whose agent's desk is the real one, and whose Lambda is. Everything happens at ``scene.machine.now``."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        self.scene = Scene(policy)
        self.scene.ec2.launch()
        self.names = itertools.count()
        self.pods: list[Key] = []
        self.reported_at = 0.0
        journal = Journal.open(folder / "journal")
        self.desk = Desk(journal, DurableFile(folder / "node.json", NODE), lambda: self.now, hold=HOLD_SECONDS)
        self.desk.start((), policy)
        self.report()

    @property
    def now(self) -> float:
        return self.scene.machine.now

    def record(self) -> Record | None:
        return self.scene.store.record()

    def refresh(self) -> int:
        """Take over the record; instance metadata shows what it lists. The kernel has forgotten old connections."""
        self.desk.flushed(self.desk.pool.unflushed)
        record = self.record()
        if record is None:
            return 0
        shown = tuple(
            MetadataInterface(i.mac, i.device_index, (i.primary_address,), tuple(a.cidr for a in i.assignments))
            for i in record.interfaces
        )
        self.desk.refresh(record, blocks_of(record, shown, {i.mac for i in record.interfaces}))
        return record.revision

    def report(self) -> None:
        """Until the Lambda has nothing more to change."""
        self.reported_at = self.now
        for _ in range(5):
            revision = self.refresh()
            self.desk.balance()
            sent = SentReport(NODE, build(self.desk.pool, revision, self.desk.order()))
            intake = ingest(self.scene.store, {NODE: ARN}, [sent])
            assert not reconcile(self.scene.edges, intake.signals or [], 50.0).failed
            record = self.record()
            if record is not None and record.revision == revision:
                return

    def start(self) -> None:
        key = (f"pod-{next(self.names)}", "eth0")
        while self.desk.lend(Pod(key)) is None:
            self.desk.wait(Pod(key))
            self.report()
            self.refresh()
        self.pods.append(key)

    def stop(self) -> None:
        self.desk.free(self.pods.pop(0))

    def passes(self, seconds: float) -> None:
        """Time, with the reports that are due in it."""
        until = self.now + seconds
        while self.now < until:
            step = 1.0 if self.desk.dirty else 10.0
            self.scene.machine.now = min(until, self.now + step, self.reported_at + REPORT_SECONDS)
            self.desk.flushed(self.desk.pool.unflushed)
            if self.desk.balance() or self.now >= self.reported_at + REPORT_SECONDS or self.desk.dirty:
                self.desk.dirty = False
                self.report()

    def churn(self, restarts: int, seconds: float) -> None:
        """Restart one pod after another, ``seconds`` apart."""
        for _ in range(restarts):
            self.stop()
            self.start()
            self.passes(seconds)

    def mutations(self) -> Counter[str]:
        return Counter(type(c).__name__ for c in self.scene.ec2.calls)


@pytest.mark.parametrize(
    ("pods", "seconds"),
    [(1, 2.0), *(pytest.param(*pace, marks=pytest.mark.long) for pace in ((1, 20.0), (7, 15.0), (100, 60.0)))],
)
def test_a_pod_restarted_a_thousand_times_on_a_steady_node_costs_no_mutating_call(
    tmp_path: Path, pods: int, seconds: float
) -> None:
    """At any pace. Steady: the node has what its pods, its warm reserve and the addresses that cool at it take."""
    node = Node(tmp_path, Policy())
    for _ in range(pods):
        node.start()
    node.churn(round(600 / seconds) + 1, seconds)
    before, reports = node.mutations(), node.desk.order().sequence
    node.churn(1000, seconds)
    assert node.mutations() == before
    assert node.desk.order().sequence > reports + 1000, "the Lambda was told of each restart"


@pytest.mark.long
def test_at_a_slow_pace_the_first_prefix_is_the_only_call_there_ever_is(tmp_path: Path) -> None:
    node = Node(tmp_path, Policy())
    node.start()
    node.churn(1000, 20.0)
    assert node.mutations() == {"AssignPrefixes": 1}


def test_a_surplus_is_given_back_once_and_only_after_it_has_lasted(tmp_path: Path) -> None:
    node = Node(tmp_path, Policy(cooldown_seconds=0))
    for _ in range(40):
        node.start()
    assert node.mutations() == {"AssignPrefixes": 3}
    for _ in range(39):
        node.stop()
    node.passes(HOLD_SECONDS - 10)
    assert Unassign.__name__ not in node.mutations()
    node.passes(60)
    assert node.mutations()[Unassign.__name__] == 1, "both phases, both prefixes in one call"
    node.passes(1000)
    assert node.mutations() == {"AssignPrefixes": 3, "Unassign": 1}
    assert len(node.scene.ec2.assigned()) == 1


def test_demand_that_comes_and_goes_within_the_hold_moves_no_prefix(tmp_path: Path) -> None:
    node = Node(tmp_path, Policy(cooldown_seconds=0))
    for _ in range(30):
        node.start()
    node.passes(5)
    before = node.mutations()
    for _ in range(50):
        for _ in range(29):
            node.stop()
        node.passes(HOLD_SECONDS - 10)
        for _ in range(29):
            node.start()
        node.passes(5)
    assert node.mutations() == before
