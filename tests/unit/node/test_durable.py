"""What survives a reboot, and what happens when it is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from berth.contract import Order, Policy, Surrender
from berth_node.desk import Desk
from berth_node.durable import Durable, DurableFile
from berth_node.journal import Journal
from berth_node.pod import Pod
from berth_node.seams import Attachment, Wired

from tests.unit.node.make import MACS, all_blocks, interface, record

A, B = "10.0.0.16/28", "10.0.0.32/28"
POLICY = Policy(warm_addresses=0, cooldown_seconds=120)


def start(folder: Path, now: float, journal: str = "journal", instance: str = "i-1") -> Desk:
    """A desk over this folder's files; each journal name is a boot of its own."""
    desk = Desk(Journal.open(folder / journal), DurableFile(folder / "node.json", instance), lambda: now, hold=0.0)
    desk.start((), POLICY)
    return desk


def refreshed(desk: Desk, accepted: Order | None = None) -> Desk:
    r = record(interface(0, A, B), policy=POLICY, accepted=accepted)
    desk.refresh(r, all_blocks(r))
    return desk


def test_each_start_counts_one_boot_more_and_orders_rise(tmp_path: Path) -> None:
    orders = []
    for _ in range(3):
        desk = refreshed(start(tmp_path, 0.0))
        orders += [desk.order(), desk.order()]
    assert orders == [Order(b, s) for b in (1, 2, 3) for s in (1, 2)]


def test_an_agent_that_lost_its_file_starts_above_what_the_record_accepted(tmp_path: Path) -> None:
    desk = refreshed(start(tmp_path, 0.0), Order(41, 7))
    assert desk.order() > Order(41, 7)
    assert start(tmp_path, 0.0).boot == 43


def test_its_own_accepted_reports_do_not_make_it_jump(tmp_path: Path) -> None:
    desk = refreshed(start(tmp_path, 0.0))
    order = desk.order()
    assert refreshed(desk, order).order() == Order(order.boot, order.sequence + 1)


def test_what_was_in_use_cools_after_a_reboot(tmp_path: Path) -> None:
    desk = refreshed(start(tmp_path, 1000.0))
    assert desk.lend(Pod(("a", "eth0")))
    desk.save()
    after = start(tmp_path, 1010.0, journal="next boot")
    assert after.pool.cooling == {"10.0.0.16": 1130.0}


def test_cooling_goes_on_over_a_reboot(tmp_path: Path) -> None:
    desk = refreshed(start(tmp_path, 1000.0))
    desk.lend(Pod(("a", "eth0")))
    desk.free(("a", "eth0"))
    desk.save()
    assert start(tmp_path, 1100.0, "next boot").pool.cooling == {"10.0.0.16": 1120.0}
    after = start(tmp_path, 1121.0, "and next")
    after.flushed(after.pool.unflushed)
    assert after.pool.cooling == {}


def test_a_returned_address_is_lent_again_only_once_its_connections_are_flushed(tmp_path: Path) -> None:
    now = 1000.0
    file = DurableFile(tmp_path / "node.json", "i-1")
    desk = Desk(Journal.open(tmp_path / "journal"), file, lambda: now, hold=0.0)
    desk.start((), POLICY)
    refreshed(desk)
    assert desk.lend(Pod(("a", "eth0")))
    desk.free(("a", "eth0"))
    now = 2000.0
    assert desk.pool.unflushed == {"10.0.0.16"}
    other = desk.lend(Pod(("b", "eth0")))
    assert other
    assert other.address == "10.0.0.17"
    desk.flushed(["10.0.0.16"])
    again = desk.lend(Pod(("c", "eth0")))
    assert again
    assert again.address == "10.0.0.16"


def test_cooling_written_by_a_clock_that_was_ahead_ends_after_one_full_cooldown(tmp_path: Path) -> None:
    DurableFile(tmp_path / "node.json", "i-1").save(Durable(1, cooling={"10.0.0.16": 9e9}), 1)
    assert start(tmp_path, 1000.0).pool.cooling == {"10.0.0.16": 1120.0}


@pytest.mark.parametrize("content", [None, "", "{", '{"schema": 9}', '{"schema": 1, "instance": "i-other"}', "[]"])
def test_with_the_file_lost_each_address_not_in_use_cools_in_full(tmp_path: Path, content: str | None) -> None:
    desk = refreshed(start(tmp_path, 1000.0))
    used = desk.lend(Pod(("a", "eth0")))
    assert used
    desk.wired(("a", "eth0"), Wired("02:00:00:00:00:01", "02:00:00:00:00:02", 7))
    (tmp_path / "node.json").unlink()
    if content is not None:
        (tmp_path / "node.json").write_text(content)
    after = Desk(Journal.open(tmp_path / "journal"), DurableFile(tmp_path / "node.json", "i-1"), lambda: 2000.0)
    after.start([used], POLICY)
    refreshed(after, Order(1, 5))
    assert after.lend(Pod(("b", "eth0"))) is None
    assert set(after.pool.cooling.values()) == {2120.0}
    assert len(after.pool.cooling) == 31


def test_with_the_journal_of_this_boot_deleted_each_address_not_in_use_cools_in_full(tmp_path: Path) -> None:
    """Not so on the first start of a boot, which has no journal yet."""

    def begun(now: float, boot: str) -> Desk:
        file = DurableFile(tmp_path / "node.json", "i-1")
        desk = Desk(Journal.open(tmp_path / boot), file, lambda: now, hold=0.0, kernel_boot=boot)
        desk.start(survey, POLICY)
        return refreshed(desk)

    survey: list[Attachment] = []
    assert begun(0.0, "boot-1").pool.free == 32
    desk = begun(1000.0, "boot-2")
    assert desk.pool.free == 32
    used = desk.lend(Pod(("a", "eth0")))
    assert used
    survey.append(used)
    (tmp_path / "boot-2").unlink()
    after = begun(2000.0, "boot-2")
    assert after.pool.lent == {("a", "eth0"): "10.0.0.16"}
    assert set(after.pool.cooling.values()) == {2120.0}
    assert len(after.pool.cooling) == 31


def test_a_new_node_that_never_reported_waits_for_no_cooldown(tmp_path: Path) -> None:
    desk = refreshed(start(tmp_path, 0.0), Order())
    assert desk.lend(Pod(("a", "eth0")))


def test_a_file_that_came_with_a_machine_image_counts_as_lost(tmp_path: Path) -> None:
    refreshed(start(tmp_path, 0.0)).save()
    other = refreshed(start(tmp_path, 0.0, "its own run", instance="i-2"), Order())
    assert other.boot == 1


def test_a_surrender_is_written_before_anybody_can_report_it(tmp_path: Path) -> None:
    desk = refreshed(start(tmp_path, 0.0))
    assert desk.balance()
    saved = DurableFile(tmp_path / "node.json", "i-1").load()
    assert saved
    assert saved.surrendered == desk.pool.surrendered == (Surrender(MACS[0], B, f"as-{B}"),)
    assert start(tmp_path, 0.0, "next boot").pool.surrendered == saved.surrendered


def test_what_cannot_be_written_is_not_surrendered(tmp_path: Path) -> None:
    desk = refreshed(start(tmp_path, 0.0))
    (tmp_path / "node.json").unlink()
    (tmp_path / "node.json").mkdir()
    assert not desk.balance()
    assert desk.pool.surrendered == ()


def test_a_late_older_write_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    file = DurableFile(tmp_path / "node.json", "i-1")
    early, late = file.ticket(), file.ticket()
    file.save(Durable(boot=2), late)
    file.save(Durable(boot=1), early)
    assert file.load() == Durable(boot=2)
