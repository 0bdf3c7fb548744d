"""Claims in the table (a DynamoDB emulation): no interface is ever claimed twice, whoever dies or races."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from berth.model import InterfaceView
from berth.standby_items import REAPER, StandbyTable
from berth.standby_stock import Creating, DynamoStock
from berth.standby_store import DynamoStandby
from berth.store import DynamoStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.control.fakes import ARN_PREFIX, NODE
from tests.unit.dynamo import new_tables

POOL, SUBNET, NOW = "0123456789abcdef", "subnet-a", 1_000_000.0
OTHER = NODE[:-1] + "1"


def interface(number: int, pool: str = POOL) -> InterfaceView:
    return InterfaceView(
        id=f"eni-{hashlib.sha256(bytes([number])).hexdigest()[:17]}",
        mac=f"06:00:00:00:00:{number:02x}",
        subnet_id=SUBNET,
        vpc_id="vpc-1",
        zone="eu-west-1a",
        primary_address=f"10.0.1.{number}",
        prefixes=(f"10.0.{number}.16/28",),
        groups=("sg-1",),
        cluster="demo",
        created_at=NOW - 500,
        standby=pool,
    )


class Pools:
    """Both sides of one table."""

    def __init__(self, client: Any, table: str) -> None:
        self.client, self.table = client, table
        self.nodes = DynamoStandby(client, table, lambda i: ARN_PREFIX + i, {SUBNET: [POOL]})
        self.stock = DynamoStock(client, table)

    def stocked(self, count: int) -> list[InterfaceView]:
        made = [interface(n) for n in range(1, count + 1)]
        for one in made:
            assert self.stock.add(one, NOW)
        return made

    def claimer(self, wanted: InterfaceView) -> str:
        items, _ = self.stock.items(POOL)
        return next(i.claimed_by for i in items if i.interface.id == wanted.id)


@pytest.fixture(scope="module")
def make() -> Iterator[Callable[[], Pools]]:
    with new_tables() as new:
        yield lambda: Pools(*new())


@pytest.fixture
def pools(make: Callable[[], Pools]) -> Pools:
    return make()


def test_what_is_ready_is_a_candidate_with_all_its_addresses(pools: Pools) -> None:
    made = pools.stocked(3)
    found = pools.nodes.candidates(frozenset({SUBNET, "subnet-b"}), NOW)
    assert {i.id: i for i in found} == {i.id: i for i in made}
    assert pools.nodes.candidates(frozenset({"subnet-b"}), NOW) == ()


def test_candidates_are_a_few_of_many_and_not_always_the_same(pools: Pools) -> None:
    pools.stocked(60)
    seen = [frozenset(i.id for i in pools.nodes.candidates(frozenset({SUBNET}), NOW)) for _ in range(12)]
    assert {len(s) for s in seen} == {8}
    assert len(set(seen)) > 1


def test_a_pool_that_was_empty_is_not_asked_again_at_once(pools: Pools) -> None:
    assert pools.nodes.candidates(frozenset({SUBNET}), NOW) == ()
    (one,) = pools.stocked(1)
    assert pools.nodes.candidates(frozenset({SUBNET}), NOW + 1) == ()
    assert pools.nodes.candidates(frozenset({SUBNET}), NOW + 3) == (one,)


def test_a_claimed_one_is_the_claimers_until_it_is_settled(pools: Pools) -> None:
    (one,) = pools.stocked(1)
    assert pools.nodes.claim(one, NODE, NOW)
    assert pools.nodes.candidates(frozenset({SUBNET}), NOW) == ()
    assert pools.nodes.claimed([NODE, OTHER]) == {NODE: (one,)}
    assert pools.nodes.claim(one, NODE, NOW), "one's own again: the answer to the first may have been lost"
    assert not pools.nodes.claim(one, OTHER, NOW)
    assert pools.nodes.claimed([OTHER]) == {}
    pools.nodes.settle(one, NODE, NOW)
    pools.nodes.settle(one, NODE, NOW)
    assert pools.nodes.claimed([NODE]) == {}


def test_a_nodes_state_says_whether_there_are_claims_to_be_read(pools: Pools) -> None:
    store = DynamoStore(pools.client, pools.table)
    (one,) = pools.stocked(1)
    assert not store.load([ARN_PREFIX + NODE])[ARN_PREFIX + NODE].claims
    assert pools.nodes.claim(one, NODE, NOW)
    states = store.load([ARN_PREFIX + NODE, ARN_PREFIX + OTHER])
    assert [s.claims for s in states.values()] == [True, False]
    pools.nodes.settle(one, NODE, NOW)
    assert not store.load([ARN_PREFIX + NODE])[ARN_PREFIX + NODE].claims


def test_a_settled_one_never_comes_back_to_its_pool_by_a_describe_that_lags(pools: Pools) -> None:
    (one,) = pools.stocked(1)
    pools.nodes.claim(one, NODE, NOW)
    pools.nodes.settle(one, NODE, NOW)
    assert not pools.stock.add(one, NOW)
    assert pools.nodes.candidates(frozenset({SUBNET}), NOW) == ()
    assert not pools.nodes.claim(one, OTHER, NOW)


def test_settling_leaves_nothing_in_the_nodes_own_items(pools: Pools) -> None:
    first, second = pools.stocked(2)
    for one in (first, second):
        pools.nodes.claim(one, NODE, NOW)
    pools.nodes.settle(first, NODE, NOW)
    assert pools.nodes.claimed([NODE]) == {NODE: (second,)}
    pools.nodes.settle(second, NODE, NOW)
    items = pools.client.scan(TableName=pools.table)["Items"]
    assert {i["node"]["S"] for i in items} == {f"standby#{POOL}"}


def test_what_is_condemned_no_node_gets_and_what_a_node_has_is_not_condemned(pools: Pools) -> None:
    first, second = pools.stocked(2)
    assert pools.stock.condemn(first, NOW)
    assert not pools.nodes.claim(first, NODE, NOW)
    assert pools.nodes.claim(second, NODE, NOW)
    assert not pools.stock.condemn(second, NOW)
    assert [pools.claimer(i) for i in (first, second)] == [REAPER, NODE]


def test_an_interface_that_is_not_in_its_pool_cannot_be_claimed(pools: Pools) -> None:
    assert not pools.nodes.claim(interface(9), NODE, NOW)
    assert pools.client.scan(TableName=pools.table)["Items"] == []


def test_a_process_that_dies_between_pointer_and_claim_has_claimed_nothing(pools: Pools, monkeypatch: Any) -> None:
    (one,) = pools.stocked(1)

    def die(*_: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StandbyTable, "take", die)
        with pytest.raises(KeyboardInterrupt):
            pools.nodes.claim(one, NODE, NOW)
    assert pools.nodes.claimed([NODE]) == {}
    assert pools.nodes.claim(one, OTHER, NOW)
    assert pools.nodes.claimed([NODE, OTHER]) == {OTHER: (one,)}


def test_an_item_is_forgotten_only_as_it_was_read(pools: Pools) -> None:
    pools.stocked(1)
    (before,), _ = pools.stock.items(POOL)
    pools.nodes.claim(before.interface, NODE, NOW)
    assert not pools.stock.forget(before)
    (after,), _ = pools.stock.items(POOL)
    assert pools.stock.forget(after)
    assert pools.stock.items(POOL) == ((), Creating())


def test_creations_are_noted_beside_the_interfaces(pools: Pools) -> None:
    pools.stock.note_creating(POOL, Creating(("a", "b"), NOW))
    pools.stocked(1)
    items, creating = pools.stock.items(POOL)
    assert (len(items), creating) == (1, Creating(("a", "b"), NOW))
    assert len(pools.nodes.candidates(frozenset({SUBNET}), NOW)) == 1
    pools.stock.note_creating(POOL, Creating())
    assert pools.stock.items(POOL)[1] == Creating()


def test_the_registry_knows_every_pool_and_what_was_told_last(pools: Pools) -> None:
    assert pools.stock.pools() == frozenset()
    pools.stock.register(["a", "b"])
    pools.stock.unregister(["a"])
    assert pools.stock.pools() == {"b"}
    assert [pools.stock.news(t) for t in ("x", "x", "", "x")] == [True, False, True, True]


def test_many_at_once_never_claim_the_same_one_and_lose_none(pools: Pools) -> None:
    made = pools.stocked(12)
    nodes = [f"i-{n:017x}" for n in range(16)]
    start = threading.Barrier(len(nodes))

    def run(node: str) -> str | None:
        start.wait()
        for look in range(20):
            for candidate in pools.nodes.candidates(frozenset({SUBNET}), NOW + 3 * look):
                if pools.nodes.claim(candidate, node, NOW):
                    return candidate.id
        return None

    with ThreadPoolExecutor(len(nodes)) as executor:
        got = [eni for eni in executor.map(run, nodes) if eni]
    assert len(got) == len(set(got))
    assert set(got) == {i.id for i in made}, "none is left while somebody wants one"
    found = pools.nodes.claimed(nodes)
    assert sorted(i.id for views in found.values() for i in views) == sorted(got)


WHO = st.sampled_from([NODE, OTHER, REAPER])
STEP = st.one_of(
    st.tuples(st.just("claim"), WHO, st.integers(1, 3)),
    st.tuples(st.just("settle"), WHO, st.integers(1, 3)),
    st.tuples(st.just("add"), st.just(""), st.integers(1, 3)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=14))
def test_whatever_is_tried_an_interface_has_one_owner_for_ever(
    make: Callable[[], Pools], steps: list[tuple[str, str, int]]
) -> None:
    pools, owner = make(), dict[str, str]()
    for what, who, n in steps:
        one = interface(n)
        if what == "add":
            pools.stock.add(one, NOW)
        elif what == "claim":
            done = pools.stock.condemn(one, NOW) if who == REAPER else pools.nodes.claim(one, who, NOW)
            assert not done or owner.setdefault(one.id, who) == who, f"{one.id} claimed twice: {steps}"
        elif who == REAPER:
            pools.stock.deleted(one, NOW)
        else:
            pools.nodes.settle(one, who, NOW)
    for node in (NODE, OTHER):
        for held in pools.nodes.claimed([node]).get(node, ()):
            assert owner[held.id] == node
