"""What reports tell of leases, how much of it is believed, and that a ledger in trouble stops nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from berth.contract import (
    Assignment,
    ContractError,
    Interface,
    Order,
    PodGrant,
    PodLease,
    PodRequest,
    Record,
    Report,
    Surrender,
    Told,
    decode_record,
    decode_report,
    encode_record,
    encode_report,
)
from berth.events import Signal
from berth.ingest import SentReport, ingest
from berth.ledger_items import Closing
from berth.model import Notes
from berth.reconcile import reconcile

from tests.unit.control.fake_ledger import FakeLedger
from tests.unit.control.fakes import ARN, NODE, FakeStore, Machine, Scene

MAC, BLOCK = "06:00:00:00:00:01", "10.0.1.16/28"
OTHER = "i-0fedcba9876543210"
BEGUN = PodLease(1, "10.0.1.17", 100.0, namespace="default", name="web-1", uid="uid-1")
ENDED = replace(BEGUN, id=2, ended=150.0)


def record(*blocks: str) -> Record:
    assignments = tuple(Assignment(b, f"1:{b}") for b in blocks)
    interface = Interface("eni-1", MAC, 0, "subnet-a", "10.0.1.0/24", "10.0.1.1", "10.0.1.4", assignments=assignments)
    six = (Assignment("2001:db8:1:2:3::/80", "1:six"),)
    return Record(ARN, 1, interfaces=(replace(interface, ipv6_assignments=six),))


class Site:
    """One node's items, the ledger, and its reports."""

    def __init__(self) -> None:
        self.store, self.ledger = FakeStore(Machine()), FakeLedger()
        self.store.save(ARN, record(BLOCK), (), Notes())

    def report(self, sequence: int, *rows: PodLease, **fields: Any) -> Report:
        told = max((r.id for r in rows), default=0)
        given: dict[str, Any] = {
            "epoch": "boot-1",
            "leases": rows,
            "leases_told": told,
            "leases_until": 200.0 + sequence,
        } | fields
        return Report(Order(1, sequence), 0, in_use=0, **given)

    def takes(self, *reports: Report, at: float = 1000.0) -> Any:
        return ingest(self.store, {NODE: ARN}, [SentReport(NODE, r, at) for r in reports], self.ledger)

    def takes_rows(self, sequence: int, *rows: PodLease, **fields: Any) -> Any:
        return self.takes(self.report(sequence, *rows, **fields))

    @property
    def told(self) -> Told:
        return self.store.load([ARN])[ARN].heard.told

    @property
    def names(self) -> list[tuple[str, float]]:
        return sorted((f.lease.name, f.lease.ended) for f in self.ledger.facts)


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_lease_is_kept_with_its_interface_and_acknowledged(site: Site) -> None:
    intake = site.takes_rows(1, BEGUN)
    (fact,) = site.ledger.facts
    assert fact.lease == replace(BEGUN, id=0, epoch="boot-1")
    assert (fact.instance_id, fact.interface_id, fact.subnet_id) == (NODE, "eni-1", "subnet-a")
    assert (fact.received, fact.until) == (1000.0, 201.0)
    assert site.told == Told("boot-1", 1)
    assert (intake.counts["LeasesWritten"], intake.counts["LeasesRefused"]) == (1, 0)


def test_an_ipv6_address_is_a_lease_like_any_other(site: Site) -> None:
    site.takes_rows(1, replace(BEGUN, address="2001:db8:1:2:3::5"))
    assert [f.interface_id for f in site.ledger.facts] == ["eni-1"]


def test_a_report_that_tells_nothing_new_writes_nothing(site: Site) -> None:
    """Thousands of nodes report twice a minute."""
    site.takes_rows(1, BEGUN)
    for sequence in range(2, 9):
        site.takes_rows(sequence, leases_told=1)
        site.takes_rows(sequence, BEGUN)
    assert site.ledger.writes == 1


