"""Reports: who sent one is what SQS says, and only what the sender's own record lists is believed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from berth.buckets import Reservation
from berth.contract import Assignment, Interface, Order, PodRequest, Policy, Record, Report, Surrender, encode_report
from berth.ingest import MAX_REPORT_BYTES, ReportRefusedError, SentReport, believe, ingest, needs_look, read_report
from berth.model import Notes
from berth.store import NodeState

from tests.unit.control.fakes import ARN, ARN_PREFIX, NODE, FakeStore, Machine

MAC = "06:00:00:00:00:01"
BODY = encode_report(Report(Order(1, 1), 0, 0))


def record() -> Record:
    blocks = (Assignment("10.0.1.16/28", "1:a"), Assignment("10.0.1.32/28", "1:b"))
    interface = Interface("eni-1", MAC, 0, "subnet-a", "10.0.1.0/24", "10.0.1.1", "10.0.1.4", assignments=blocks)
    return Record(ARN, 1, interfaces=(interface,))


def test_the_sender_is_what_sqs_says() -> None:
    assert read_report(f"AROAEXAMPLEROLE:{NODE}", BODY).instance_id == NODE


@pytest.mark.parametrize(
    "sender",
    ["", NODE, "AIDAEXAMPLEUSER", "AROAEXAMPLEROLE:session", f"AROAEXAMPLEROLE:{NODE}x", f"AROAEXAMPLEROLE:{NODE}\n"],
)
def test_a_sender_that_is_no_instance_is_refused(sender: str) -> None:
    with pytest.raises(ReportRefusedError, match="no instance"):
        read_report(sender, BODY)


def test_a_malformed_report_is_refused_and_names_its_sender_and_field() -> None:
    with pytest.raises(ReportRefusedError, match=rf"{NODE}.*report\.in_use"):
        read_report(f"AROAEXAMPLEROLE:{NODE}", BODY.replace('"in_use":0', '"in_use":-1'))


def test_a_sender_without_a_record_is_looked_at_but_not_believed() -> None:
    store = FakeStore(Machine())
    intake = ingest(store, {NODE: ARN}, [SentReport(NODE, Report(Order(1, 1), 0, 0))])
    assert [s.instance_id for s in intake.signals] == [NODE]
    assert len(intake.refused) == 1
    assert store.items == {}


def test_a_buried_node_is_not_believed() -> None:
    store = FakeStore(Machine())
    store.bury(ARN, record(), 1.0)
    intake = ingest(store, {NODE: ARN}, [SentReport(NODE, Report(Order(1, 1), 0, 0))])
    assert len(intake.refused) == 1


def test_reports_are_kept_in_order_whatever_order_they_come_in() -> None:
    store = FakeStore(Machine())
    store.save(ARN, record(), (), Notes())
    reports = [SentReport(NODE, Report(Order(1, n), 0, in_use=n)) for n in (3, 1, 2)]
    intake = ingest(store, {NODE: ARN}, reports)
    kept = store.load([ARN])[ARN].report
    assert kept is not None
    assert (kept.in_use, len(intake.signals), intake.older) == (3, 1, ())
    assert len(ingest(store, {NODE: ARN}, reports[1:2]).older) == 1


def test_a_new_boot_comes_after_every_sequence_of_the_old_one() -> None:
    store = FakeStore(Machine())
    store.save(ARN, record(), (), Notes())
    ingest(store, {NODE: ARN}, [SentReport(NODE, Report(Order(1, 99), 0, in_use=1))])
    intake = ingest(store, {NODE: ARN}, [SentReport(NODE, Report(Order(2, 1), 0, in_use=2))])
    assert intake.older == ()


def test_the_same_report_again_is_looked_at_again() -> None:
    """Its first look may have failed: SQS delivers the message once more."""
    store = FakeStore(Machine())
    store.save(ARN, record(), (), Notes())
    sent = [SentReport(NODE, Report(Order(1, 1), 0, 0))]
    ingest(store, {NODE: ARN}, sent)
    intake = ingest(store, {NODE: ARN}, sent)
    assert (len(intake.signals), intake.older) == (1, ())


def test_a_report_says_nothing_about_another_node() -> None:
    store = FakeStore(Machine())
    other = "i-0123456789abcdef1"
    store.save(ARN_PREFIX + other, record(), (), Notes())
    ingest(store, {NODE: ARN}, [SentReport(NODE, Report(Order(1, 1), 0, 0))])
    assert store.load([ARN_PREFIX + other])[ARN_PREFIX + other].report is None


def test_only_what_the_record_lists_is_believed() -> None:
    mine = Surrender(MAC, "10.0.1.16/28", "1:a")
    report = Report(
        Order(1, 1),
        1,
        in_use=5000,
        waiting=("a", "b", "a"),
        cooling=5000,
        unusable=("10.0.1.32/28", "10.9.9.0/28"),
        surrendered=(
            mine,
            mine,
            Surrender(MAC, "10.9.9.0/28", "1:a"),
            Surrender(MAC, "10.0.1.32/28", "1:a"),
            Surrender("06:00:00:00:00:02", "10.0.1.16/28", "1:a"),
        ),
    )
    believed = believe(report, record())
    assert believed is not None
    assert believed.surrendered == (mine,)
    assert believed.unusable == ("10.0.1.32/28",)
    assert (believed.in_use, believed.cooling, believed.waiting) == (32, 32, ("a", "b"))


def test_no_report_and_no_record_are_nothing_to_believe() -> None:
    assert believe(None, record()) is None
    assert believe(Report(Order(1, 1), 0, in_use=3), None) == Report(Order(1, 1), 0, in_use=0)


@pytest.mark.parametrize(
    "body",
    [
        '{"schema": ' + "9" * 5000 + "}",
        json.dumps({"schema": 1, "order": {"boot": 10**40, "sequence": 1}, "acknowledged_revision": 0, "in_use": 0}),
        json.dumps({"schema": 1, "order": {}, "acknowledged_revision": 0, "in_use": 0, "more": "x" * MAX_REPORT_BYTES}),
    ],
    ids=["a number too long to read", "a counter that DynamoDB cannot hold", "larger than an item"],
)
def test_a_report_that_would_fail_the_others_of_its_batch_is_refused(body: str) -> None:
    with pytest.raises(ReportRefusedError):
        read_report(f"AROAX:{NODE}", body)


# ---------------------------------------------------------------------------- which reports are worth a look

SETTLED = NodeState(record=replace(record(), policy=Policy(warm_addresses=8, max_pods=30), accepted=Order(1, 1)))


def quiet(**changes: object) -> Report:
    """A report of a node that has all it needs: 32 addresses, 24 in use, 8 to be kept warm."""
    return replace(Report(Order(1, 2), 1, in_use=22, cooling=2), **changes)  # type: ignore[arg-type]


def test_a_node_that_has_all_it_needs_is_not_looked_at_for_its_report() -> None:
    store = FakeStore(Machine())
    store.save(ARN, SETTLED.record or record(), (), Notes())
    intake = ingest(store, {NODE: ARN}, [SentReport(NODE, quiet())])
    kept = store.load([ARN])[ARN].report
    assert (intake.signals, intake.quiet, kept) == ((), 1, quiet())


def test_pods_that_come_and_go_within_the_supply_are_nothing_to_look_for() -> None:
    assert not any(needs_look(quiet(in_use=n, cooling=22 - n), SETTLED) for n in range(23))


@pytest.mark.parametrize(
    "changes",
    [
        {"in_use": 25, "cooling": 3},
        {"cooling": 3},
        {"waiting": ("pod",)},
        {"unusable": ("10.0.1.32/28",)},
        {"surrendered": (Surrender(MAC, "10.0.1.32/28", "1:b"),)},
        {"order": Order(2, 1)},
    ],
    ids=[
        "warm too few",
        "too many cool",
        "a pod waits",
        "metadata lacks a block",
        "a block to give back",
        "a new boot",
    ],
)
def test_a_report_that_asks_for_something_is_looked_at(changes: dict[str, object]) -> None:
    assert needs_look(quiet(**changes), SETTLED)


@pytest.mark.parametrize(
    "notes",
    [
        Notes(unmet=3),
        Notes(wanted_since=1.0),
        Notes(hook_name="launch", hook_group="workers", hook_at=1.0),
        Notes(unwanted=(("eni-2", 1.0),)),
    ],
    ids=["unmet demand", "addresses on their way", "a launch hook", "an unwanted interface"],
)
def test_a_node_that_something_is_noted_of_is_looked_at_with_its_next_report(notes: Notes) -> None:
    assert needs_look(quiet(), replace(SETTLED, notes=notes))


def test_a_node_that_holds_a_slot_is_looked_at_when_it_comes_up_and_not_for_each_report_until_then() -> None:
    slot = Reservation("AssignPrivateIpAddresses", 1, at=1_000.0, until=1_018.0)
    short = quiet(waiting=("pod",), order=Order(2, 1))
    state = replace(SETTLED, slots=(slot,), notes=Notes(wanted_since=890.0))
    assert not needs_look(short, state, now=900.0)
    assert needs_look(short, state, now=1_001.0)
    assert needs_look(short, state)
    given_back = replace(short, surrendered=(Surrender(MAC, "10.0.1.32/28", "1:b"),))
    assert needs_look(given_back, state, now=900.0)


def test_a_release_under_way_is_looked_at_until_it_is_over() -> None:
    """Also when the agent lists it no more: then the mark is to be taken off."""
    settled = SETTLED.record
    assert settled is not None
    interface = settled.interfaces[0]
    marked = tuple(replace(a, releasing=a.id == "1:b") for a in interface.assignments)
    state = replace(SETTLED, record=replace(settled, interfaces=(replace(interface, assignments=marked),)))
    assert needs_look(quiet(), state)


def test_fewer_addresses_than_the_minimum_are_looked_at() -> None:
    settled = SETTLED.record
    assert settled is not None
    policy = Policy(warm_addresses=0, minimum_addresses=33, max_pods=110)
    assert needs_look(quiet(in_use=0), replace(SETTLED, record=replace(settled, policy=policy)))
    first, *rest = settled.interfaces
    first = replace(first, ipv6_assignments=(Assignment("2001:db8::/80", "1:c"),))
    ipv6 = replace(settled, policy=replace(policy, ip_families="ipv6"), interfaces=(first, *rest))
    assert not needs_look(quiet(in_use=0), replace(SETTLED, record=ipv6))


@pytest.mark.parametrize("late", [Order(1, 1), Order(1, 2)])
def test_a_report_of_an_earlier_life_is_not_taken_for_the_agents_word_whatever_its_number(late: Order) -> None:
    """An agent that lost its files before its reports were taken uses their numbers again."""
    store = FakeStore(Machine())
    store.save(ARN, record(), (), Notes())
    asked = (PodRequest("pod-1/eth0", groups="web"),)
    now = Report(Order(1, 1), 0, 0, epoch="b-2", epoch_since=50.0, requests=asked)
    ingest(store, {NODE: ARN}, [SentReport(NODE, now)])
    intake = ingest(store, {NODE: ARN}, [SentReport(NODE, Report(late, 0, 0, epoch="b-1", epoch_since=5.0))])
    kept = store.load([ARN])[ARN].report
    assert kept is not None
    assert (kept.requests, len(intake.older)) == (asked, 1)


def test_a_node_whose_reboot_set_its_clock_back_is_believed() -> None:
    store = FakeStore(Machine())
    store.save(ARN, record(), (), Notes())
    ingest(store, {NODE: ARN}, [SentReport(NODE, Report(Order(1, 9), 0, 0, epoch="b-1", epoch_since=5000.0))])
    ingest(store, {NODE: ARN}, [SentReport(NODE, Report(Order(2, 1), 0, 3, epoch="c-1", epoch_since=50.0))])
    kept = store.load([ARN])[ARN].report
    assert kept is not None
    assert kept.in_use == 3
