"""Node Capacity Requested: honoured until its ``until`` and no longer; what cannot be granted is refused aloud."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from berth.contract import Order, Report, Surrender
from berth.events import MalformedEventError, Signal, parse
from berth.ingest import SentReport, ingest
from berth.reconcile import RunResult, reconcile

from tests.unit.control.fakes import ARN, NODE, Scene

SAMPLE = Path(__file__).parents[3] / "events" / "node-capacity-requested.json"


def event(now: float, addresses: object = 40, until: object = None, instance: str = NODE, lasts: float = 600) -> str:
    """The event as EventBridge queues it, sent at ``now``."""
    (message,) = json.loads(SAMPLE.read_text())["Records"]
    body = json.loads(message["body"])
    ends = datetime.fromtimestamp(now + lasts, UTC).isoformat() if until is None else until
    body["time"] = datetime.fromtimestamp(now, UTC).isoformat()
    body["detail"] = {"instance-id": instance, "addresses": addresses, "until": ends}
    return json.dumps(body)


def look(scene: Scene, *signals: Signal) -> RunResult:
    return reconcile(scene.edges, signals or (Signal(NODE, "test"),), 50.0)


class Agent:
    """Reports every half minute, and gives back what it has no use for, as the record says."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.sequence = scene, 0

    def report(self) -> None:
        self.scene.machine.now += 30
        self.sequence += 1
        record = self.scene.store.record()
        assert record is not None
        blocks = [(i.mac, a) for i in record.interfaces for a in i.assignments]
        kept = max(1, -(-max(record.policy.minimum_addresses, record.policy.warm_addresses) // 16))
        offers = tuple(Surrender(mac, a.cidr, a.id) for mac, a in blocks[kept:])
        said = Report(Order(1, self.sequence), record.revision, in_use=0, surrendered=offers)
        intake = ingest(self.scene.store, {NODE: ARN}, [SentReport(NODE, said, self.scene.machine.now)])
        if intake.signals:
            assert not reconcile(self.scene.edges, intake.signals, 50.0).failed


def test_capacity_comes_at_once_stays_until_it_ends_and_is_then_given_back_by_surrender() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    agent = Agent(scene)
    agent.report()
    look(scene, parse(event(scene.machine.now, 40, lasts=600)))
    assert len(scene.ec2.assigned()) == 3
    for _ in range(19):
        agent.report()
    assert len(scene.ec2.assigned()) == 3
    for _ in range(6):  # ended; told; surrendered; marked; acknowledged; unassigned
        agent.report()
    assert len(scene.ec2.assigned()) == 1


def test_a_node_at_rest_is_not_looked_at_for_a_request_that_ended_long_ago() -> None:
    scene = Scene()
    scene.ec2.launch(berth__minimum_addresses="40")
    look(scene)
    look(scene, parse(event(scene.machine.now, 40, lasts=60)))
    agent = Agent(scene)
    for _ in range(25):
        agent.report()
    written = len(scene.store.history)
    before = scene.machine.steps
    agent.report()
    assert (scene.machine.steps - before, len(scene.store.history)) == (1, written), "one read of the table, no look"


def test_a_shorter_request_that_comes_later_replaces_the_longer_one() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    look(scene, parse(event(scene.machine.now, 60, lasts=6000)))
    scene.machine.now += 5
    look(scene, parse(event(scene.machine.now, 0, lasts=1)))
    record = scene.store.record()
    assert record is not None
    assert record.policy.minimum_addresses == 0


def test_max_pods_bounds_what_is_requested() -> None:
    scene = Scene()
    scene.ec2.launch(berth__max_pods="20")
    look(scene)
    look(scene, parse(event(scene.machine.now, 4096)))
    assert len(scene.ec2.assigned()) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"addresses": -1}, "detail.addresses: expected 0 to 4096, got -1"),
        ({"addresses": 4097}, "detail.addresses"),
        ({"addresses": "40"}, "detail.addresses"),
        ({"addresses": None}, "detail.addresses"),
        ({"until": "soon"}, "detail.until: expected a time such as"),
        ({"until": "2026-11-02T07:00:00"}, "detail.until"),
        ({"until": 5}, "detail.until"),
        ({"instance": "web-1"}, "detail.instance-id: expected an instance id"),
    ],
)
def test_a_request_that_breaks_the_schema_is_refused_and_the_field_named(changes: dict[str, object], says: str) -> None:
    """``reconcile_nodes`` logs this with the message's id and counts ``MalformedEvents`` (test_functions)."""
    with pytest.raises(MalformedEventError) as caught:
        parse(event(1_000_000.0, **changes))  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_a_request_for_an_instance_that_is_no_node_is_refused_aloud(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    caplog.set_level(logging.WARNING, "berth")
    result = look(scene, parse(event(scene.machine.now)))
    assert not result.failed
    assert result.counts["CapacityRequestsRefused"] == 1
    (line,) = [r for r in caplog.records if "capacity request refused" in r.message]
    assert (getattr(line, "node", ""), getattr(line, "addresses", 0)) == (NODE, 40)


def test_an_older_request_is_refused_aloud() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    look(scene, parse(event(scene.machine.now, 40)))
    result = look(scene, parse(event(scene.machine.now - 60, 10)))
    assert result.counts["CapacityRequestsRefused"] == 1
    assert len(scene.ec2.assigned()) == 3