def test_the_reports_of_a_batch_are_one_write(site: Site) -> None:
    site.takes(site.report(1, BEGUN), site.report(2, BEGUN, ENDED), site.report(3, ENDED))
    assert site.ledger.writes == 1
    assert site.names == [("web-1", 0.0), ("web-1", 150.0)]


def test_an_older_report_is_ignored_except_that_its_leases_count_once(site: Site) -> None:
    site.takes_rows(5)
    intake = site.takes_rows(4, BEGUN)
    assert len(intake.older) == 1
    assert site.names == [("web-1", 0.0)]
    assert site.told == Told("boot-1", 0), "an older report acknowledges nothing"
    site.takes(site.report(4, BEGUN))
    assert site.names == [("web-1", 0.0)]


def test_a_begin_that_comes_after_its_end_opens_nothing(site: Site) -> None:
    site.takes_rows(2, ENDED)
    site.takes(site.report(1, BEGUN))
    (lease,) = site.ledger.histories()
    assert (lease.over_by, lease.live) == (150.0, False)


def test_grants_and_a_pods_own_interface_survive_a_records_encoding() -> None:
    granted = PodGrant("c1/eth0", "10.0.1.17", "198.51.100.7", "eipalloc-1", "eni-2")
    grants = (granted, PodGrant("c2/eth0", problem="no address is left"))
    given = record(BLOCK)
    given = replace(given, grants=grants, interfaces=(replace(given.interfaces[0], pod="c1/eth0"),))
    assert decode_record(encode_record(given)) == given


@pytest.mark.parametrize(
    "row",
    [
        replace(BEGUN, address="10.0.1.4"),
        replace(BEGUN, address="10.0.1.40"),
        replace(BEGUN, address="10.0.2.17"),
        replace(ENDED, address="10.0.2.17"),
        replace(BEGUN, address="2001:db8:1:2:4::5"),
        replace(BEGUN, began=0.0),
        replace(BEGUN, began=1000.0 + 3600),
        replace(ENDED, ended=1000.0 + 3600),
        replace(ENDED, ended=99.0),
        replace(ENDED, held_until=151.0),
        replace(ENDED, held_until=99.0),
        replace(BEGUN, name="x" * 600),
        replace(BEGUN, name="\U0001f600" * 200),
        replace(BEGUN, uid="\ud800"),
        replace(BEGUN, namespace="\udfff"),
        replace(BEGUN, address="2001:db8:1:2:3::5%" + "z" * 2000),
    ],
)
def test_what_the_record_does_not_list_or_cannot_be_is_refused_and_not_asked_for_again(
    site: Site, row: PodLease
) -> None:
    intake = site.takes_rows(1, row)
    assert site.ledger.facts == []
    assert intake.counts["LeasesRefused"] == 1
    assert site.told.id == row.id


def test_an_end_is_believed_when_the_address_is_gone_if_the_ledger_has_its_begin(site: Site) -> None:
    """The block has left the record meanwhile: somebody took it away by hand."""
    site.takes_rows(1, BEGUN)
    site.store.save(ARN, replace(record(), revision=2), (), Notes())
    site.takes_rows(2, ENDED)
    (lease,) = site.ledger.histories()
    assert (lease.over_by, lease.interface_id) == (150.0, "eni-1")
    site.takes_rows(3, replace(ENDED, id=3, address="10.0.1.18"))
    assert len(site.ledger.histories()) == 1


def test_another_nodes_begin_is_no_evidence(site: Site) -> None:
    site.takes_rows(1, BEGUN)
    ((key, item),) = site.ledger.items.items()
    site.ledger.items = {(key[0], key[1].replace(NODE, OTHER)): item | {"node": {"S": OTHER}}}
    site.store.save(ARN, replace(record(), revision=2), (), Notes())
    intake = site.takes_rows(2, ENDED)
    assert intake.counts["LeasesRefused"] == 1


