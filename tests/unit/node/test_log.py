"""Log lines: JSON, and text with priorities for journald."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from berth_node.log import journal_wanted

_PROGRAM = """
import logging, sys
from berth_node.log import set_up
set_up("debug", sys.argv[1])
log = logging.getLogger("berth_node.x")
log.info("plugin hung up", extra={"container": "c1", "why": 'said "no"\\n<0>forged', "n": 3})
log.debug("quiet")
log.error("two\\nlines")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("bug")
"""


def logged(form: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, form], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_json_is_one_object_a_line() -> None:
    lines = [json.loads(line) for line in logged("json")]
    assert [line["level"] for line in lines] == ["info", "debug", "error", "error"]
    assert lines[0]["container"] == "c1"
    assert "ZeroDivisionError" in lines[3]["exception"]


def test_for_journald_each_line_has_its_priority_and_reads_as_text() -> None:
    lines = logged("journal")
    assert lines[0] == r'<6>plugin hung up container=c1 why="said \"no\"\n<0>forged" n=3'
    assert lines[1:4] == ["<7>quiet", "<3>two", "<3>lines"]
    assert lines[4] == "<3>bug"
    assert all(line.startswith("<3>") for line in lines[4:])
    assert "ZeroDivisionError: division by zero" in lines[-1]


def test_without_a_journal_auto_is_json() -> None:
    assert logged("auto")[0].startswith("{")
    assert logged("auto", JOURNAL_STREAM="1:2")[0].startswith("{"), "standard error goes elsewhere"


def test_journalds_stream_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w") as file:
        found = os.fstat(file.fileno())
        stream = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert journal_wanted(stream, file.fileno())
        assert not journal_wanted({}, file.fileno())
        assert not journal_wanted({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}, file.fileno())
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(9999)
    assert not journal_wanted(stream, 9999)
