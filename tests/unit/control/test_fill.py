"""The filler: pools come to their level and stay there, bounded, whatever dies, races or is refused."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from berth import standby_work
from berth.brake import Level
from berth.budget import Priority, Slot
from berth.ec2_wire import Ec2Error, Trouble
from berth.fill import LEASE, fill
from berth.model import Attachment, InterfaceView, SubnetView
from berth.standby_ec2 import Boto3StandbyEc2, Pay, Places
from berth.standby_pools import StandbyPool, parse_pools
from berth.standby_stock import DynamoStock
from berth.standby_store import DynamoStandby
from berth.standby_work import FillEdges, NoTokenError
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from tests.unit.control.fakes import ARN_PREFIX, NODE, Died, FakeBus, FakeLooks, FakeStore, Machine, refusal, settings
from tests.unit.dynamo import new_tables

SUBNET, GROUP = "subnet-0123456789abcdef0", "sg-0123456789abcdef0"


def entry(count: int, most: int | None = None, prefixes: int = 1) -> str:
    return f"{SUBNET}/{GROUP}/prefixes={prefixes}/count={count}" + (f"/max={most}" if most is not None else "")


class FakeStandbyEc2:
    """Makes, shows and deletes. ``unseen`` ones are not described yet; ``refuse`` are errors of the next calls.

    ``pages`` is how many the listing of loose ones has.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.interfaces: dict[str, InterfaceView] = {}
        self.subnets = {SUBNET: SubnetView(SUBNET, "10.0.0.0/16", "vpc-1", "eu-west-1a", 60_000, True)}
        self.groups = frozenset({GROUP})
        self.unseen: set[str] = set()
        self.refuse: dict[str, list[Ec2Error]] = {}
        self.calls: list[str] = []
        self.loses_answer = False
        self.pages = 1
        self._made: dict[str, InterfaceView] = {}
        self._ids = itertools.count(1)

    def loose(self, clusters: Sequence[str], pay: Pay) -> tuple[InterfaceView, ...]:
        self._read(pay, "DescribeNetworkInterfaces", self.pages)
        seen = (i for i in self.interfaces.values() if i.id not in self.unseen)
        return tuple(i for i in seen if i.cluster in clusters and i.node is None and i.attachment is None)

    def shown(self, ids: Sequence[str], pay: Pay) -> dict[str, InterfaceView]:
        self._read(pay, "DescribeNetworkInterfaces")
        return {i: self.interfaces[i] for i in ids if i in self.interfaces}

    def places(self, subnet_ids: Iterable[str], group_ids: Iterable[str], pay: Pay) -> Places:
        self._read(pay, "DescribeSubnets")
        self._read(pay, "DescribeSecurityGroups")
        return Places({s: self.subnets[s] for s in subnet_ids if s in self.subnets}, self.groups & {*group_ids})

    def create(self, pool: StandbyPool, token: str, at: float) -> InterfaceView:
        self._begin("create")
        if token not in self._made:
            n = next(self._ids)
            made = InterfaceView(
                id=f"eni-{n:017x}",
                mac=f"06:00:00:00:{n // 256:02x}:{n % 256:02x}",
                subnet_id=pool.subnet_id,
                vpc_id="vpc-1",
                zone="eu-west-1a",
                primary_address=f"10.0.200.{n % 256}",
                prefixes=tuple(f"10.{n}.0.{16 * p}/28" for p in range(pool.prefixes)),
                groups=pool.groups,
                cluster=pool.cluster,
                created_at=float(int(at)),
                standby=pool.key,
            )
            self.interfaces[made.id] = self._made[token] = made
        if self.loses_answer:
            self.loses_answer = False
            raise refusal("ReadTimeoutError", Trouble.IN_DOUBT)
        self._machine.step()  # a process may die after EC2 has acted and before it heard of it
        return self._made[token]

    def delete(self, interface_id: str) -> None:
        self._begin("delete")
        if interface_id not in self.interfaces:
            raise refusal("InvalidNetworkInterfaceID.NotFound", Trouble.GONE)
        if self.interfaces[interface_id].attachment is not None:
            raise refusal("InvalidNetworkInterface.InUse", Trouble.STATE)
        del self.interfaces[interface_id]
        self._machine.step()

    def _read(self, pay: Pay, action: str, pages: int = 1) -> None:
        for _ in range(pages):
            pay(action)
            self._machine.step()

    def _begin(self, name: str) -> None:
        self._machine.step()
        self.calls.append(name)
        if self.refuse.get(name):
            raise self.refuse[name].pop(0)

    def attach(self, interface_id: str, instance_id: str = NODE, *, tagged: bool = False) -> None:
        at = Attachment("eni-attach-1", instance_id, 1)
        node = instance_id if tagged else None
        self.interfaces[interface_id] = replace(self.interfaces[interface_id], attachment=at, node=node)


