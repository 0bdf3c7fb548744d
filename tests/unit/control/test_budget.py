"""The token budget in a table: conditions are really evaluated, by moto's DynamoDB."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from berth.buckets import AHEAD_SECONDS, Bucket, Buckets
from berth.budget import SLOW_SECONDS, DynamoBudget, Priority, Slot
from botocore.exceptions import EndpointConnectionError
from moto import mock_aws

from tests.unit.control.fake_budget import FakeBudget
from tests.unit.dynamo import make_table

TABLE, SCOPE = "budget", "budget#123456789012#eu-west-1"
NOW = 1_700_000_000.0
ASSIGN, ATTACH, DESCRIBE = "AssignPrivateIpAddresses", "AttachNetworkInterface", "DescribeInstances"


class Client:
    """moto's DynamoDB, as far as it is not one: there each write is atomic, so writes take turns here. They are
    counted, and ``before`` is called before each of them."""

    def __init__(self, client: Any) -> None:
        self._client, self._turn = client, threading.Lock()
        self.writes = self.reads = 0
        self.before: Any = lambda: None

    def update_item(self, **parameters: Any) -> Any:
        self.before()
        with self._turn:
            self.writes += 1
            return self._client.update_item(**parameters)

    def batch_get_item(self, **parameters: Any) -> Any:
        self.reads += 1
        return self._client.batch_get_item(**parameters)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        real = boto3.client("dynamodb", region_name="eu-west-1")
        make_table(real, TABLE)
        yield Client(real)


def budget(client: Any, scope: str = SCOPE, **buckets: Any) -> DynamoBudget:
    return DynamoBudget(client, TABLE, scope, Buckets(**buckets))


def at_and_left(slot: Slot) -> tuple[float, float | None]:
    assert slot.reserved
    return slot.at, slot.left


def test_tokens_that_are_there_cost_one_write(client: Client) -> None:
    one = budget(client)
    assert at_and_left(one.reserve(ASSIGN, 1, Priority.NEW_NODE, NOW)) == pytest.approx((NOW, 89.0))
    assert at_and_left(one.reserve(ASSIGN, 10, Priority.WARM, NOW + 0.1)) == pytest.approx((NOW + 0.1, 79.5))
    assert client.writes == 2


def test_another_functions_tokens_count_and_cost_one_more_write_to_learn_of(client: Client) -> None:
    one, other = budget(client), budget(client)
    one.reserve(ATTACH, 10, Priority.NEW_NODE, NOW)
    assert other.reserve(ATTACH, 10, Priority.NEW_NODE, NOW).left == pytest.approx(20)
    assert client.writes == 3


def test_when_tokens_are_out_new_nodes_and_shortages_get_a_slot_each(client: Client) -> None:
    one = budget(client)
    for _ in range(4):
        one.reserve(ATTACH, 10, Priority.NEW_NODE, NOW)
    slots = [one.reserve(ATTACH, 1, p, NOW) for p in (Priority.SHORTAGE, Priority.NEW_NODE)]
    assert [s.at - NOW for s in slots] == pytest.approx([0.2, 0.4])
    assert all(s.reserved for s in slots)
    assert [s.left for s in slots] == pytest.approx([-1, -2])


def test_warm_up_and_standby_take_only_what_they_leave_enough_beside(client: Client) -> None:
    one = budget(client)
    given = [one.reserve(ASSIGN, 1, Priority.STANDBY, NOW).reserved for _ in range(30)]
    assert given == [True] * 22 + [False] * 8
    given = [one.reserve(ASSIGN, 1, Priority.WARM, NOW).reserved for _ in range(30)]
    assert given == [True] * 23 + [False] * 7
    assert at_and_left(one.reserve(ASSIGN, 1, Priority.SHORTAGE, NOW)) == pytest.approx((NOW, 44))


def test_who_finds_nothing_is_told_to_come_back_one_after_another(client: Client) -> None:
    one = budget(client)
    while one.reserve(DESCRIBE, 10, Priority.SHORTAGE, NOW).reserved:
        pass
    turns = [one.reserve(DESCRIBE, 1, Priority.SHORTAGE, NOW) for _ in range(40)]
    assert not any(t.reserved for t in turns)
    gaps = [later.at - sooner.at for sooner, later in itertools.pairwise(turns)]
    assert gaps == pytest.approx([0.05] * 39, abs=1e-5)


def put(client: Client, kind: str, tat: float) -> None:
    item = {"node": {"S": SCOPE}, "kind": {"S": kind}, "tat": {"N": f"{tat:.6f}"}}
    client._client.put_item(TableName=TABLE, Item=item)


def test_a_time_that_differs_from_now_by_less_than_the_table_keeps_is_now(client: Client) -> None:
    """What is compared here and in the table must be the same numbers, or each write is refused for what is not so."""
    now = next(t for t in (NOW + n * 3e-7 for n in range(100)) if float(f"{t:.6f}") > t)
    put(client, DESCRIBE, now)
    one = budget(client)
    one.waits(frozenset({DESCRIBE}), now)
    slot = one.reserve(DESCRIBE, 1, Priority.SHORTAGE, now)
    assert slot.reserved
    assert slot.at <= now, "it may be used at once"
    assert client.writes == 1


def test_who_loses_every_race_for_a_turn_comes_back_soon_and_not_in_a_quarter_of_an_hour(client: Client) -> None:
    one = budget(client)
    for _ in range(8):
        one.reserve(DESCRIBE, 10, Priority.SHORTAGE, NOW)
    times = itertools.cycle([NOW + 5, NOW - 5])
    client.before = lambda: put(client, f"{DESCRIBE} turns", next(times))
    assert one.reserve(DESCRIBE, 1, Priority.SHORTAGE, NOW).at < NOW + 10


def test_no_slot_is_given_further_ahead_than_a_message_can_be_delayed(client: Client) -> None:
    own = (("Slow", Bucket(20, 0.1)),)
    one = budget(client, own=own)
    slots = [one.reserve("Slow", 10, Priority.NEW_NODE, NOW) for _ in range(12)]
    assert [s.reserved for s in slots] == [True] * 10 + [False] * 2
    assert max(s.at for s in slots) <= NOW + AHEAD_SECONDS


def test_a_throttled_action_is_empty_and_costs_double_for_a_while_for_everybody(client: Client) -> None:
    one, other = budget(client), budget(client)
    one.throttled(ASSIGN, NOW)
    first = other.reserve(ASSIGN, 1, Priority.NEW_NODE, NOW)
    second = other.reserve(ASSIGN, 1, Priority.NEW_NODE, NOW)
    assert second.at - first.at == pytest.approx(0.4)
    later = NOW + SLOW_SECONDS
    assert at_and_left(other.reserve(ASSIGN, 1, Priority.NEW_NODE, later)) == pytest.approx((later, 89))


def test_throttling_gives_nothing_back(client: Client) -> None:
    one = budget(client)
    for _ in range(20):
        last = one.reserve(ATTACH, 10, Priority.NEW_NODE, NOW).at
    one.throttled(ATTACH, NOW)
    assert one.reserve(ATTACH, 1, Priority.NEW_NODE, NOW).at > last


def test_accounts_and_regions_have_budgets_of_their_own(client: Client) -> None:
    one, other = budget(client), budget(client, "budget#123456789012#us-east-1")
    one.throttled(ATTACH, NOW)
    assert other.reserve(ATTACH, 1, Priority.NEW_NODE, NOW).at == NOW


def test_waits_are_read_once_a_second_and_take_nothing(client: Client) -> None:
    one, other = budget(client), budget(client)
    other.throttled(ATTACH, NOW)
    for _ in range(3):
        assert one.waits(frozenset({ASSIGN, ATTACH}), NOW) == pytest.approx({ASSIGN: 0.0, ATTACH: 0.4})
    assert (client.reads, client.writes) == (1, 1)
    assert one.waits(frozenset({ATTACH}), NOW + 2) == {ATTACH: 0.0}
    assert client.reads == 2


def test_a_table_that_cannot_be_reached_stops_nobody(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise EndpointConnectionError(endpoint_url="https://dynamodb")

    client.before = broken
    one = budget(client)
    assert one.reserve(ASSIGN, 1, Priority.WARM, NOW) == Slot(NOW)
    one.throttled(ASSIGN, NOW)
    missing = DynamoBudget(boto3.client("dynamodb", region_name="eu-west-1"), "nowhere", SCOPE, Buckets())
    assert missing.reserve(ASSIGN, 1, Priority.WARM, NOW) == Slot(NOW)
    assert missing.waits(frozenset({ASSIGN}), NOW) == {ASSIGN: 0.0}
    assert len(caplog.records) == 4


def test_a_write_that_loses_a_race_is_decided_again_by_what_is_there(client: Client) -> None:
    """Between what is known and the write, others take, the bucket is throttled, and the idle time passes."""
    one, other = budget(client), budget(client)
    one.reserve(ATTACH, 1, Priority.NEW_NODE, NOW)

    def meanwhile() -> None:
        client.before = lambda: None
        other.throttled(ATTACH, NOW + 5)

    client.before = meanwhile
    assert one.reserve(ATTACH, 1, Priority.WARM, NOW + 5).reserved is False
    client.before = meanwhile
    slot = one.reserve(ATTACH, 1, Priority.SHORTAGE, NOW + 5)
    assert slot.at > NOW + 5


def test_alone_it_gives_what_the_arithmetic_gives(client: Client) -> None:
    one, fake, now = budget(client), FakeBudget(), NOW
    rng = random.Random(7)
    for _ in range(150):
        now += rng.choice([0.0, 0.1, 2.0])
        count, priority = rng.randint(1, 5), rng.choice(list(Priority))
        got, expected = one.reserve(ATTACH, count, priority, now), fake.reserve(ATTACH, count, priority, now)
        assert got.reserved == expected.reserved
        if got.reserved:
            assert got.at == pytest.approx(expected.at, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_concurrent_functions_never_take_more_than_a_bucket_holds(client: Client, seed: int) -> None:
    """Whatever the interleaving: of several threads, each with what it knows, that ask at the same moment."""
    bucket, threads = Buckets().of(ATTACH), 6
    given: list[tuple[float, float, int]] = []
    together = threading.Barrier(threads)

    def function(number: int) -> None:
        rng, moments, mine = random.Random(f"{seed} {number}"), random.Random(seed), budget(client)
        now = NOW
        for _ in range(6):
            now += moments.choice([0.0, 0.5, 3.0, 20.0])
            together.wait()
            for _ in range(4):
                count = rng.randint(1, 4)
                slot = mine.reserve(ATTACH, count, rng.choice(list(Priority)), now)
                if slot.reserved:
                    given.append((slot.at, now, count))

    started = [threading.Thread(target=function, args=(n,)) for n in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    given.sort()
    assert len(given) > 40, seed
    spent, refilled = bucket.tolerance * bucket.refill, bucket.refill
    for first, last in itertools.combinations_with_replacement(range(len(given)), 2):
        total = sum(n for _, _, n in given[first : last + 1])
        assert total <= spent + refilled * (given[last][0] - given[first][0]) + 1e-3, seed
    # work conserving: who got a slot would have had to wait as long if all had stood in one line
    tokens, counted_at = spent, NOW
    for at, now, count in given:
        tokens = min(spent, tokens + (max(now, counted_at) - counted_at) * refilled)
        counted_at = max(now, counted_at) + max(count - tokens, 0) / refilled
        tokens = max(tokens - count, 0)
        assert at <= counted_at + 1e-3, seed
