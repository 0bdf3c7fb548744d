"""Leases: begun and ended with the journal's own lines, told until the ledger has them, through kills and reboots."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from berth.contract import Order, PodLease, Policy, Report, Surrender, Told, decode_report, encode_report
from berth.history import Heartbeat, Held
from berth.ingest import MAX_REPORT_BYTES, SentReport, ingest
from berth.model import Notes
from berth_node import leases as module
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.journal import Journal
from berth_node.leasefile import LeaseFile
from berth_node.leases import RETELL_SECONDS, Leases, row_fields, size_of
from berth_node.pool import Pool
from berth_node.report import build, substance
from berth_node.seams import Attachment, Wired
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.control.fake_ledger import FakeLedger
from tests.unit.control.fakes import ARN, NODE, FakeStore, Machine
from tests.unit.node.make import interface, record

WIRED = Wired("02:00:00:00:00:01", "02:00:00:00:00:02", 7)
BLOCK = "10.0.0.16/28"


def attachment(name: str, address: str, at: float = 1.5) -> Attachment:
    return Attachment(name, "eth0", address, f"eni{name}", "default", name, f"uid-{name}", at)


def opened(path: Path) -> Journal:
    journal = Journal.open(path)
    if not journal.leases.epoch:
        journal.epoch("boot-1", 1.0)
    return journal


def begin(journal: Journal, name: str, address: str, at: float = 1.5) -> None:
    journal.lend(attachment(name, address, at))
    journal.wired((name, "eth0"), WIRED)


def end(journal: Journal, name: str, at: float) -> None:
    journal.free((name, "eth0"), at + 120, at=at)


def told(leases: Leases, now: float = 1000.0) -> dict[str, Any]:
    leases.taken = True
    return leases.report(now)


def test_a_lease_begins_when_the_pod_is_wired_and_ends_when_it_is_freed(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    journal.lend(attachment("a", "10.0.0.1"))
    assert told(journal.leases)["leases"] == ()
    journal.wired(("a", "eth0"), WIRED)
    (begun,) = told(journal.leases)["leases"]
    assert (begun.id, begun.address, begun.began, begun.ended) == (1, "10.0.0.1", 1.5, 0.0)
    assert (begun.namespace, begun.name, begun.uid) == ("default", "a", "uid-a")
    end(journal, "a", 80.0)
    (ended,) = told(journal.leases)["leases"]
    assert ended == replace(begun, id=2, ended=80.0)


def test_a_pod_costs_no_more_lines_than_without_leases(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    before = (tmp_path / "j").read_bytes().count(b"\n")
    begin(journal, "a", "10.0.0.1")
    end(journal, "a", 80.0)
    assert (tmp_path / "j").read_bytes().count(b"\n") - before == 3


def test_a_pod_of_both_families_has_a_lease_of_each_address(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    journal.lend(replace(attachment("a", "10.0.0.1"), address6="2001:db8::1"))
    journal.wired(("a", "eth0"), WIRED)
    begin(journal, "b", "10.0.0.2")
    end(journal, "a", 80.0)
    rows = told(Journal.open(tmp_path / "j").leases)["leases"]
    assert [(r.id, r.address, r.ended) for r in rows] == [
        (3, "10.0.0.2", 0.0),
        (4, "10.0.0.1", 80.0),
        (5, "2001:db8::1", 80.0),
    ]


def test_an_address_that_was_never_wired_was_no_lease(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    journal.lend(attachment("a", "10.0.0.1"))
    end(journal, "a", 80.0)
    assert told(journal.leases)["leases"] == ()


def test_wiring_a_pod_again_begins_nothing(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    begin(journal, "a", "10.0.0.1")
    journal.wired(("a", "eth0"), WIRED)
    assert [r.id for r in told(journal.leases)["leases"]] == [1]


def test_a_kill_at_any_byte_leaves_leases_and_ids_as_of_the_last_whole_line(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    begin(journal, "a", "10.0.0.1")
    begin(journal, "b", "10.0.0.2")
    end(journal, "a", 80.0)
    content = (tmp_path / "j").read_bytes()
    epoch_line = content.index(b"\n") + 1
    for size in range(epoch_line, len(content) + 1):
        (tmp_path / "torn").write_bytes(content[:size])
        lines = content[:size].count(b"\n") - 1
        torn = Journal.open(tmp_path / "torn")
        expected: list[list[int]] = [[], [], [1], [1], [1, 2], [2, 3]]
        assert sorted(torn.leases.untold) == expected[lines]
        begin(torn, "c", "10.0.0.3")
        assert len(torn.leases.untold) == len(expected[lines]) + 1, "an id was used twice"
        torn.close()


@pytest.mark.parametrize("compact", [False, True])
def test_everything_is_the_same_after_a_restart(tmp_path: Path, compact: bool) -> None:
    journal = opened(tmp_path / "j")
    for n in range(4):
        begin(journal, f"p{n}", f"10.0.0.{n}")
    end(journal, "p1", 80.0)
    journal.free(("p2", "eth0"), 200.0, at=90.0, held_until=60.0)
    if compact:
        journal._compact()
    again = Journal.open(tmp_path / "j")
    assert told(again.leases) == told(journal.leases)
    assert again.leases.live == journal.leases.live


def test_what_the_ledger_has_is_told_no_more(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    begin(journal, "a", "10.0.0.1")
    begin(journal, "b", "10.0.0.2")
    journal.leases.acknowledged(Told("boot-1", 1))
    assert [r.name for r in told(journal.leases)["leases"]] == ["b"]
    journal.leases.acknowledged(Told("another", 99))
    assert [r.name for r in told(journal.leases)["leases"]] == ["b"]
    end(journal, "a", 80.0)
    assert [(r.name, r.ended) for r in told(journal.leases)["leases"]] == [("b", 0.0), ("a", 80.0)]


def test_a_stack_without_a_ledger_is_told_nothing(tmp_path: Path) -> None:
    """It would never acknowledge anything, and each report would be as long as it may."""
    journal = opened(tmp_path / "j")
    begin(journal, "a", "10.0.0.1")
    report = journal.leases.report(1000.0)
    assert (report["leases"], report["leases_told"]) == ((), 0)
    assert report["leases_until"] == 1.5
    journal.leases.acknowledged(Told())
    assert journal.leases.report(1000.0)["leases_told"] == 1


def test_a_report_that_cannot_hold_all_says_how_far_it_goes(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    for n in range(250):
        begin(journal, "x" * 253 + str(n), "2001:db8:1:2:3:4:5:6", at=10.0 + n)
    fields = told(journal.leases)
    report = build(Pool(), 1, Order(1, 1), journal.leases, 1000.0)
    assert len(fields["leases"]) == len(report.leases) == 200
    assert (fields["leases_told"], fields["leases_until"]) == (200, 210.0)
    assert len(encode_report(report)) < MAX_REPORT_BYTES / 2
    journal.leases.acknowledged(Told("boot-1", fields["leases_told"]))
    fields = told(journal.leases)
    assert (len(fields["leases"]), fields["leases_told"], fields["leases_until"]) == (50, 250, 1000.0)


def test_no_block_is_given_back_while_leases_wait_to_be_told(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    for n in range(201):
        begin(journal, str(n), "10.0.0.1", at=10.0 + n)
    journal.leases.acknowledged(Told())
    pool = Pool(surrendered=(Surrender("m", BLOCK, "1:a"),))
    assert build(pool, 1, Order(1, 1), journal.leases, 1000.0).surrendered == ()
    journal.leases.acknowledged(Told("boot-1", 200))
    assert build(pool, 1, Order(1, 1), journal.leases, 1000.0).surrendered == pool.surrendered


def test_a_ledger_that_acknowledges_nothing_holds_blocks_back_for_two_minutes_alone(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    for n in range(201):
        begin(journal, str(n), "10.0.0.1", at=10.0 + n)
    journal.leases.acknowledged(Told())
    pool = Pool(surrendered=(Surrender("m", BLOCK, "1:a"),))

    def surrendered(now: float) -> tuple[Surrender, ...]:
        return build(pool, 1, Order(1, 1), journal.leases, now).surrendered

    assert [surrendered(at) for at in (1000.0, 1119.0, 1120.0)] == [(), (), pool.surrendered]
    journal.leases.acknowledged(Told("boot-1", 200))
    assert surrendered(1130.0) == pool.surrendered
    for n in range(201, 500):
        begin(journal, str(n), "10.0.0.1", at=10.0 + n)
    assert surrendered(1140.0) == (), "another backlog has its own two minutes"


def test_a_stack_that_was_rolled_back_is_told_nothing_more(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    for n in range(201):
        begin(journal, str(n), "10.0.0.1", at=10.0 + n)
    journal.leases.acknowledged(Told())
    journal.leases.acknowledged(None)
    pool = Pool(surrendered=(Surrender("m", BLOCK, "1:a"),))
    report = build(pool, 1, Order(1, 1), journal.leases, 1000.0)
    assert (report.leases, report.surrendered) == ((), pool.surrendered)
    journal.leases.acknowledged(Told())
    assert len(journal.leases.report(1000.0)["leases"]) == 200, "nothing was forgotten meanwhile"


def test_an_acknowledgement_alone_is_nothing_to_report(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    journal.leases.acknowledged(Told())
    begin(journal, "a", "10.0.0.1")
    first = build(Pool(), 1, Order(1, 1), journal.leases, 100.0)
    journal.leases.acknowledged(Told("boot-1", 1))
    second = build(Pool(), 1, Order(1, 2), journal.leases, 101.0)
    assert second.leases == ()
    assert substance(first) == substance(second)
    begin(journal, "b", "10.0.0.2")
    end(journal, "b", 102.0)
    assert substance(build(Pool(), 1, Order(1, 3), journal.leases, 103.0)) != substance(second)


def test_a_long_lease_is_told_again_under_a_new_id_that_a_kill_cannot_give_twice(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    begin(journal, "a", "10.0.0.1", at=10.0)
    begin(journal, "b", "10.0.0.2", at=RETELL_SECONDS)
    journal.leases.acknowledged(Told("boot-1", 2))
    journal.retell(journal.leases.old(10.0 + RETELL_SECONDS))
    assert [(r.id, r.name) for r in told(journal.leases)["leases"]] == [(3, "a")]
    again = Journal.open(tmp_path / "j")
    begin(again, "c", "10.0.0.3")
    assert max(again.leases.untold) == 4


def test_more_ended_leases_than_can_be_kept_are_a_gap_that_is_owned_up_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_UNTOLD", 5)
    journal = opened(tmp_path / "j")
    begin(journal, "old", "10.0.0.1", at=2.0)
    for n in range(8):
        begin(journal, f"p{n}", "10.0.0.2", at=10.0 + n)
        end(journal, f"p{n}", 10.5 + n)
    assert len(journal.leases.untold) == 6
    assert told(journal.leases)["leases_until"] == 10.0  # when the first began that is lost
    assert told(Journal.open(tmp_path / "j").leases)["leases_until"] == 10.0
    journal._compact()
    assert told(Journal.open(tmp_path / "j").leases)["leases_until"] == 10.0
    journal.epoch("boot-2", 50.0)
    fields = told(journal.leases)
    assert (fields["epoch"], fields["epoch_since"], fields["leases_until"]) == ("boot-2", 50.0, 1000.0)
    assert {r.name for r in fields["leases"] if not r.epoch} == {"old"}
    assert {r.epoch for r in fields["leases"] if r.name != "old"} == {"boot-1"}


def test_an_end_written_by_an_agent_that_knew_no_leases_is_a_gap_too(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    begin(journal, "a", "10.0.0.1")
    with (tmp_path / "j").open("a") as file:
        file.write('{"op":"free","key":["a","eth0"],"until":200.0}\n')
    again = Journal.open(tmp_path / "j")
    assert (again.leases.live, again.leases.lost_from) == ({}, 1.5)


# ------------------------------------------------------------------------------------------------------- the desk


@dataclass
class Node:
    """An agent's desk over real files, a clock, and the control plane's side of leases."""

    folder: Path
    now: float = 1000.0
    boot: str = "0a0a0a0a-boot"
    alive: float = 0.0
    kernel: dict[str, Attachment] = field(default_factory=dict)
    store: FakeStore = field(default_factory=lambda: FakeStore(Machine()))
    ledger: FakeLedger = field(default_factory=FakeLedger)
    sequence: int = 0
    pods: int = 0
    truth: list[tuple[str, str, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store.save(ARN, replace(record(interface(0, BLOCK)), instance_arn=ARN), (), Notes())
        self.start()

    def start(self) -> None:
        self.desk = Desk(
            Journal.open(self.folder / "run" / "j"),
            DurableFile(self.folder / "node.json", NODE),
            lambda: self.now,
            kernel_boot=self.boot,
            alive=self.alive,
            lease_file=LeaseFile(self.folder / "leases.json", NODE),
        )
        for undo in self.desk.start(self.kernel.values(), Policy(cooldown_seconds=0)):
            self.desk.free((undo.container_id, undo.ifname))

    def kill(self) -> None:
        self.alive = self.now
        self.desk.journal.close()

    def reboot(self) -> None:
        """Pods, journal and marks are gone; /var/lib/berth is not."""
        self.kill()
        for name, address, began, _ in [t for t in self.truth if not t[3]]:
            self.truth.remove((name, address, began, 0.0))
        self.kernel.clear()
        self.alive = 0.0
        os.unlink(self.folder / "run" / "j")
        self.boot = f"{len(self.truth):08x}-boot"
        self.now += 30
        self.start()

    def add(self) -> str:
        self.pods += 1
        name = f"p{self.pods}"
        used = {a.address for a in self.kernel.values()}
        address = next(f"10.0.0.{n}" for n in range(16, 32) if f"10.0.0.{n}" not in used)
        made = attachment(name, address, self.now)
        self.desk.journal.lend(made)
        self.kernel[name] = made
        self.desk.wired((name, "eth0"), WIRED)
        self.truth.append((name, address, self.now, 0.0))
        return name

    def delete(self, name: str) -> None:
        gone = self.kernel.pop(name)
        self.desk.free((name, "eth0"))
        self.truth.remove((name, gone.address, gone.attached_at, 0.0))
        self.truth.append((name, gone.address, gone.attached_at, self.now))

    def report(self) -> Report:
        self.sequence += 1
        order = Order(self.desk.boot, self.sequence)
        return build(self.desk.pool, 1, order, self.desk.journal.leases, self.now)

    def arrives(self, report: Report) -> None:
        sent = SentReport(NODE, decode_report(encode_report(report)), self.now)
        ingest(self.store, {NODE: ARN}, [sent], self.ledger)

    def hears(self) -> None:
        state = self.store.load([ARN])[ARN]
        if state.report is not None:
            self.desk.journal.leases.acknowledged(Told.read(str(state.heard.told)))

    def said(self) -> list[Held]:
        report = self.store.load([ARN])[ARN].report
        beats = {NODE: Heartbeat(report.epoch, report.leases_until)} if report else {}
        return self.ledger.histories(beats)

    def settled(self) -> list[Held]:
        for _ in range(3):
            self.arrives(self.report())
            self.hears()
        return self.said()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_pods_found_running_at_a_start_have_one_lease(node: Node) -> None:
    node.add()
    node.settled()
    for _ in range(3):
        node.kill()
        node.start()
        node.settled()
    (lease,) = node.settled()
    assert (lease.live, lease.began, lease.held_until) == (True, 1000.0, node.now)


def test_pods_of_a_version_that_knew_no_leases_have_theirs_begun(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    old = Journal.open(tmp_path / "run" / "j")
    old.lend(attachment("a", "10.0.0.17", 900.0))
    old._write({"op": "wired", "key": ["a", "eth0"], "host_mac": "", "pod_mac": "", "host_ifindex": 0})
    old.close()
    node = Node(tmp_path, kernel={"a": attachment("a", "10.0.0.17", 900.0)})
    (lease,) = node.settled()
    assert (lease.pod, lease.began, lease.live) == ("default/a", 900.0, True)


def test_a_lost_journal_ends_an_epoch_and_goes_on_with_the_pods_that_the_kernel_has(node: Node) -> None:
    node.add()
    gone = node.add()
    node.settled()
    node.kill()
    os.unlink(node.folder / "run" / "j")
    del node.kernel[gone]
    node.now += 100
    node.start()
    stays, lost = sorted(node.settled(), key=lambda lease: lease.pod)
    assert (stays.live, stays.began, stays.held_until) == (True, 1000.0, 1100.0)
    assert (lost.live, lost.held_until, lost.over_by) == (False, 1000.0, 1100.0)
    assert lost.why == "the agent lost what it knew of its leases"


def test_a_reboot_ends_what_was_open_between_the_last_report_and_the_next_start(node: Node) -> None:
    node.add()
    node.settled()
    node.now += 50
    node.reboot()
    (lease,) = node.settled()
    assert (lease.live, lease.held_until, lease.over_by, lease.why) == (False, 1000.0, 1080.0, "the node rebooted")


def test_what_was_untold_survives_a_reboot(node: Node) -> None:
    ended, _ = node.add(), node.add()
    node.now += 10
    node.delete(ended)
    node.desk.upkeep.save()
    node.reboot()
    first, second = sorted(node.settled(), key=lambda lease: lease.pod)
    assert (first.pod, first.held_until, first.over_by) == ("default/p1", 1010.0, 1010.0)
    assert (second.pod, second.live) == ("default/p2", False)


def test_a_pod_that_ends_while_no_agent_runs_ended_between_its_last_beat_and_the_start(node: Node) -> None:
    node.add()
    node.now += 20
    node.kill()
    node.kernel.clear()
    node.now += 300
    node.start()
    (lease,) = node.settled()
    assert (lease.held_until, lease.over_by, lease.why) == (1020.0, 1320.0, "the agent did not run when the pod ended")


def test_the_file_of_another_instance_is_none(node: Node) -> None:
    node.add()
    node.desk.upkeep.save()
    assert len(LeaseFile(node.folder / "leases.json", NODE).load()) == 1
    assert LeaseFile(node.folder / "leases.json", "i-0123456789abcdef9").load() == ()
    (node.folder / "leases.json").write_text("{")
    assert LeaseFile(node.folder / "leases.json", NODE).load() == ()


def test_the_file_is_written_when_something_has_changed_and_not_all_the_time(node: Node) -> None:
    file, leases = LeaseFile(node.folder / "other.json", NODE), node.desk.journal.leases
    file.save(file.taken(leases, 100.0))
    assert not file.due(leases, 1000.0)
    node.add()
    assert not file.due(leases, 105.0)
    assert file.due(leases, 110.0)


STEPS = st.lists(
    st.sampled_from(
        ["add", "add", "delete", "report", "lost", "late", "twice", "hear", "kill", "compact", "reboot", "broken"]
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.randoms(use_true_random=False))
def test_whatever_happens_every_lease_is_in_the_ledger_once(steps: list[str], rng: Any) -> None:
    """Reports are lost, late and repeated, the agent is killed, the node reboots, the ledger fails for a while."""
    with tempfile.TemporaryDirectory() as folder:
        node, late = Node(Path(folder)), list[Report]()
        for step in steps:
            node.now += rng.choice([0.5, 3.0, 40.0])
            match step:
                case "add" if len(node.kernel) < 16:
                    node.add()
                case "delete" if node.kernel:
                    node.delete(rng.choice(sorted(node.kernel)))
                case "report" | "twice":
                    report = node.report()
                    for _ in range(2 if step == "twice" else 1):
                        node.arrives(report)
                case "lost":
                    node.report()
                case "late":
                    late.append(node.report())
                case "hear":
                    node.hears()
                case "kill":
                    node.kill()
                    node.start()
                case "compact":
                    node.desk.journal._compact()
                case "reboot":
                    node.desk.upkeep.save()
                    node.reboot()
                case "broken":
                    node.ledger.broken = not node.ledger.broken
            if late and rng.random() < 0.3:
                node.arrives(late.pop(rng.randrange(len(late))))
        node.ledger.broken = False
        node.settled()
        for report in late:
            node.arrives(report)
        judge(node)


def judge(node: Node) -> None:
    said = node.said()
    keys = [(v.name, v.address, v.began) for v in said]
    assert len(keys) == len(set(keys)), "a lease is there twice"
    found = dict(zip(keys, said, strict=True))
    for name, address, began, ended in node.truth:
        lease = found[name, address, began]
        assert lease.live == (not ended)
        assert lease.over_by == ended
    by_address: dict[str, list[Held]] = {}
    for lease in said:
        by_address.setdefault(lease.address, []).append(lease)
    for leases in by_address.values():
        ordered = sorted(leases, key=lambda v: v.began)
        for one, other in pairwise(ordered):
            assert one.held_until <= other.began, "two pods hold one address at one time"


@given(
    st.builds(
        PodLease,
        id=st.integers(1, 10**9),
        address=st.sampled_from(["10.0.1.17", "2001:db8:1:2:3::5"]),
        began=st.floats(1e9, 9e9).map(lambda t: round(t, 3)),
        ended=st.floats(1e9, 9e9).map(lambda t: round(t, 3)),
        held_until=st.floats(1e9, 9e9).map(lambda t: round(t, 3)),
        namespace=st.text(max_size=63),
        name=st.text(max_size=253),
        uid=st.text(max_size=64),
        epoch=st.just("0123456789ab-boot"),
    )
)
def test_no_row_takes_more_in_a_report_than_it_is_counted_as(row: PodLease) -> None:
    assert len(json.dumps(row_fields(row)).encode()) <= size_of(row)
