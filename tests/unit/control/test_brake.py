"""The kill switch: how it is read, and what is still done at each of its levels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import boto3
import pytest
from berth.brake import BRAKE_CONFIG, FRESH_SECONDS, Level, SsmBrake
from berth.calls import (
    MUTATING,
    AssignPrefixes,
    Attach,
    CreateInterface,
    DeleteInterface,
    Detach,
    DisassociatePublic,
    Unassign,
)
from berth.contract import Order, Report, Surrender
from berth.ec2_wire import Trouble
from berth.events import Signal
from berth.ingest import SentReport, ingest
from berth.reconcile import RunResult, reconcile
from botocore.exceptions import ClientError, ConnectTimeoutError
from moto import mock_aws

from tests.unit.control.fakes import ARN, GROUP, NODE, SUBNET, Scene, refusal

SECONDS = 50.0
NAME = "/berth/stack/brake"


# ------------------------------------------------------------------------------------------------ reading it


class Parameter:
    """Answers with ``value``, or raises it."""

    def __init__(self, value: str | Exception) -> None:
        self.value: str | Exception = value
        self.reads = 0

    def get_parameter(self, *, Name: str) -> Any:  # noqa: N803
        assert Name == NAME
        self.reads += 1
        if isinstance(self.value, Exception):
            raise self.value
        return {"Parameter": {"Value": self.value}}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def brake(parameter: Parameter) -> tuple[SsmBrake, Clock]:
    clock = Clock()
    return SsmBrake(lambda: parameter, NAME, clock), clock


@pytest.mark.parametrize("level", Level)
def test_the_parameters_value_is_the_level(level: Level) -> None:
    made, _ = brake(Parameter(level.value))
    assert made.level() is level


def test_each_batch_reads_it_but_batches_in_quick_succession_share_a_reading() -> None:
    parameter = Parameter("normal")
    made, clock = brake(parameter)
    made.level()
    clock.now, parameter.value = FRESH_SECONDS / 2, "read-only"
    assert (made.level(), parameter.reads) == (Level.NORMAL, 1)
    clock.now = FRESH_SECONDS
    assert (made.level(), parameter.reads) == (Level.READ_ONLY, 2)


UNREADABLE = [
    ConnectTimeoutError(endpoint_url="https://ssm"),
    ClientError({"Error": {"Code": "ParameterNotFound", "Message": ""}}, "GetParameter"),
    "full-speed",
]


@pytest.mark.parametrize("trouble", UNREADABLE, ids=str)
def test_what_cannot_be_read_stays_as_it_was_last_read(trouble: Exception | str) -> None:
    parameter = Parameter("read-only")
    made, clock = brake(parameter)
    made.level()
    parameter.value, clock.now = trouble, 60.0
    assert made.level() is Level.READ_ONLY


@pytest.mark.parametrize("trouble", UNREADABLE, ids=str)
def test_never_read_nodes_may_grow_and_nothing_is_taken_away(
    trouble: Exception | str, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = brake(Parameter(trouble))
    assert made.level() is Level.NO_RELEASE
    assert "the brake cannot be read" in caplog.text


def test_a_batch_does_not_wait_long_for_it() -> None:
    assert BRAKE_CONFIG.connect_timeout + BRAKE_CONFIG.read_timeout <= 2  # type: ignore[attr-defined]
    assert BRAKE_CONFIG.retries == {"total_max_attempts": 1}  # type: ignore[attr-defined]


@pytest.fixture
def ssm() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("ssm", region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test")


def test_it_is_read_from_the_parameter_store(ssm: Any) -> None:
    made = SsmBrake(lambda: ssm, NAME)
    assert made.level() is Level.NO_RELEASE
    ssm.put_parameter(Name=NAME, Type="String", Value="normal")
    made = SsmBrake(lambda: ssm, NAME)
    assert made.level() is Level.NORMAL


def test_every_call_is_either_growth_or_taking_away() -> None:
    blank = {c: c.__new__(c) for c in MUTATING}
    assert not any(Level.READ_ONLY.allows(c) for c in blank.values())
    assert all(Level.NORMAL.allows(c) for c in blank.values())
    held = {kind for kind, call in blank.items() if not Level.NO_RELEASE.allows(call)}
    assert held == {Unassign, Detach, DeleteInterface, DisassociatePublic}


# ------------------------------------------------------------------------------------------------ heeding it


@dataclass
class Set:
    now: Level = Level.NORMAL

    def level(self) -> Level:
        return self.now


class Braked(Scene):
    def __init__(self, level: Level) -> None:
        super().__init__()
        self.brake = Set(level)
        self.edges = replace(self.edges, brake=self.brake)
        self.sequence = 0

    def look(self) -> RunResult:
        result = reconcile(self.edges, [Signal(NODE, "test")], SECONDS)
        assert not result.failed
        return result

    def report(self, in_use: int = 0, waiting: int = 0, surrendered: tuple[Surrender, ...] = ()) -> None:
        self.sequence += 1
        record = self.store.record()
        pods = tuple(f"pod-{n}" for n in range(waiting))
        revision = record.revision if record else 0
        said = Report(Order(1, self.sequence), revision, in_use, waiting=pods, surrendered=surrendered)
        intake = ingest(self.store, {NODE: ARN}, [SentReport(NODE, said)])
        assert not reconcile(self.edges, intake.signals, SECONDS).failed

    def kinds(self) -> list[type]:
        return [type(c) for c in self.ec2.calls]

    def surrender(self) -> tuple[Surrender, ...]:
        """The node gives its second block back, through both phases."""
        record = self.store.record()
        assert record is not None
        (interface,) = record.interfaces
        block = interface.assignments[1]
        given = (Surrender(interface.mac, block.cidr, block.id),)
        for _ in range(2):
            self.report(surrendered=given)
        return given

    def leave_an_interface(self) -> str:
        view = self.ec2._new(SUBNET, (GROUP,))
        self.ec2.all_interfaces[view.id] = replace(view, cluster="demo", node=NODE, created_at=1.0)
        return view.id


def test_at_read_only_no_mutating_call_is_made_and_records_and_reports_are_kept() -> None:
    scene = Braked(Level.READ_ONLY)
    scene.ec2.launch()
    result = scene.look()
    scene.report(in_use=0, waiting=3)
    assert scene.ec2.calls == []
    record = scene.store.record()
    assert record is not None
    assert (len(record.interfaces), record.accepted) == (1, Order(1, 1))
    assert result.counts["CallsHeldByBrake"] == result.counts["BatchesBraked"] == 1
    assert scene.looks.asked[0][1] == "the brake is at read-only, calls held: 1"


def test_what_was_held_is_done_once_the_brake_is_released() -> None:
    scene = Braked(Level.READ_ONLY)
    scene.ec2.launch()
    scene.look()
    scene.brake.now = Level.NORMAL
    scene.machine.now += scene.looks.asked[-1][2]
    scene.look()
    assert scene.kinds() == [AssignPrefixes]


def test_at_read_only_a_creation_that_was_not_answered_is_not_repeated_and_not_made_again() -> None:
    scene = Braked(Level.NORMAL)
    scene.ec2.launch(berth__minimum_addresses="150", berth__max_pods="200")
    scene.ec2.refuse = {CreateInterface: [refusal("ReadTimeoutError", Trouble.IN_DOUBT)]}
    scene.look()
    scene.brake.now = Level.READ_ONLY
    scene.machine.now += 20
    scene.look()
    assert scene.kinds() == [AssignPrefixes, CreateInterface]
    scene.brake.now = Level.NORMAL
    scene.machine.now += 20
    scene.look()
    assert scene.kinds()[2:4] == [CreateInterface, Attach]
    assert len(scene.ec2.ours()) == 1


def test_at_no_release_nodes_grow() -> None:
    scene = Braked(Level.NO_RELEASE)
    scene.ec2.launch(berth__minimum_addresses="150", berth__max_pods="200")
    scene.look()
    assert {AssignPrefixes, CreateInterface, Attach} <= set(scene.kinds())
    assert scene.looks.asked == []


def test_at_no_release_a_surrendered_block_stays_assigned_until_the_brake_is_released() -> None:
    scene = Braked(Level.NO_RELEASE)
    scene.ec2.launch()
    scene.look()
    scene.report(in_use=14, waiting=4)
    given = scene.surrender()
    assert Unassign not in scene.kinds()
    assert len(scene.ec2.assigned()) == 2
    record = scene.store.record()
    assert record is not None
    assert given[0].cidr in {a.cidr for i in record.interfaces for a in i.assignments}
    scene.brake.now = Level.NORMAL
    scene.report(surrendered=given)
    assert scene.kinds()[-1] is Unassign


@pytest.mark.parametrize("level", [Level.NO_RELEASE, Level.READ_ONLY])
def test_the_dead_keep_their_interfaces_and_are_looked_at_again_until_the_brake_is_released(level: Level) -> None:
    scene = Braked(level)
    scene.ec2.launch()
    scene.look()
    left = scene.leave_an_interface()
    scene.ec2.set_state("terminated")
    scene.look()
    assert DeleteInterface not in scene.kinds()
    assert not scene.store.load([ARN])[ARN].buried
    reason = scene.looks.asked[-1][1]
    assert f"the brake is at {level.value}" in reason
    scene.brake.now = Level.NORMAL
    scene.look()
    assert left not in scene.ec2.all_interfaces
    assert scene.store.load([ARN])[ARN].buried


def test_what_is_held_takes_no_token() -> None:
    scene = Braked(Level.READ_ONLY)
    scene.ec2.launch()
    asked: list[str] = []
    unlimited = scene.edges.budget
    reserve = unlimited.reserve

    class Counting:
        def reserve(self, action: str, *rest: Any) -> Any:
            asked.append(action)
            return reserve(action, *rest)

    scene.edges = replace(scene.edges, budget=Counting())  # type: ignore[arg-type]
    scene.look()
    assert asked == ["DescribeInstances", "DescribeNetworkInterfaces"]


def test_the_log_of_a_look_says_what_was_planned_and_that_it_was_held(caplog: pytest.LogCaptureFixture) -> None:
    scene = Braked(Level.READ_ONLY)
    scene.ec2.launch()
    with caplog.at_level("INFO", "berth"):
        scene.look()
    (line,) = (r for r in caplog.records if r.message == "look")
    told = vars(line)
    assert told["calls"] == []
    assert "AssignPrefixes" in json.dumps(told["plan"], default=str)
    assert "the brake is at read-only" in told["outcome"]
