"""A sweep's time and turn: it stops when time is up or others need EC2 more, and the next run goes on from there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from berth.budget import Priority, Slot
from berth.ec2_wire import Trouble
from berth.sweep import LEASE_SLACK_SECONDS, sweep
from berth.sweep_run import PATIENCE_SECONDS, SPARE_SECONDS

from tests.unit.control.fake_budget import FakeBudget
from tests.unit.control.fakes import SUBNET, refusal
from tests.unit.control.test_sweep import Site

NODES = [f"i-{n:017x}" for n in range(12)]


def site_of(nodes: Sequence[str] = NODES, **changes: Any) -> Site:
    """Nodes without a record, so that each is asked for; in pages of two."""
    site = Site()
    site.ec2.add_subnet(SUBNET, "10.0.0.0/16")
    for instance_id in nodes:
        site.ec2.launch(instance_id)
    site.pass_time(100)
    site.sweep_edges = replace(site.sweep_edges, **changes)
    return site


@dataclass
class Sleeper:
    """A clock that ``sleep`` moves, and each call by ``tick`` seconds."""

    site: Site
    tick: float = 0.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.site.machine.now += seconds

    def clock(self) -> float:
        self.site.machine.now += self.tick
        return self.site.machine.now


def runs(site: Site, seconds: float) -> list[Counter[str]]:
    """Runs until a sweep is finished, with what each has asked for in ``site.looks.asked``."""
    done: list[Counter[str]] = []
    while not done or not done[-1]["SweepsFinished"]:
        done.append(sweep(site.sweep_edges, seconds))
        assert len(done) < 100
    return done


def asked(site: Site) -> list[str]:
    return [i for i, _, _ in site.looks.asked]


class TestTime:
    @pytest.mark.parametrize("tick", [1.0, 3.0, 6.0])
    def test_a_sweep_that_runs_out_of_time_goes_on_in_the_next_run_until_all_are_seen(self, tick: float) -> None:
        site = site_of()
        site.sweep_edges = replace(site.sweep_edges, clock=Sleeper(site, tick).clock)
        done = runs(site, SPARE_SECONDS + 60)
        assert len(done) > 1
        assert [c["SweepsContinued"] for c in done] == [1] * (len(done) - 1) + [0]
        assert set(asked(site)) == set(NODES)
        assert sum(c["NodesSeen"] for c in done) >= len(NODES)

    def test_what_is_left_of_the_invocation_is_respected(self) -> None:
        site = site_of()
        sleeper = Sleeper(site, 3.0)
        site.sweep_edges = replace(site.sweep_edges, clock=sleeper.clock)
        before = site.machine.now
        sweep(site.sweep_edges, SPARE_SECONDS + 60)
        assert site.machine.now - before < SPARE_SECONDS + 60

    def test_without_any_time_nothing_is_begun_and_nothing_lost(self) -> None:
        site = site_of()
        assert sweep(site.sweep_edges, SPARE_SECONDS / 2)["SweepsContinued"] == 1
        assert site.survey.calls == {}
        assert sweep(site.sweep_edges, 300)["SweepsFinished"] == 1
        assert set(asked(site)) == set(NODES)

    def test_after_each_page_its_place_is_kept_so_a_killed_run_costs_one_page(self) -> None:
        site = site_of()

        class Killed(BaseException):
            pass

        site.survey.trouble = {"attached": [Killed()]}
        site.survey.size = 4
        with pytest.raises(Killed):
            sweep(site.sweep_edges, 300)
        assert site.table.progress.phase in ("", "nodes")
        assert sweep(site.sweep_edges, 300)["SweepsFinished"] == 1
        assert set(asked(site)) == set(NODES)

    def test_a_token_that_ec2_no_longer_knows_begins_the_phase_again(self) -> None:
        site = site_of()
        site.sweep_edges = replace(site.sweep_edges, clock=Sleeper(site, 2.0).clock)
        sweep(site.sweep_edges, SPARE_SECONDS + 60)
        assert site.table.progress.token
        site.survey.forgotten = True
        site.sweep_edges = replace(site.sweep_edges, clock=site.machine.clock)
        counts = sweep(site.sweep_edges, 300)
        assert (counts["SweepsFinished"], counts["SweepTroubles"], counts["NodesSeen"]) == (1, 0, len(NODES))

    def test_a_place_of_an_hour_ago_is_not_gone_on_from(self) -> None:
        site = site_of()
        site.sweep_edges = replace(site.sweep_edges, clock=Sleeper(site, 2.0).clock)
        sweep(site.sweep_edges, SPARE_SECONDS + 60)
        assert site.table.progress.token
        site.pass_time(3700)
        site.sweep_edges = replace(site.sweep_edges, clock=site.machine.clock)
        assert sweep(site.sweep_edges, 300)["NodesSeen"] == len(NODES)


class TestOverlap:
    def test_a_sweep_that_still_runs_is_not_overlapped(self) -> None:
        site = site_of()
        now = site.machine.now
        assert site.table.begin("another", now, now + 300 + LEASE_SLACK_SECONDS) is not None
        counts = sweep(site.sweep_edges, 300)
        assert (counts["SweepsBusy"], counts["NodesSeen"]) == (1, 0)
        assert site.table.holder == "another"

    def test_one_that_died_is_followed_by_another_once_its_lease_ran_out(self) -> None:
        site = site_of()
        now = site.machine.now
        assert site.table.begin("dead", now, now + 330) is not None
        site.pass_time(331)
        assert sweep(site.sweep_edges, 300)["SweepsFinished"] == 1

    def test_a_run_that_has_lost_its_lease_stops(self) -> None:
        site = site_of()
        keep = site.table.keep

        def stolen(holder: str, progress: Any) -> bool:
            site.table.holder = "another"
            return keep(holder, progress)

        site.table.keep = stolen  # type: ignore[method-assign]
        counts = sweep(site.sweep_edges, 300)
        assert counts["SweepsFinished"] == 0
        assert counts["NodesSeen"] <= site.survey.size
        assert site.table.holder == "another"


class TestBudget:
    def test_every_describe_takes_a_token_and_says_that_it_can_wait(self) -> None:
        budget = Recorder()
        site = site_of(budget=budget)
        counts = site.sweep()
        asked_for = site.survey.calls - Counter({"in_hooks": 99})
        assert sum(budget.reserved.values()) == counts["DescribeCalls"] == sum(asked_for.values())
        assert budget.priorities == {Priority.WARM}

    def test_it_leaves_half_of_the_bucket_to_those_who_look_at_nodes(self) -> None:
        budget = FakeBudget()
        site = site_of([f"i-{n:017x}" for n in range(300)], budget=budget)
        sleeper = Sleeper(site)
        site.sweep_edges = replace(site.sweep_edges, clock=sleeper.clock, sleep=sleeper.sleep)
        start = site.machine.now
        sweep(site.sweep_edges, 300)
        describes = [at for action, _, at in budget.taken if action == "DescribeNetworkInterfaces"]
        assert len(describes) > 150
        bucket = budget.buckets.of("DescribeNetworkInterfaces")
        for n, at in enumerate(describes, 1):
            assert n <= bucket.capacity / 2 + bucket.refill * (at - start) + 1
        assert sleeper.slept
        assert max(sleeper.slept) <= PATIENCE_SECONDS

    def test_where_others_need_ec2_for_longer_it_stops_and_the_next_run_goes_on(self) -> None:
        budget = FakeBudget()
        site = site_of(budget=budget)
        sleeper = Sleeper(site)
        site.sweep_edges = replace(site.sweep_edges, clock=sleeper.clock, sleep=sleeper.sleep)
        budget.exhaust("DescribeNetworkInterfaces", site.machine.now + 60)
        counts = sweep(site.sweep_edges, 300)
        assert (counts["SweepsContinued"], counts["SweepTroubles"]) == (1, 0)
        assert asked(site) == []
        site.machine.now += 300
        assert sweep(site.sweep_edges, 300)["SweepsFinished"] == 1
        assert set(asked(site)) == set(NODES)

    def test_what_ec2_refuses_for_its_rate_halves_the_budget_for_everybody(self) -> None:
        budget = FakeBudget()
        site = site_of(budget=budget)
        sleeper = Sleeper(site)
        site.sweep_edges = replace(site.sweep_edges, clock=sleeper.clock, sleep=sleeper.sleep)
        site.survey.trouble = {"attached": [refusal("RequestLimitExceeded", Trouble.THROTTLED)]}
        assert site.sweep()["DescribesThrottled"] == 1
        assert budget.throttlings == ["DescribeNetworkInterfaces"]

    def test_a_slot_that_is_reserved_is_not_asked_for_twice(self) -> None:
        budget = Recorder(wait=1.0)
        site = site_of(NODES[:1], budget=budget)
        sleeper = Sleeper(site)
        site.sweep_edges = replace(site.sweep_edges, clock=sleeper.clock, sleep=sleeper.sleep)
        counts = site.sweep()
        assert sum(budget.reserved.values()) == counts["DescribeCalls"] == len(sleeper.slept)


@dataclass
class Recorder:
    """A budget that gives every slot ``wait`` seconds from now, and remembers."""

    wait: float = 0.0
    reserved: Counter[str] = field(default_factory=Counter)
    priorities: set[Priority] = field(default_factory=set)

    def reserve(self, action: str, count: int, priority: Priority, now: float) -> Slot:
        self.reserved[action] += count
        self.priorities.add(priority)
        return Slot(now + self.wait)

    def waits(self, actions: frozenset[str], now: float) -> dict[str, float]:
        return dict.fromkeys(actions, 0.0)

    def throttled(self, action: str, now: float) -> None:
        """Nobody counts."""
