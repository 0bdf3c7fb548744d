"""The table: the same promises of the real store (on a DynamoDB emulation) and of the one the other tests use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from berth.buckets import Reservation
from berth.calls import Attach, CreateInterface, Unassign
from berth.contract import Order, Record, Report, Told
from berth.events import Signal
from berth.intents import decode_intents, encode_intents
from berth.model import Attachment, Intent, InterfaceView, Notes, Outcome
from berth.node_items import Heard
from berth.store import DynamoStore, RevisionConflictError, Store

from tests.unit.control.fakes import ARN, FakeStore, Machine
from tests.unit.dynamo import new_tables

OTHER = ARN + "0"
INTERFACE = InterfaceView(
    "eni-1", "06:00:00:00:00:01", "subnet-a", "vpc-1", "az-a", "10.0.1.4", ("10.0.1.5",), ("10.0.1.16/28",), ("sg-1",),
    Attachment("attach-1", "i-1", 1), "demo", "i-1", 5.0,
)  # fmt: skip
INTENTS = (
    Intent("t1", CreateInterface("subnet-a", ("sg-1",), prefixes=2), 1.0),
    Intent("t2", Unassign("eni-1", ("10.0.1.16/28",)), 2.5),
    Intent("t3", Attach("eni-1", 1), 3.0, Outcome(INTERFACE, "attach-1", ("10.0.1.16/28",)), 4.0),
)


@pytest.fixture(scope="module")
def table() -> Iterator[Callable[[], DynamoStore]]:
    with new_tables() as new:
        yield lambda: DynamoStore(*new())


@pytest.fixture(params=["dynamodb", "fake"])
def store(request: pytest.FixtureRequest, table: Callable[[], DynamoStore]) -> Store:
    return table() if request.param == "dynamodb" else FakeStore(Machine())


def report(boot: int, sequence: int) -> Report:
    return Report(Order(boot, sequence), 0, in_use=sequence)


def test_what_was_never_written_is_empty(store: Store) -> None:
    state = store.load([ARN])[ARN]
    assert (state.record, state.report, state.intents, state.notes, state.buried) == (None, None, (), Notes(), False)


def test_what_is_saved_is_loaded(store: Store) -> None:
    notes = Notes(absent_since=1.5, next_look=2.5, looks=3, unmet=4, problems="p")
    store.save(ARN, Record(ARN, 1), (("1:a", 1),), notes)
    store.save_intents(ARN, INTENTS)
    assert store.accept_report(ARN, report(1, 1))
    state = store.load([ARN, OTHER])[ARN]
    assert (state.record, state.marked, state.notes) == (Record(ARN, 1), (("1:a", 1),), notes)
    assert (state.intents, state.report) == (INTENTS, report(1, 1))


def test_what_is_noted_beside_a_report_is_read_again(store: Store) -> None:
    heard = Heard(50.5, Told("boot-1", 7), 40.25)
    store.accept_report(ARN, report(1, 1), heard)
    assert store.load([ARN])[ARN].heard == heard


def test_more_nodes_than_one_batch_are_loaded(store: Store) -> None:
    arns = [f"{ARN}{n}" for n in range(70)]
    for n, arn in enumerate(arns):
        store.save(arn, Record(arn, n + 1), (), Notes())
    loaded = store.load(arns)
    assert [s.record.revision for s in loaded.values() if s.record] == list(range(1, 71))


def test_a_revision_stands_for_one_content_so_that_a_successors_record_is_not_put_back(store: Store) -> None:
    store.save(ARN, Record(ARN, 3, no_snat_cidrs=("10.0.0.0/16",)), (), Notes())
    with pytest.raises(RevisionConflictError):
        store.save(ARN, Record(ARN, 3), (), Notes())


def test_a_revision_never_falls_but_may_stay(store: Store) -> None:
    store.save(ARN, Record(ARN, 3), (), Notes())
    store.save(ARN, Record(ARN, 3, accepted=Order(1, 1)), (), Notes())
    with pytest.raises(RevisionConflictError):
        store.save(ARN, Record(ARN, 2), (), Notes())
    state = store.load([ARN])[ARN]
    assert state.record == Record(ARN, 3, accepted=Order(1, 1))


@pytest.mark.parametrize(
    ("boot", "sequence", "newer"), [(1, 6, True), (2, 1, True), (1, 5, True), (1, 4, False), (0, 9, False)]
)
def test_an_older_report_replaces_none(store: Store, boot: int, sequence: int, newer: bool) -> None:
    store.accept_report(ARN, report(1, 5))
    assert store.accept_report(ARN, report(boot, sequence)) is newer
    kept = store.load([ARN])[ARN].report
    assert kept == (report(boot, sequence) if newer else report(1, 5))


def test_hints_are_kept_apart_from_what_the_holder_writes(store: Store) -> None:
    store.save(ARN, Record(ARN, 1), (), Notes())
    before = store.load([ARN])[ARN].notes
    assert store.hint(ARN, Signal("i", "spot", draining_until=100.0))
    assert store.hint(ARN, Signal("i", "request", requested=40, requested_until=200.0, requested_at=5.0))
    store.save(ARN, Record(ARN, 2), (), replace(before, looks=1))
    notes = store.load([ARN])[ARN].notes
    assert notes == Notes(requested=40, requested_until=200.0, draining_until=100.0, looks=1)


def hooked(at: float) -> Signal:
    return Signal("i", "hook", hook_group="nodes", hook_name="ready", hook_at=at)


def test_a_launch_hook_is_remembered_until_it_is_completed_whatever_the_holder_writes(store: Store) -> None:
    store.save(ARN, Record(ARN, 1), (), Notes())
    assert store.hint(ARN, hooked(100.0))
    store.save(ARN, Record(ARN, 2), (), Notes(looks=3))
    notes = store.load([ARN])[ARN].notes
    assert (notes.hook_group, notes.hook_name, notes.hook_at, notes.looks) == ("nodes", "ready", 100.0, 3)
    store.unhook(ARN, 100.0)
    assert store.load([ARN])[ARN].notes == Notes(looks=3)
    store.unhook(ARN, 100.0)


def test_completing_a_hook_does_not_forget_the_one_that_an_instance_waits_in_since(store: Store) -> None:
    store.save(ARN, Record(ARN, 1), (), Notes())
    store.hint(ARN, hooked(200.0))
    store.unhook(ARN, 100.0)
    assert store.load([ARN])[ARN].notes.hook_at == 200.0


def test_interfaces_nobody_wants_are_noted_since_when(store: Store) -> None:
    store.save(ARN, Record(ARN, 1), (), Notes(unwanted=(("eni-1", 5.0), ("eni-2", 7.5))))
    assert store.load([ARN])[ARN].notes.unwanted == (("eni-1", 5.0), ("eni-2", 7.5))


def test_a_node_that_is_not_known_takes_no_hints(store: Store) -> None:
    assert not store.hint(ARN, Signal("i", "spot", draining_until=100.0))
    store.bury(ARN, Record(ARN, 1), 9.0)
    assert not store.hint(ARN, Signal("i", "spot", draining_until=100.0))


def test_the_latest_request_counts_whatever_order_they_come_in(store: Store) -> None:
    store.save(ARN, Record(ARN, 1), (), Notes())
    assert store.hint(ARN, Signal("i", "request", requested=40, requested_until=200.0, requested_at=5.0))
    assert not store.hint(ARN, Signal("i", "request", requested=10, requested_until=900.0, requested_at=4.0))
    assert store.load([ARN])[ARN].notes == Notes(requested=40, requested_until=200.0)
    assert store.hint(ARN, Signal("i", "request", requested=40, requested_until=200.0, requested_at=5.0))
    assert store.hint(ARN, Signal("i", "request", requested=1, requested_until=300.0, requested_at=6.0))
    assert store.load([ARN])[ARN].notes == Notes(requested=1, requested_until=300.0)


def test_a_tombstone_keeps_the_revision_and_nothing_else(store: Store) -> None:
    store.save(ARN, Record(ARN, 5), (("x", 1),), Notes(looks=1))
    store.hint(ARN, Signal("i", "x", draining_until=100.0, requested=4, requested_until=100.0, requested_at=5.0))
    store.hint(ARN, hooked(5.0))
    store.accept_report(ARN, report(1, 1))
    store.save_intents(ARN, INTENTS)
    store.bury(ARN, Record(ARN, 6), 9.0)
    state = store.load([ARN])[ARN]
    assert (state.record, state.marked, state.notes, state.buried) == (Record(ARN, 6), (), Notes(), True)
    assert (state.report, state.intents) == (None, ())
    store.save(ARN, Record(ARN, 7), (), Notes())
    assert not store.load([ARN])[ARN].buried


def test_a_lease_is_held_by_one_and_knocks_are_counted(store: Store) -> None:
    assert store.take(ARN, "a", 0.0, 80.0)
    assert not store.take(ARN, "b", 10.0, 90.0)
    assert not store.take(ARN, "c", 10.0, 90.0)
    assert store.take(OTHER, "b", 10.0, 90.0)
    assert store.release(ARN, "a", 0) == 2
    assert store.release(ARN, "a", 2) is None
    assert store.take(ARN, "b", 10.0, 90.0)


def test_only_the_holder_lets_go(store: Store) -> None:
    store.take(ARN, "a", 0.0, 80.0)
    assert store.release(ARN, "b", None) is None
    assert not store.take(ARN, "b", 0.0, 80.0)
    assert store.release(ARN, "a", None) is None
    assert store.take(ARN, "b", 0.0, 80.0)


def test_a_lease_taken_by_an_attempt_whose_answer_was_lost_is_had(store: Store) -> None:
    """boto3 repeats the write: it must not meet itself and take itself for somebody else."""
    assert store.take(ARN, "a", 0.0, 80.0)
    assert store.take(ARN, "a", 1.0, 81.0)
    assert not store.take(ARN, "b", 1.0, 81.0)


def test_a_lease_let_go_by_an_attempt_whose_answer_was_lost_is_no_reason_to_look_again(store: Store) -> None:
    store.take(ARN, "a", 0.0, 80.0)
    assert store.release(ARN, "a", 0) is None
    assert store.release(ARN, "a", 0) is None
    store.take(ARN, "b", 0.0, 80.0)
    store.take(ARN, "c", 0.0, 80.0)
    assert store.release(ARN, "a", 0) is None  # it is another's by now, and those knocks are not for us


def test_a_lease_that_has_run_out_is_taken_over(store: Store) -> None:
    store.take(ARN, "a", 0.0, 80.0)
    store.take(ARN, "b", 10.0, 90.0)
    assert not store.take(ARN, "b", 80.0, 160.0)
    assert store.take(ARN, "b", 80.5, 160.0)
    assert store.release(ARN, "a", 0) is None
    assert store.release(ARN, "b", 0) is None
    assert store.take(ARN, "c", 81.0, 160.0)


def test_an_item_of_a_newer_version_is_broken_and_the_others_are_read(table: Callable[[], DynamoStore]) -> None:
    store = table()
    store.save(ARN, Record(ARN, 1, schema=2), (), Notes())
    store.save(OTHER, Record(OTHER, 1), (), Notes())
    loaded = store.load([ARN, OTHER])
    assert "schema" in loaded[ARN].broken
    assert loaded[OTHER].record == Record(OTHER, 1)


def test_intents_survive_json_and_newer_kinds_are_left_out() -> None:
    text = encode_intents(INTENTS)
    assert decode_intents(text) == INTENTS
    assert decode_intents(text.replace('"type":"Attach"', '"type":"Teleport"')) == INTENTS[:2]


def test_an_intent_with_a_field_of_a_newer_version_breaks_its_own_node_alone(table: Callable[[], DynamoStore]) -> None:
    store = table()
    store.save(OTHER, Record(OTHER, 1), (), Notes())
    store.save_intents(ARN, (Intent("t1", Attach("eni-1", 1), 1.0),))
    key = {"node": {"S": ARN}, "kind": {"S": "intents"}}
    text = encode_intents([Intent("t1", Attach("eni-1", 1), 1.0)]).replace('"device_index"', '"newer":1,"device_index"')
    store._table.put({**key, "body": {"S": text}})
    loaded = store.load([ARN, OTHER])
    assert "newer" in loaded[ARN].broken
    assert loaded[OTHER].record == Record(OTHER, 1)


def test_reserved_tokens_are_kept_with_the_intents_and_go_with_them(store: Store) -> None:
    slots = (Reservation("AttachNetworkInterface", 2, 1_700_000_000.25, 1_700_000_008.0),)
    store.save_intents(ARN, INTENTS, slots)
    state = store.load([ARN])[ARN]
    assert (state.intents, state.slots) == (INTENTS, slots)
    store.save_intents(ARN, INTENTS)
    assert store.load([ARN])[ARN].slots == ()


class Short:
    """A table that answers for one key at a time, and not at all while it is ``busy``."""

    def __init__(self, busy: int = 0) -> None:
        self.busy, self.asked = busy, 0

    def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        ((table, request),) = RequestItems.items()
        self.asked += 1
        answered = 0 if self.asked <= self.busy else 1
        keys = request["Keys"]
        left = {table: {"Keys": keys[answered:]}} if keys[answered:] else {}
        return {"Responses": {table: keys[:answered]}, "UnprocessedKeys": left}


def test_what_the_table_had_no_capacity_for_is_asked_for_again_after_ever_longer_pauses() -> None:
    pauses: list[float] = []
    store = DynamoStore(Short(busy=2), "nodes", pauses.append)  # type: ignore[arg-type]
    assert set(store.load([ARN])) == {ARN}
    assert len(pauses) == 5
    assert all(0.025 * 2**n <= pause <= 0.05 * 2**n for n, pause in enumerate(pauses))


def test_a_table_without_capacity_is_not_asked_for_ever() -> None:
    pauses: list[float] = []
    with pytest.raises(TimeoutError, match="4 items"):
        DynamoStore(Short(busy=99), "nodes", pauses.append).load([ARN])  # type: ignore[arg-type]
    assert sum(pauses) <= 3.2