class Tokens:
    """A budget with so many tokens of each action left for standby interfaces."""

    def __init__(self, left: int = 1000) -> None:
        self.left, self.describes = left, 1000
        self.asked: list[tuple[str, Priority]] = []
        self.told: list[str] = []

    def reserve(self, action: str, count: int, priority: Priority, now: float) -> Slot:
        self.asked.append((action, priority))
        if action.startswith("Describe"):
            self.describes -= count
            return Slot(now) if self.describes >= 0 else Slot(now + 5, reserved=False)
        self.left -= count
        return Slot(now) if self.left >= 0 else Slot(now + 5, reserved=False)

    def waits(self, actions: frozenset[str], now: float) -> Mapping[str, float]:
        return {}

    def throttled(self, action: str, now: float) -> None:
        self.told.append(action)


class Brakes:
    def __init__(self) -> None:
        self.at = Level.NORMAL

    def level(self) -> Level:
        return self.at


class Stepping:
    """A client whose process may die before each call."""

    def __init__(self, client: Any, machine: Machine) -> None:
        self._client, self._machine = client, machine

    def __getattr__(self, name: str) -> Any:
        def call(**parameters: Any) -> Any:
            self._machine.step()
            return getattr(self._client, name)(**parameters)

        return call


class Site:
    """A pool, an EC2 and a table."""

    def __init__(self, client: Any, table: str) -> None:
        self.machine = Machine()
        self.ec2, self.bus, self.looks = FakeStandbyEc2(self.machine), FakeBus(), FakeLooks()
        self.budget, self.brakes = Tokens(), Brakes()
        self.leases = FakeStore(Machine())
        self.stock = DynamoStock(Stepping(client, self.machine), table)  # type: ignore[arg-type]
        self.entries: tuple[str, ...] = (entry(3),)
        self._client, self._table = client, table
        self._tokens = itertools.count()

    @property
    def key(self) -> str:
        (pool,), _ = parse_pools(self.entries, ["demo"])
        return pool.key

    def run(self, seconds: float = 60.0) -> dict[str, int]:
        edges = FillEdges(
            ec2=self.ec2,
            stock=self.stock,
            leases=self.leases,
            looks=self.looks,
            bus=self.bus,
            settings=settings(standby_pools=self.entries),
            budget=self.budget,
            brake=self.brakes,
            clock=self.machine.clock,
            token=lambda: f"token-{next(self._tokens)}",
        )
        return dict(fill(edges, seconds))

    def nodes(self) -> DynamoStandby:
        return DynamoStandby(self._client, self._table, lambda i: ARN_PREFIX + i, {SUBNET: [self.key]})

    def ready(self, key: str = "") -> list[str]:
        """Ids that a node could claim."""
        items, _ = self.stock.items(key or self.key)
        return [i.interface.id for i in items if not i.claimed_by]

    def claim(self, instance_id: str = NODE) -> InterfaceView:
        """Some ready interface is claimed."""
        (found, *_) = self.nodes().candidates(frozenset({SUBNET}), self.machine.now)
        assert self.nodes().claim(found, instance_id, self.machine.now)
        return found

    def items(self) -> list[Any]:
        return list(self._client.scan(TableName=self._table)["Items"])


@pytest.fixture(scope="module")
def make() -> Iterator[Callable[[], Site]]:
    with new_tables() as new:
        yield lambda: Site(*new())


@pytest.fixture
def site(make: Callable[[], Site]) -> Site:
    return make()