def test_a_ledger_in_trouble_keeps_no_pod_waiting_and_acknowledges_nothing(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.takes_rows(1, BEGUN)
    site.ledger.broken = True
    intake = site.takes_rows(2, ENDED, waiting=("pod",), surrendered=(Surrender(MAC, BLOCK, f"1:{BLOCK}"),))
    state = site.store.load([ARN])[ARN]
    assert len(intake.signals) == 1
    assert intake.counts["LedgerErrors"] == 1
    assert state.report is not None
    assert (state.report.order.sequence, state.report.waiting) == (2, ("pod",))
    assert state.report.surrendered == (), "nothing is taken back whose leases are not told"
    assert state.report.leases_until == 201.0, "what was told in full before stays so, and no more"
    assert site.told == Told("boot-1", 1)
    assert "could not be written" in caplog.text
    site.ledger.broken = False
    site.takes_rows(3, ENDED)
    assert (site.told, site.names[-1]) == (Told("boot-1", 2), ("web-1", 150.0))


def test_a_ledger_in_trouble_holds_surrenders_back_for_two_minutes_alone(site: Site) -> None:
    surrendered = (Surrender(MAC, BLOCK, f"1:{BLOCK}"),)

    def kept(sequence: int, at: float) -> tuple[Surrender, ...]:
        site.takes(site.report(sequence, replace(BEGUN, id=sequence), surrendered=surrendered), at=at)
        report = site.store.load([ARN])[ARN].report
        assert report is not None
        return report.surrendered

    site.ledger.broken = True
    assert [kept(1, 1000.0), kept(2, 1119.0), kept(3, 1120.0)] == [(), (), surrendered]
    site.ledger.broken = False
    assert kept(4, 1130.0) == surrendered
    site.ledger.broken = True
    assert kept(5, 1140.0) == (), "another outage has its own two minutes"


def test_what_dynamodb_will_not_have_of_one_node_fails_no_other(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """It refuses a whole batch for one item."""
    other = ARN.replace(NODE, OTHER)
    site.store.save(other, replace(record("10.0.1.32/28"), instance_arn=other), (), Notes())
    site.ledger.poison = "poison"
    wrong = site.report(1, replace(BEGUN, name="poison"))
    right = site.report(1, replace(BEGUN, address="10.0.1.33"))
    intake = ingest(
        site.store, {NODE: ARN, OTHER: other}, [SentReport(NODE, wrong), SentReport(OTHER, right)], site.ledger
    )
    assert [f.instance_id for f in site.ledger.facts] == [OTHER]
    assert site.store.load([other])[other].heard.told == Told("boot-1", 1)
    assert site.told == Told()
    assert (intake.counts["LeasesWritten"], intake.counts["LedgerErrors"]) == (1, 1)
    assert "refused" in caplog.text


def test_a_node_cannot_speak_for_a_time_to_come(site: Site) -> None:
    """Its addresses would be held by it, for whoever asks, long after others have them."""
    site.takes_rows(1, BEGUN, leases_until=9e9)
    report = site.store.load([ARN])[ARN].report
    assert report is not None
    assert report.leases_until == site.ledger.facts[0].until == 1600.0


def test_the_leases_are_not_kept_with_the_report(site: Site) -> None:
    site.takes_rows(1, BEGUN)
    report = site.store.load([ARN])[ARN].report
    assert report is not None
    assert (report.leases, report.leases_told, report.epoch) == ((), 1, "boot-1")


def test_a_new_epoch_closes_the_one_before_at_its_last_report(site: Site) -> None:
    site.takes_rows(1, BEGUN)
    site.takes_rows(2, epoch="0b0b-2", epoch_since=500.0)
    assert site.ledger.closings == [Closing(NODE, "boot-1", 201.0, 500.0, "the node rebooted")]
    site.takes_rows(3, epoch="0b0b-3", epoch_since=600.0)
    assert site.ledger.closings[-1].reason == "the agent lost what it knew of its leases"
    site.takes_rows(4, epoch="")
    assert site.ledger.closings[-1] == Closing(NODE, "0b0b-3", 203.0, 0.0, "an agent took over that keeps no leases")


def test_an_epochs_end_that_the_ledger_could_not_take_is_told_with_the_next_report(site: Site) -> None:
    site.takes_rows(1, BEGUN)
    site.ledger.broken = True
    site.takes_rows(2, epoch="0b0b-2", epoch_since=500.0)
    site.takes_rows(3, epoch="0b0b-2", epoch_since=500.0)
    site.ledger.broken = False
    site.takes_rows(4, epoch="0b0b-2", epoch_since=500.0)
    assert site.ledger.closings == [Closing(NODE, "boot-1", 201.0, 500.0, "the node rebooted")]
    report = site.store.load([ARN])[ARN].report
    assert report is not None
    assert (report.epoch, report.leases_until) == ("0b0b-2", 204.0)


def test_every_epoch_that_ends_within_one_batch_is_closed(site: Site) -> None:
    site.takes_rows(1, BEGUN)
    second = site.report(2, epoch="0b0b-2", epoch_since=500.0)
    third = site.report(3, epoch="0c0c-3", epoch_since=600.0)
    site.takes(third, second)
    assert site.ledger.closings == [
        Closing(NODE, "boot-1", 201.0, 500.0, "the node rebooted"),
        Closing(NODE, "0b0b-2", 202.0, 600.0, "the node rebooted"),
    ]


def test_a_late_report_of_an_earlier_epoch_closes_nothing(site: Site) -> None:
    site.takes_rows(2, epoch="boot-2", epoch_since=500.0)
    site.takes_rows(1, BEGUN)
    assert site.ledger.closings == []
    assert site.told == Told("boot-2", 0)


def test_a_late_report_of_an_earlier_life_ends_its_own_epoch_alone(site: Site) -> None:
    """An agent that loses its files starts to count above what was accepted, and may do so twice from one number."""
    site.takes(
        site.report(1, BEGUN, epoch="boot-2", epoch_since=300.0, leases_until=310.0),
        site.report(2, epoch="boot-1", epoch_since=50.0, leases_until=280.0),
    )
    ended = Closing(NODE, "boot-1", 280.0, 300.0, "the agent lost what it knew of its leases")
    assert site.ledger.closings == [ended]
    site.takes_rows(3, epoch="boot-2", epoch_since=300.0, leases_until=330.0)
    assert site.ledger.closings == [ended]


def test_ids_of_another_epoch_are_not_taken_for_acknowledged_ones(site: Site) -> None:
    """An agent that lost its files counts from one again."""
    site.takes_rows(1, replace(BEGUN, id=50))
    site.takes_rows(2, replace(BEGUN, id=1, name="web-2", began=300.0), epoch="boot-2")
    assert [name for name, _ in site.names] == ["web-1", "web-2"]


def test_an_agent_that_knows_no_leases_is_served_as_ever(site: Site) -> None:
    old = '{"schema":1,"order":{"boot":1,"sequence":1},"acknowledged_revision":0,"in_use":0}'
    intake = site.takes(decode_report(old))
    assert (intake.refused, site.ledger.writes, site.told) == ((), 0, Told())


def test_a_report_survives_its_encoding() -> None:
    asked = (PodRequest("c1/eth0", "10.0.1.17", "shop", "db-0", "uid", "auto", "sg-1,sg-2"), PodRequest("c2/eth0"))
    leases = (BEGUN, replace(ENDED, epoch="boot-0"))
    report = Report(Order(1, 1), 0, 0, (), 0, (), (), "boot-1", 5.5, leases, 7, 9.25, asked)
    assert decode_report(encode_report(report)) == report


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ('"leases":[{"id":-1,"address":"10.0.0.1","began":1}]', r"leases\[0\]\.id"),
        ('"leases":[{"id":1,"address":"10.0.0.300","began":1}]', r"leases\[0\]\.address"),
        ('"leases":[{"id":1,"address":"10.0.0.1","began":NaN}]', r"leases\[0\]\.began"),
        ('"leases":[{"id":1,"address":"10.0.0.1","began":1e300}]', r"leases\[0\]\.began"),
        ('"leases":[{"id":1,"address":"10.0.0.1","began":true}]', r"leases\[0\]\.began"),
        ('"epoch":"A/b"', "epoch"),
        ('"leases_until":-1', "leases_until"),
    ],
)
def test_a_lease_that_is_none_is_refused_by_its_field(said: str, field: str) -> None:
    text = encode_report(Report(Order(1, 1), 0, 0))
    for name in ("leases", "epoch", "leases_until"):
        text = text.replace(f'"{name}":[],', "").replace(f'"{name}":"",', "").replace(f'"{name}":0.0,', "")
    with pytest.raises(ContractError, match=field):
        decode_report("{" + said + "," + text[1:])


