"""The pods' journal: torn writes, full disks, compaction."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from berth_node.journal import Journal, JournalError
from berth_node.seams import Attachment, Wired

WIRED = Wired("02:00:00:00:00:01", "02:00:00:00:00:02", 7)


def attachment(name: str, address: str) -> Attachment:
    return Attachment(name, "eth0", address, f"eni{name}", "default", name, f"uid-{name}", 1.5)


def filled(path: Path) -> Journal:
    journal = Journal.open(path)
    journal.lend(attachment("a", "10.0.0.1"))
    journal.wired(("a", "eth0"), WIRED)
    journal.lend(attachment("b", "10.0.0.2"))
    journal.free(("b", "eth0"), 120.0)
    return journal


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    first = filled(tmp_path / "j")
    first.close()
    again = Journal.open(tmp_path / "j")
    assert again.entries == first.entries
    assert again.entries["a", "eth0"].wired == WIRED
    assert again.cooling == {"10.0.0.2": 120.0}
    again.close()


def test_a_kill_at_any_byte_leaves_the_state_of_the_last_whole_line(tmp_path: Path) -> None:
    filled(tmp_path / "j").close()
    content = (tmp_path / "j").read_bytes()
    for size in range(len(content) + 1):
        (tmp_path / "torn").write_bytes(content[:size])
        lines = content[:size].count(b"\n")
        torn = Journal.open(tmp_path / "torn")
        assert (len(torn.entries), len(torn.cooling)) == ((0, 0), (1, 0), (1, 0), (2, 0), (1, 1))[lines]
        torn.lend(attachment("c", "10.0.0.3"))
        torn.close()
        after = Journal.open(tmp_path / "torn")
        assert ("c", "eth0") in after.entries
        after.close()


def test_a_line_of_garbage_in_the_middle_costs_that_line_alone(tmp_path: Path) -> None:
    filled(tmp_path / "j").close()
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(lines[0] + b'{"op": "jump"}\n\x00\xff\n' + b"".join(lines[1:]))
    journal = Journal.open(tmp_path / "j")
    assert list(journal.entries) == [("a", "eth0")]
    journal.close()


def test_a_full_disk_changes_nothing_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = filled(tmp_path / "j")
    real = os.write

    def half(fd: int, data: bytes) -> int:
        return real(fd, data[: len(data) // 2])

    with monkeypatch.context() as m:
        m.setattr(os, "write", half)
        with pytest.raises(JournalError, match="cannot be written"):
            journal.lend(attachment("c", "10.0.0.3"))
    assert ("c", "eth0") not in journal.entries
    journal.lend(attachment("d", "10.0.0.4"))
    journal.close()
    again = Journal.open(tmp_path / "j")
    assert sorted(again.entries) == [("a", "eth0"), ("d", "eth0")]
    again.close()


def test_compaction_keeps_all_that_counts_and_bounds_the_file(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j")
    for i in range(2000):
        journal.lend(attachment(f"x{i}", "10.0.0.9"))
        journal.free((f"x{i}", "eth0"), 5.0)
        journal.forget_cooled({"10.0.0.2"})
    assert (tmp_path / "j").read_bytes().count(b"\n") < 1100
    entries, cooling = dict(journal.entries), dict(journal.cooling)
    journal.close()
    again = Journal.open(tmp_path / "j")
    again.forget_cooled({"10.0.0.2"})
    assert (again.entries, again.cooling) == (entries, cooling)
    assert again.cooling == {"10.0.0.2": 120.0}
    again.close()


def test_a_new_agent_reads_lines_of_fields_it_does_not_know(tmp_path: Path) -> None:
    filled(tmp_path / "j").close()
    text = (tmp_path / "j").read_text().replace('{"op":', '{"later":1,"op":')
    (tmp_path / "j").write_text(text)
    journal = Journal.open(tmp_path / "j")
    assert list(journal.entries) == [("a", "eth0")]
    journal.close()


def test_a_new_agent_reads_lines_of_an_older_one_that_lack_a_field(tmp_path: Path) -> None:
    path = tmp_path / "pods.journal"
    line = {"op": "lend", "container_id": "c", "ifname": "eth0", "address": "10.0.0.16", "host_ifname": "enib1"}
    path.write_text(json.dumps(line) + "\n")
    (entry,) = Journal.open(path).entries.values()
    assert (entry.attachment.address, entry.attachment.mtu) == ("10.0.0.16", 9001)
