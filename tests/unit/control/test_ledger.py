"""The ledger's table, as the template makes it, on a DynamoDB emulation; and what its items say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
from berth.contract import PodLease
from berth.history import Answer, Heartbeat, Held, State, ask, histories, undecided
from berth.ledger import DAY, DynamoLedger, ItemsRefusedError
from berth.ledger_items import Closing, Fact, closing_item, latest, lease_item, read_closing, read_fact
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from tests.unit.dynamo import make_ledger

NODE, TABLE = "i-0123456789abcdef0", "ledger"
FACT = Fact(PodLease(0, "10.0.1.17", 100.5, namespace="default", name="web-1", uid="uid-1", epoch="boot-1"),
            NODE, "eni-1", "subnet-a", 101.0, 110.0)  # fmt: skip
END = replace(FACT, lease=replace(FACT.lease, ended=150.25), received=151.0, until=160.0)
CLOSING = Closing(NODE, "boot-1", 160.0, 200.0, "the node rebooted")


@pytest.fixture
def client() -> Iterator[Any]:
    """With the table and its indexes from ``template.yaml``."""
    with mock_aws():
        made = boto3.client("dynamodb", "eu-west-1", aws_access_key_id="test", aws_secret_access_key="test")
        make_ledger(made, TABLE)
        yield made


class Counted:
    """A client that counts what is asked of it, and gives some of the first batches back."""

    def __init__(self, client: Any, unprocessed: int = 0) -> None:
        self._client, self.batches, self._unprocessed = client, list[int](), unprocessed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def batch_write_item(self, RequestItems: Any) -> Any:  # noqa: N803 - boto3's own name
        ((table, requests),) = RequestItems.items()
        self.batches.append(len(requests))
        if self._unprocessed:
            self._unprocessed -= 1
            return {"UnprocessedItems": {table: requests}}
        return self._client.batch_write_item(RequestItems=RequestItems)


def rows(client: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.scan(TableName=TABLE)["Items"]
    return items


def test_facts_are_written_in_batches_of_25(client: Any) -> None:
    counted = Counted(client)
    facts = [replace(FACT, lease=replace(FACT.lease, address=f"10.0.1.{n}")) for n in range(60)]
    DynamoLedger(counted, TABLE, 90).write(facts)  # type: ignore[arg-type]
    assert counted.batches == [25, 25, 10]
    assert len(rows(client)) == 60


def test_one_batch_names_no_item_twice(client: Any) -> None:
    """BatchWriteItem would refuse all of it."""
    DynamoLedger(client, TABLE, 90).write([FACT, replace(FACT, received=105.0), END, END])
    assert len(rows(client)) == 2


def test_what_there_was_no_capacity_for_is_written_after_a_pause(client: Any) -> None:
    pauses: list[float] = []
    counted = Counted(client, unprocessed=2)
    DynamoLedger(counted, TABLE, 90, sleep=pauses.append).write([FACT])  # type: ignore[arg-type]
    assert (len(pauses), len(rows(client))) == (2, 1)
    with pytest.raises(TimeoutError, match="capacity"):
        DynamoLedger(Counted(client, 99), TABLE, 90, sleep=pauses.append).write([FACT])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x" * 2100, "\ud800"])
def test_what_dynamodb_will_never_take_is_told_from_trouble(client: Any, name: str) -> None:
    """Of an index's key of more than 2048 bytes moto makes nothing, so DynamoDB's answer is put in its place."""
    refusal = {"Error": {"Code": "ValidationException", "Message": "One or more parameter values were invalid"}}

    class Strict(Counted):
        def batch_write_item(self, RequestItems: Any) -> Any:  # noqa: N803 - boto3's own name
            if len(name) > 2048:
                raise ClientError(refusal, "BatchWriteItem")  # type: ignore[arg-type]
            return super().batch_write_item(RequestItems)

    with pytest.raises(ItemsRefusedError):
        DynamoLedger(Strict(client), TABLE, 90).write([replace(FACT, lease=replace(FACT.lease, name=name))])  # type: ignore[arg-type]


def test_an_end_outlives_its_begin_and_an_epochs_end_both(client: Any) -> None:
    """Or an ended lease would come to look like an open one."""
    DynamoLedger(client, TABLE, 90, clock=lambda: 1000.0).write([FACT, END], [CLOSING])
    expires = {i["lease"]["S"]: int(i["expires_at"]["N"]) - 1000 - 90 * DAY for i in rows(client)}
    assert [expires[k] / DAY for k in sorted(expires)] == [0, 1, 2]


def test_the_ledger_knows_which_leases_it_has_begun(client: Any) -> None:
    ledger = DynamoLedger(client, TABLE, 90)
    ledger.write([FACT])
    others = replace(END, instance_id="i-0fedcba9876543210"), replace(END, lease=replace(END.lease, began=99.0))
    assert ledger.begun([END, *others]) == {END}


def test_all_leases_of_an_address_begun_by_a_time_are_one_range_and_a_pods_too(client: Any) -> None:
    later = replace(FACT, lease=replace(FACT.lease, began=300.0, name="web-2", uid="uid-2"))
    DynamoLedger(client, TABLE, 90).write([FACT, END, later], [CLOSING])

    def found(key: str, value: str, at: float, index: str | None = None) -> int:
        query: dict[str, Any] = {
            "TableName": TABLE,
            "KeyConditionExpression": f"{key} = :key AND lease < :sort",
            "ExpressionAttributeValues": {":key": {"S": value}, ":sort": {"S": latest(at)}},
        }
        return int(client.query(**query | ({"IndexName": index} if index else {}))["Count"])

    assert [found("address", "10.0.1.17", at) for at in (100.499, 100.5, 299.9, 300.0)] == [0, 2, 2, 3]
    assert found("pod", "default/web-1", 1000.0, "pods") == 2
    assert found("uid", "uid-2", 1000.0, "uids") == 1


def test_a_pod_without_a_name_is_in_no_index() -> None:
    item = lease_item(replace(FACT, lease=replace(FACT.lease, name="", uid="")), 0.0)
    assert {"pod", "uid"}.isdisjoint(item)


TIMES = st.floats(0.001, 9e9).map(lambda t: round(t, 3))
TEXTS = st.text(min_size=0, max_size=20)


@given(began=TIMES, ended=st.just(0.0) | TIMES, name=TEXTS, namespace=TEXTS, uid=TEXTS, received=TIMES)
def test_items_are_read_as_they_were_written(
    began: float, ended: float, name: str, namespace: str, uid: str, received: float
) -> None:
    row = PodLease(0, "2001:db8::1", began, ended, 0.0, namespace, name, uid, "boot-1")
    fact = Fact(row, NODE, "eni-1", "", received, 5.0, 6.0)
    assert read_fact(lease_item(fact, 1.0)) == fact
    closing = Closing(NODE, "boot-1", began, ended, name)
    assert read_closing(closing_item(closing, 1.0)) == closing


@given(st.lists(TIMES, min_size=2, max_size=5))
def test_leases_sort_by_when_they_began(times: list[float]) -> None:
    keys = {t: lease_item(replace(FACT, lease=replace(FACT.lease, began=t)), 0.0)["lease"]["S"] for t in times}
    assert sorted(keys, key=lambda t: keys[t]) == sorted(keys)
    assert all(keys[t] < latest(t) for t in keys)


# ------------------------------------------------------------------------------------------------------ what they say


def one(*facts: Fact, closing: Closing | None = None, beat: Heartbeat | None = None) -> Held:
    closings = {(closing.instance_id, closing.epoch): closing} if closing else {}
    (lease,) = histories(facts, closings, {NODE: beat} if beat else {})
    return lease


def states(lease: Held, *times: float) -> list[str]:
    return [lease.at(t).value for t in times]


def test_a_lease_whose_end_was_told_is_held_from_begin_to_end() -> None:
    lease = one(FACT, END)
    assert states(lease, 100.4, 100.5, 150.24, 150.25) == ["over", "held", "held", "over"]
    assert states(one(END), 100.4, 100.5, 150.24, 150.25) == ["over", "held", "held", "over"]


def test_a_lease_is_named_by_whichever_item_has_a_name() -> None:
    nameless = replace(END, lease=replace(END.lease, namespace="", name="", uid=""))
    for lease in (one(nameless, FACT), one(FACT, nameless)):
        assert (lease.pod, lease.uid) == ("default/web-1", "uid-1")


def test_an_end_that_nobody_saw_leaves_a_gap() -> None:
    lease = one(replace(END, lease=replace(END.lease, held_until=120.0)))
    assert states(lease, 120.0, 120.1, 150.2, 150.25) == ["held", "unknown", "unknown", "over"]


def test_an_open_lease_is_held_up_to_its_nodes_last_report_and_unknown_after() -> None:
    lease = one(FACT, beat=Heartbeat("boot-1", 180.0))
    assert lease.live
    assert states(lease, 180.0, 180.1) == ["held", "unknown"]
    assert lease.at(190.0, now=190.0) is State.HELD, "it reports twice a minute: the present is as of a moment ago"
    assert lease.at(400.0, now=400.0) is State.UNKNOWN, "it has fallen silent"


def test_an_open_lease_of_an_epoch_that_is_over_is_bounded_by_it() -> None:
    lease = one(FACT, closing=CLOSING, beat=Heartbeat("boot-2", 900.0))
    assert states(lease, 160.0, 160.1, 199.9, 200.0) == ["held", "unknown", "unknown", "over"]
    assert (lease.live, lease.why) == (False, "the node rebooted")


def test_a_lease_that_goes_on_through_two_epochs_is_one() -> None:
    again = replace(FACT, lease=replace(FACT.lease, epoch="boot-2"), until=210.0)
    lease = one(FACT, again, closing=CLOSING, beat=Heartbeat("boot-2", 900.0))
    assert (lease.live, lease.held_until) == (True, 900.0)
    lease = one(FACT, again, closing=CLOSING)
    assert (lease.held_until, lease.over_by) == (210.0, 0.0), "what became of it after the second, nobody knows"


def test_a_lease_of_a_node_that_nothing_is_known_of_is_unknown_for_ever() -> None:
    lease = one(FACT)
    assert states(lease, 110.0, 110.1, 1e9) == ["held", "unknown", "unknown"]
    assert lease.why == "its node was never heard of again"


def test_only_leases_without_an_end_need_more_to_be_read() -> None:
    assert undecided([FACT, END]) == frozenset()
    assert undecided([FACT]) == {(NODE, "boot-1")}


def answer(leases: list[Held], at: float) -> Answer:
    return ask(leases, at)


def test_the_answer_is_held_none_unknown_or_conflict() -> None:
    ended, open_one = one(END), one(replace(FACT, lease=replace(FACT.lease, began=300.0)))
    assert answer([open_one, ended], 120.0) == Answer(State.HELD, "", (ended,))
    assert answer([open_one, ended], 200.0).state is State.NONE
    assert answer([open_one, ended], 200.0).leases == (ended,), "the last one before"
    unknown = answer([open_one, ended], 400.0)
    assert (unknown.state, unknown.leases) == (State.UNKNOWN, (open_one,))
    assert "never heard of again" in unknown.reason
    assert answer([], 5.0) == Answer(State.NONE, "no lease is recorded at that time")
    other = replace(ended, instance_id="i-0fedcba9876543210")
    assert answer([ended, other], 120.0).state is State.CONFLICT
    elsewhere = replace(other, subnet_id="subnet-b")
    assert answer([other, ended, elsewhere], 120.0).state is State.CONFLICT
    assert answer([ended, elsewhere], 120.0).state is State.HELD, "two networks may have one address each"


@pytest.mark.parametrize("subnet", ["subnet-a", "subnet-b"])
def test_a_lease_that_may_have_gone_on_is_shown_beside_one_that_was_held(subnet: str) -> None:
    elsewhere = replace(FACT, instance_id="i-0fedcba9876543210", subnet_id=subnet, until=0.0)
    held, unsure = one(END), one(replace(elsewhere, lease=replace(elsewhere.lease, began=50.0, name="web-0")))
    found = answer([held, unsure], 120.0)
    assert (found.state, found.leases) == (State.UNKNOWN, (held, unsure))
    assert "default/web-1 held it, and default/web-0 may have too" in found.reason


def test_a_node_that_lends_an_address_again_has_ended_the_lease_before() -> None:
    held = one(END)
    before = one(replace(FACT, lease=replace(FACT.lease, began=50.0), until=0.0))
    assert answer([held, before], 120.0) == Answer(State.HELD, "", (held,))
    unsure = replace(before, subnet_id="subnet-b")
    assert answer([held, unsure], 120.0).state is State.UNKNOWN
    other = replace(held, instance_id="i-0fedcba9876543210")
    assert answer([held, other, unsure], 120.0).leases == (held, other, unsure), "nor does a conflict hide it"