def test_ipv6_has_one_spelling() -> None:
    report = Report(Order(1, 1), 0, 0, epoch="e", leases=(replace(BEGUN, address="2001:DB8:0:0::5"),))
    assert decode_report(encode_report(report)).leases[0].address == "2001:db8::5"


@pytest.mark.parametrize(
    ("text", "told"), [("boot-1/7", Told("boot-1", 7)), ("", Told()), ("/0", Told()), ("x", Told())]
)
def test_what_is_acknowledged_is_read_from_its_text(text: str, told: Told) -> None:
    assert Told.read(text) == told
    assert Told.read(str(told)) == told
    assert Told.read("x") == Told()


# ------------------------------------------------------------------------------------------------------- death


def dies(ledger: FakeLedger) -> Scene:
    """A node is terminated that has reported once."""
    scene = Scene()
    scene.edges = replace(scene.edges, ledger=ledger)
    scene.ec2.launch()
    reconcile(scene.edges, [Signal(NODE, "running")], 50)
    scene.store.accept_report(ARN, Report(Order(1, 1), 1, 0, epoch="boot-1", leases_until=77.0))
    scene.ec2.set_state("terminated")
    for _ in range(3):
        reconcile(scene.edges, [Signal(NODE, "terminated")], 50)
        scene.machine.now += 30
    return scene


