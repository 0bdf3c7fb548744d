"""Messages that need no look: what they are about has been seen to since, or is only to be noted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from berth.contract import Order, Record, Report
from berth.events import Signal, parse
from berth.events.node_look_requested import body
from berth.ingest import SentReport, ingest
from berth.model import Instance
from berth.reconcile import RunResult, reconcile

from tests.unit.control.fakes import ARN, NODE, FakeEc2, Machine, Scene

TWO: dict[str, str] = {"berth__mode": "addresses", "berth__minimum_addresses": "12"}
"""On two interfaces of an m5.large."""


class CountingEc2(FakeEc2):
    """Counts the batches that were described."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.described = 0

    def instances(self, ids: Sequence[str]) -> dict[str, Instance]:
        self.described += 1
        return super().instances(ids)


class Site(Scene):
    def __init__(self, **tags: str) -> None:
        super().__init__()
        self.ec2 = self.counting = CountingEc2(self.machine)
        self.edges = replace(self.edges, ec2=self.ec2)
        self.ec2.launch(state="pending", **tags)

    def hear(self, *signals: Signal) -> RunResult:
        return reconcile(self.edges, signals or [Signal(NODE, "state pending")], 50)

    def report(self, **fields: object) -> None:
        sent = replace(Report(Order(1, 1), self.record.revision, 0), **fields)  # type: ignore[arg-type]
        self.hear(*ingest(self.store, {NODE: ARN}, [SentReport(NODE, sent, self.machine.now)]).signals)

    @property
    def record(self) -> Record:
        record = self.store.record()
        assert record is not None
        return record

    @property
    def due(self) -> float:
        return self.store.load([ARN])[ARN].notes.next_look


def test_the_time_of_a_delayed_look_travels_with_its_message() -> None:
    assert parse(body(NODE, "later", None, 1_000_015.25)) == Signal(NODE, "later", due=1_000_015.25)
    assert parse(body(NODE, "later")) == Signal(NODE, "later")


@pytest.mark.parametrize("due", ["soon", True, 10**400, None])
def test_a_time_that_is_none_is_left_out(due: object) -> None:
    message = json.loads(body(NODE, "later"))
    message["detail"]["due"] = due
    assert parse(json.dumps(message)) == Signal(NODE, "later")


def test_the_delayed_look_that_the_node_waits_for_is_made() -> None:
    site = Site(**TWO)
    site.hear()
    site.hear(Signal(NODE, "the instance is pending", due=site.due))
    assert site.counting.described == 2


def test_a_delayed_look_after_one_that_found_all_done_costs_no_describe() -> None:
    site = Site(**TWO)
    site.hear()
    asked = site.due
    site.ec2.set_state("running")
    site.hear(Signal(NODE, "state running"))
    assert site.due == 0.0
    site.hear(Signal(NODE, "the instance is pending", due=asked))
    assert site.counting.described == 2
    assert site.store.leases == {}


def test_a_delayed_look_that_another_has_replaced_costs_no_describe() -> None:
    site = Site(**TWO)
    site.hear()
    asked = site.due
    site.machine.now += 60
    site.hear(Signal(NODE, "sweep"))
    assert site.due > asked > 0
    site.hear(Signal(NODE, "the instance is pending", due=asked))
    assert site.counting.described == 2


def test_another_message_for_the_node_is_looked_at_all_the_same() -> None:
    site = Site(**TWO)
    site.hear()
    site.hear(Signal(NODE, "the instance is pending", due=1.0), Signal(NODE, "state running"))
    assert site.counting.described == 2


def test_a_node_without_a_record_is_looked_at() -> None:
    site = Site()
    site.hear(Signal(NODE, "later", due=1.0))
    assert site.counting.described == 1


def test_the_first_report_of_a_boot_that_asks_for_nothing_is_noted_without_a_describe() -> None:
    site = Site()
    site.hear()
    revision = site.record.revision
    site.report(in_use=3)
    assert (site.record.accepted, site.record.revision) == (Order(1, 1), revision)
    assert site.counting.described == 1


def test_a_report_that_asks_for_something_is_looked_at_in_its_first_boot_too() -> None:
    site = Site()
    site.hear()
    site.report(in_use=15, waiting=("pod",))
    assert site.record.accepted == Order(1, 1)
    assert site.counting.described == 2


def test_who_knocks_meanwhile_is_heard() -> None:
    """A message that came while the idle one was seen to is looked at before the lease is let go."""
    site = Site()
    site.hear()

    def knock(_arns: Sequence[str]) -> None:
        site.store.take(ARN, "somebody else", site.machine.now, site.machine.now + 80)

    site.edges = replace(site.edges, store=_Knocking(site, knock))  # type: ignore[arg-type]
    site.hear(Signal(NODE, "later", due=1.0))
    assert site.counting.described == 2


class _Knocking:
    """The store; somebody knocks at the lease while the first states are loaded."""

    def __init__(self, site: Site, knock: object) -> None:
        self._store, self._knock = site.store, knock

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def load(self, arns: Sequence[str]) -> object:
        knock, self._knock = self._knock, None
        if callable(knock):
            knock(arns)
        return self._store.load(arns)