class TestFilling:
    def test_a_pool_is_filled_to_its_count_each_with_one_call(self, site: Site) -> None:
        counts = site.run()
        assert counts["StandbyMade"] == 3
        assert site.ec2.calls == ["create"] * 3
        assert sorted(site.ready()) == sorted(site.ec2.interfaces)

    def test_a_full_pool_costs_no_mutating_call(self, site: Site) -> None:
        site.run()
        site.ec2.calls.clear()
        site.run()
        assert site.ec2.calls == []

    def test_what_nodes_take_is_made_again(self, site: Site) -> None:
        site.entries = (entry(3, most=9),)
        site.run()
        site.claim()
        site.run()
        assert len(site.ready()) == 3

    def test_no_more_than_the_most_are_not_wholly_a_nodes(self, site: Site) -> None:
        site.entries = (entry(3, most=4),)
        site.run()
        taken = [site.claim(), site.claim()]
        site.run()
        assert len(site.ready()) == 2, "two are claimed and not settled: four in all"
        for one in taken:
            site.nodes().settle(one, NODE, site.machine.now)
            site.ec2.attach(one.id, tagged=True)
        site.run()
        assert len(site.ready()) == 3

    def test_it_asks_for_tokens_at_the_lowest_priority_and_stops_without(self, site: Site) -> None:
        site.budget.left = 2
        counts = site.run()
        assert (len(site.ec2.interfaces), counts["StandbyOutOfTokens"]) == (2, 1)
        assert {p for _, p in site.budget.asked} == {Priority.STANDBY}

    @pytest.mark.parametrize("describes", [1, 2])
    def test_without_a_token_to_look_at_subnet_or_groups_nothing_is_made_or_deleted(
        self, site: Site, describes: int
    ) -> None:
        site.run()
        kept = site.ready()
        site.entries = (entry(5),)
        site.budget.describes = describes
        assert site.run()["StandbyOutOfTokens"] == 1
        assert site.ready() == kept
        site.budget.describes = 1000
        site.run()
        assert len(site.ready()) == 5

    def test_each_page_of_the_listing_draws_on_the_budget_and_half_a_listing_changes_nothing(self, site: Site) -> None:
        site.ec2.pages = 7
        site.run()
        assert Counter(action for action, _ in site.budget.asked) == {
            "DescribeNetworkInterfaces": 7,
            "DescribeSubnets": 1,
            "DescribeSecurityGroups": 1,
            "CreateNetworkInterface": 3,
        }
        made = site.ready()
        site.entries = (entry(1),)
        site.machine.now += 300
        site.ec2.unseen = set(made)
        site.budget.describes = 6
        assert site.run() == {"StandbyOutOfTokens": 1}
        assert (site.ready(), site.ec2.calls) == (made, ["create"] * 3)

    def test_a_run_makes_a_bounded_number_of_calls(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(standby_work, "CALLS_PER_RUN", 4)
        site.entries = (entry(30),)
        site.run()
        assert len(site.ec2.calls) == 4

    def test_it_ends_in_time(self, site: Site) -> None:
        site.run(seconds=15.02)
        assert len(site.ec2.interfaces) < 3
        site.run()
        assert len(site.ec2.interfaces) == 3

    def test_being_throttled_ends_the_run_and_is_told_to_the_budget(self, site: Site) -> None:
        site.ec2.refuse["create"] = [refusal("RequestLimitExceeded", Trouble.THROTTLED)]
        site.run()
        assert site.ec2.calls == ["create"]
        assert site.budget.told == ["CreateNetworkInterface"]

    def test_a_subnet_without_prefixes_does_not_stop_another_pool(self, site: Site) -> None:
        other = SUBNET[:-1] + "1"
        site.ec2.subnets[other] = replace(site.ec2.subnets[SUBNET], id=other)
        first, second = parse_pools([entry(2), entry(2).replace(SUBNET, other)], ["demo"])[0]
        site.entries = (first.entry, second.entry)
        site.ec2.refuse["create"] = [refusal("InsufficientCidrBlocks", Trouble.FRAGMENTED)]
        counts = site.run()
        assert counts["StandbyCallsFailed"] == 1
        assert (len(site.ready(first.key)), len(site.ready(second.key))) == (0, 2)

    def test_the_emptiest_pool_is_filled_first(self, site: Site) -> None:
        site.entries = (entry(2),)
        site.run()
        site.entries = (entry(4), entry(2, prefixes=2))
        site.budget.left = 1
        site.run()
        assert [len(i.prefixes) for i in site.ec2.interfaces.values()] == [1, 1, 2]

    def test_the_last_free_addresses_of_a_subnet_are_left_to_nodes(self, site: Site) -> None:
        site.ec2.subnets[SUBNET] = replace(site.ec2.subnets[SUBNET], free=6000)
        site.run()
        assert site.ec2.interfaces == {}

    @pytest.mark.parametrize("level", [Level.NO_RELEASE, Level.READ_ONLY])
    def test_the_brake_holds(self, site: Site, level: Level) -> None:
        site.entries = (entry(2),)
        site.run()
        site.brakes.at, site.entries = level, (entry(1),)
        site.run()
        assert len(site.ec2.interfaces) == 2
        site.entries = (entry(3),)
        site.run()
        assert len(site.ec2.interfaces) == (3 if level is Level.NO_RELEASE else 2)

    def test_two_runs_never_work_at_once(self, site: Site) -> None:
        site.leases.take(LEASE, "another", site.machine.now, site.machine.now + 90)
        assert site.run() == {}
        assert site.ec2.interfaces == {}


class TestReaping:
    def test_a_lowered_count_deletes_the_oldest_that_nobody_has(self, site: Site) -> None:
        site.entries = (entry(4, most=8),)
        site.run()
        mine = site.claim()
        site.entries = (entry(1, most=8),)
        counts = site.run()
        assert counts["StandbyReaped"] == 2
        assert mine.id in site.ec2.interfaces
        assert len(site.ready()) == 1

    def test_a_removed_pool_is_deleted_and_forgotten(self, site: Site) -> None:
        site.run()
        site.entries = ()
        site.run()
        assert site.ec2.interfaces == {}
        site.machine.now += 700
        site.run()
        site.run()
        assert site.stock.pools() == frozenset()
        assert [i["kind"]["S"] for i in site.items()] == ["pools"]

    def test_one_that_the_table_does_not_know_goes_with_its_pool(self, site: Site) -> None:
        site.run()
        for item in site.stock.items(site.key)[0]:
            site.stock.forget(item)
        site.entries = ()
        site.run()
        assert site.ec2.interfaces == {}

    def test_a_describe_that_lags_brings_nothing_deleted_back(self, site: Site) -> None:
        site.run()
        lagging = dict(site.ec2.interfaces)
        site.entries = (entry(1),)
        site.run()
        site.ec2.interfaces = lagging
        site.ec2.calls.clear()
        site.run()
        assert len(site.ready()) == 1
        assert site.ec2.calls == []

    @pytest.mark.parametrize("what", ["subnet", "group"])
    def test_what_is_not_allowed_any_more_is_deleted_and_told_once(self, site: Site, what: str) -> None:
        site.run()
        if what == "subnet":
            site.ec2.subnets[SUBNET] = replace(site.ec2.subnets[SUBNET], allowed=False)
        else:
            site.ec2.groups = frozenset()
        for _ in range(3):
            site.run()
        assert site.ec2.interfaces == {}
        (event,) = site.bus.named("Standby Pool Invalid")
        assert "berth:allowed" in event.detail["problems"][0]["message"]

    def test_a_bad_entry_is_told_and_reaps_nothing(self, site: Site) -> None:
        site.run()
        site.entries = (entry(3).replace("prefixes", "prefix"),)
        for _ in range(2):
            counts = site.run()
        assert len(site.ec2.interfaces) == 3
        assert counts["StandbyPoolsInvalid"] == 1
        (event,) = site.bus.named("Standby Pool Invalid")
        assert event.detail["problems"][0]["entry"] == site.entries[0]

    def test_a_node_that_claims_first_keeps_it(self, site: Site) -> None:
        site.entries = (entry(1),)
        site.run()
        condemn = site.stock.condemn
        claimed: list[InterfaceView] = []

        def race(interface: InterfaceView, now: float) -> bool:
            claimed.append(site.claim())
            return condemn(interface, now)

        site.stock.condemn = race  # type: ignore[method-assign]
        site.entries = (entry(0, most=1),)
        site.run()
        assert [i.id for i in claimed] == list(site.ec2.interfaces)

    def test_one_that_somebody_has_attached_by_hand_is_left_to_them(self, site: Site) -> None:
        site.entries = (entry(1),)
        site.run()
        (eni,) = site.ec2.interfaces
        site.entries = ()
        site.ec2.refuse["delete"] = [refusal("InvalidNetworkInterface.InUse", Trouble.STATE)]
        site.run()
        site.ec2.attach(eni, "i-stranger")
        site.ec2.calls.clear()
        site.run()
        assert site.ec2.calls == []


class TestLeftovers:
    def test_an_answer_that_was_lost_costs_no_second_interface(self, site: Site) -> None:
        site.ec2.loses_answer = True
        site.run()
        made = set(site.ec2.interfaces)
        site.ec2.unseen = made  # the describe lags as well
        site.run()
        site.ec2.unseen = set()
        site.run()
        assert len(site.ec2.interfaces) == 3
        assert sorted(site.ready()) == sorted(site.ec2.interfaces)

    def test_one_that_is_gone_is_no_longer_offered(self, site: Site) -> None:
        site.run()
        gone = site.ready()[0]
        del site.ec2.interfaces[gone]
        site.run()
        assert gone in site.ready(), "young: it may only not be described yet"
        site.machine.now += 200
        site.run()
        assert gone not in site.ready()
        site.run()
        assert len(site.ready()) == 3

    def test_a_claim_that_is_not_settled_has_its_node_looked_at(self, site: Site) -> None:
        site.run()
        site.claim()
        site.run()
        assert site.looks.asked == [], "its node is at work"
        site.machine.now += 130
        site.run()
        assert [(i, d) for i, _, d in site.looks.asked] == [(NODE, 0)]

    @pytest.mark.parametrize("how", ["deleted", "moved"])
    def test_a_claim_that_nobody_can_settle_ends(self, site: Site, how: str) -> None:
        site.run()
        claimed = site.claim()
        if how == "deleted":
            del site.ec2.interfaces[claimed.id]
        else:
            site.ec2.attach(claimed.id, "i-stranger")
        site.machine.now += 700
        counts = site.run()
        assert counts["StandbyClaimsLost"] == 1
        assert site.nodes().claimed([NODE]) == {}

    def test_one_whose_claimer_nobody_remembers_goes_back_to_its_pool(self, site: Site) -> None:
        site.run()
        claimed = site.claim("i-0000000000000beef")
        site.machine.now += 700
        site.run()
        assert claimed.id not in site.ready()
        site.machine.now += 3600
        for _ in range(2):
            site.run()
        assert claimed.id in site.ready()
        assert site.nodes().claimed(["i-0000000000000beef"]) == {}

    def test_a_settled_one_is_remembered_for_a_while_and_then_forgotten(self, site: Site) -> None:
        site.entries = (entry(1),)
        site.run()
        mine = site.claim()
        site.nodes().settle(mine, NODE, site.machine.now)
        site.run()  # the describe lags: it still shows the interface attached to nothing
        assert mine.id not in site.ready()
        site.ec2.attach(mine.id, tagged=True)
        site.machine.now += 700
        site.run()
        assert mine.id not in {i["kind"]["S"] for i in site.items()}

    def test_it_tells_what_each_pool_holds(self, site: Site, caplog: pytest.LogCaptureFixture) -> None:
        site.entries = (entry(2, prefixes=3),)
        site.run()
        with caplog.at_level("INFO", "berth.fill"):
            site.run()
        (line,) = [r for r in caplog.records if r.message == "standby pool"]
        assert (line.__dict__["ready"], line.__dict__["idle_addresses"]) == (2, 2 * 49)


class TestAbsence:
    def test_what_one_describe_leaves_out_is_asked_about_before_it_is_forgotten(self, site: Site) -> None:
        site.run()
        made = site.ready()
        site.machine.now += 300
        site.ec2.unseen = set(made)
        site.run()
        assert site.ready() == made
        assert len(site.ec2.interfaces) == len(made)

    def test_what_is_gone_is_forgotten_and_made_again(self, site: Site) -> None:
        site.run()
        (gone, *left) = site.ready()
        site.machine.now += 300
        del site.ec2.interfaces[gone]
        site.run()
        assert gone not in site.ready()
        assert set(left) < set(site.ready())
        assert len(site.ready()) == 1 + len(left)

    def test_without_a_token_to_ask_again_nothing_is_forgotten(self, site: Site) -> None:
        site.run()
        made = site.ready()
        site.machine.now += 300
        site.ec2.unseen = set(made)
        site.budget.describes = 1
        site.run()
        assert site.ready() == made


@pytest.mark.parametrize("scene", ["fill", "reap"])
def test_killed_between_any_two_steps_the_next_run_finishes(make: Callable[[], Site], scene: str) -> None:
    for step in itertools.count():
        site = make()
        site.entries = (entry(3),)
        if scene == "reap":
            site.run()
            site.entries = (entry(1),)
        wanted = 3 if scene == "fill" else 1
        site.machine.dies_at = site.machine.steps + step
        try:
            site.run()
            died = False
        except Died:
            died = True
        site.machine.restart()
        site.machine.now += 100  # the lease of the dead one is over
        for _ in range(3):
            site.run()
        assert len(site.ec2.interfaces) == wanted, f"step {step}"
        assert site.ready() == sorted(site.ec2.interfaces), f"step {step}"
        if not died:
            break


EVENT = st.one_of(
    st.tuples(st.just("count"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["claim", "settle", "run", "lose", "hide", "later", "throttle"]), st.just(0)),
)


@tried(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENT, max_size=16))
@pytest.mark.long
def test_whatever_happens_pools_are_bounded_and_nodes_keep_theirs(
    make: Callable[[], Site], events: list[tuple[str, int]]
) -> None:
    site, claimed = make(), list[InterfaceView]()
    for what, number in events:
        if what == "count":
            site.entries = (entry(number, most=max(number, 6)),)
        elif what == "claim" and site.ready():
            claimed.append(site.claim())
        elif what == "settle" and claimed:
            site.ec2.attach(claimed[0].id, tagged=True)
            site.nodes().settle(claimed.pop(0), NODE, site.machine.now)
        elif what == "lose":
            site.ec2.loses_answer = True
        elif what == "hide":
            site.ec2.unseen = set(site.ec2.interfaces)
        elif what == "later":
            site.machine.now += 300
            site.ec2.unseen = set()
        elif what == "throttle":
            site.ec2.refuse["create"] = [refusal("RequestLimitExceeded", Trouble.THROTTLED)]
        else:
            site.run()
        alive = [i for i in site.ec2.interfaces.values() if i.attachment is None]
        assert len(alive) <= 6, events
        assert {c.id for c in claimed} <= site.ec2.interfaces.keys(), events
    site.ec2.unseen, site.ec2.loses_answer, site.ec2.refuse = set(), False, {}
    for _ in range(4):
        site.machine.now += 60
        site.run()
    (pool,), _ = parse_pools(site.entries, ["demo"])
    loose = {i.id for i in site.ec2.interfaces.values() if i.attachment is None} - {c.id for c in claimed}
    assert set(site.ready()) == loose, events
    assert len(loose) == min(pool.count, pool.most - len(claimed)), events