def test_a_dead_nodes_leases_are_closed_before_its_last_report_is_forgotten() -> None:
    ledger = FakeLedger()
    scene = dies(ledger)
    (closing,) = ledger.closings
    assert (closing.until, closing.reason) == (77.0, "the node was terminated")
    assert closing.over_by >= 77.0
    assert scene.store.load([ARN])[ARN].buried


def test_a_node_that_shuts_down_keeps_its_leases_until_it_is_terminated() -> None:
    ledger = FakeLedger()
    scene = Scene()
    scene.edges = replace(scene.edges, ledger=ledger)
    scene.ec2.launch()
    reconcile(scene.edges, [Signal(NODE, "running")], 50)
    scene.store.accept_report(ARN, Report(Order(1, 1), 1, 0, epoch="boot-1", leases_until=77.0))
    scene.looks.asked.clear()
    scene.ec2.set_state("shutting-down")
    reconcile(scene.edges, [Signal(NODE, "shutting-down")], 50)
    assert (ledger.closings, len(scene.looks.asked)) == ([], 1)
    scene.machine.now += 60
    scene.ec2.set_state("terminated")
    terminated = scene.machine.now
    reconcile(scene.edges, [Signal(NODE, "looked at again")], 50)
    assert [c.over_by >= terminated for c in ledger.closings] == [True]
    assert scene.store.load([ARN])[ARN].buried


def test_a_ledger_in_trouble_does_not_keep_a_dead_node_from_its_grave(caplog: pytest.LogCaptureFixture) -> None:
    ledger = FakeLedger()
    ledger.broken = True
    scene = dies(ledger)
    assert scene.store.load([ARN])[ARN].buried
    assert "could not be closed" in caplog.text
