"""The scale bench at small sizes: what it counts, never how long the machine takes."""

from __future__ import annotations

import pytest

from tests.bench.scale.aims import judge
from tests.bench.scale.peer_run import PEERS
from tests.bench.scale.result import Result, bound_by_action
from tests.bench.scale.systems import run
from tests.bench.scale.timeline import Timeline

SEED = 1


def test_tasks_sleep_in_virtual_time_and_take_turns() -> None:
    timeline = Timeline()
    seen: list[tuple[float, str]] = []

    def task(name: str, pause: float) -> None:
        for _ in range(3):
            timeline.sleep(pause)
            seen.append((timeline.now, name))

    timeline.start(lambda: task("slow", 2.0))
    timeline.start(lambda: task("quick", 0.75))
    timeline.at(10.0, timeline.stop)
    timeline.run()
    timeline.close()
    assert seen == [(0.75, "quick"), (1.5, "quick"), (2.0, "slow"), (2.25, "quick"), (4.0, "slow"), (6.0, "slow")]


def test_what_a_task_raises_ends_the_run() -> None:
    timeline = Timeline()

    def fail() -> None:
        timeline.sleep(1.0)
        raise LookupError("as told")

    timeline.start(fail)
    with pytest.raises(LookupError, match="as told"):
        timeline.run()
    timeline.close()


def test_tasks_that_still_sleep_are_broken_off_when_a_run_is_closed() -> None:
    timeline = Timeline()
    ended: list[str] = []

    def task() -> None:
        try:
            timeline.sleep(1000.0)
        finally:
            ended.append("broken off")

    timeline.start(task)
    timeline.at(1.0, timeline.stop)
    timeline.run()
    timeline.close()
    assert ended == ["broken off"]


def test_the_bound_is_that_of_the_tightest_bucket() -> None:
    calls = {"AssignPrivateIpAddresses": 1000, "AttachNetworkInterface": 700, "DescribeInstances": 9000}
    assert bound_by_action(calls, {"AssignPrivateIpAddresses": 200}) == (140.0, "AssignPrivateIpAddresses")
    assert bound_by_action(calls, {"AssignPrivateIpAddresses": 300}) == (130.0, "AttachNetworkInterface")
    assert bound_by_action({"AssignPrivateIpAddresses": 100}, {}) == (0.0, "")


@pytest.mark.parametrize("system", ["berth-prefixes", "berth-addresses", "berth-standby", "berth-launch-template"])
def test_a_hundred_nodes_reach_what_was_asked_as_the_aims_count_it(system: str) -> None:
    result = run(system, 100, 30, SEED)
    assert result.seconds_all is not None, f"seed {SEED}: {result}"
    missed = [v.line() for v in judge([result]) if not v.met]
    assert not missed, f"seed {SEED}: {missed}"


def counted(calls: dict[str, int]) -> Result:
    """A run of 100 batches, 42 of which had a second round."""
    details = {"batches_described": 100, "rounds_of_describing": 142, "nodes_described": 400}
    return Result(400, 30, "berth-addresses", 7.0, 2.0, 0, 1.0, 1.0, 1.0, 1.0, 1.0, "", 30, calls, details=details)


@pytest.mark.parametrize("action", ["DescribeInstances", "DescribeNetworkInterfaces"])
def test_a_second_describe_in_each_batch_misses_the_aim_and_some_second_rounds_do_not(action: str) -> None:
    calls = {"DescribeInstances": 142, "DescribeNetworkInterfaces": 142}
    assert [v.aim for v in judge([counted(calls)]) if not v.met] == []
    missed = [v.aim for v in judge([counted(calls | {action: 200})]) if not v.met]
    assert missed == [f"berth-addresses: {action} per batch"]


@pytest.mark.parametrize("system", [*PEERS, "berth-prefixes"])
def test_a_run_is_the_same_each_time(system: str) -> None:
    assert run(system, 10, 110, SEED) == run(system, 10, 110, SEED)