class Pages:
    """An EC2 client whose describes have so many pages of nothing."""

    def __init__(self, pages: int) -> None:
        self._pages, self.asked = pages, 0

    def __getattr__(self, name: str) -> Any:
        def describe(Filters: object, MaxResults: int = 0, NextToken: str = "1") -> Mapping[str, Any]:  # noqa: N803
            self.asked += 1
            more = {} if int(NextToken) == self._pages else {"NextToken": str(int(NextToken) + 1)}
            return {"NetworkInterfaces": [], "Subnets": [], "SecurityGroups": [], **more}

        return describe


@pytest.mark.parametrize(
    ("look", "paid"),
    [
        (lambda ec2, pay: ec2.loose(["demo"], pay), {"DescribeNetworkInterfaces": 3}),
        (lambda ec2, pay: ec2.shown([f"eni-{n}" for n in range(201)], pay), {"DescribeNetworkInterfaces": 6}),
        (
            lambda ec2, pay: ec2.places(["subnet-1"], [f"sg-{n}" for n in range(201)], pay),
            {"DescribeSubnets": 3, "DescribeSecurityGroups": 6},
        ),
    ],
    ids=["loose", "shown", "places"],
)
def test_the_edge_pays_for_each_page_before_it_asks_for_it(
    look: Callable[[Boto3StandbyEc2, Pay], object], paid: dict[str, int]
) -> None:
    client: Any = Pages(3)
    ec2, spent = Boto3StandbyEc2(client, client), Counter[str]()

    def pay(action: str) -> None:
        assert spent.total() == client.asked
        spent[action] += 1

    look(ec2, pay)
    assert spent == paid

    def refuse(action: str) -> None:
        raise NoTokenError(action)

    client.asked = 0
    with pytest.raises(NoTokenError):
        look(ec2, refuse)
    assert client.asked == 0
