"""`berth replay` makes logged decisions again and tells what differs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from berth.cli.main import main
from berth.events import Signal
from berth.reconcile import reconcile

from tests.unit.control.fakes import NODE, Scene


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the functions write, as their logger writes it."""
    stream, logger = io.StringIO(), logging.getLogger("berth")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LambdaPowertoolsFormatter())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def lines(log: io.StringIO) -> list[str]:
    """A new node gets its addresses; a second look finds nothing to do."""
    _look_twice()
    return log.getvalue().splitlines()


def _look_twice() -> None:
    scene = Scene()
    scene.ec2.launch()
    for _ in range(2):
        reconcile(scene.edges, [Signal(NODE, "test", event_id="event-1")], 50.0)


def _decisions(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines if json.loads(line)["message"] == "decision"]


def test_each_decision_to_do_something_is_one_line_and_a_quiet_one_is_none(lines: list[str]) -> None:
    (decision,) = _decisions(lines)
    assert [json.loads(line)["message"] for line in lines].count("look") == 2
    assert decision["node"] == decision["decision"]["view"]["instance"]["id"]
    assert decision["decision"]["plan"]["calls"][0]["call"] == "AssignPrefixes"


def test_at_debug_quiet_decisions_are_logged_too(log: io.StringIO) -> None:
    logging.getLogger("berth").setLevel(logging.DEBUG)
    _look_twice()
    assert len(_decisions(log.getvalue().splitlines())) == 2


def test_the_same_plan_is_no_difference(lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log"
    file.write_text("\n".join(["START RequestId: 1", *lines, "END"]))
    assert main(["replay", str(file)]) == 0
    said = capsys.readouterr().out
    assert "today's plan is the same" in said
    assert "AssignPrefixes" in said


def test_lines_with_a_time_in_front_are_read_from_the_standard_input(
    lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tail = "\n".join(f"2026-11-22T10:00:00.000000+00:00 2026/11/22/[$LATEST]0123 {line}" for line in lines)
    monkeypatch.setattr("sys.stdin", io.StringIO(tail))
    assert main(["replay", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["same"], shown["then"]) == (True, shown["today"])


def test_an_answer_of_filter_log_events_is_read(lines: list[str], tmp_path: Path) -> None:
    file = tmp_path / "events.json"
    file.write_text(json.dumps({"events": [{"timestamp": 1, "message": line} for line in lines]}))
    assert main(["replay", str(file)]) == 0


def test_another_plan_today_is_shown_and_is_exit_code_3(
    lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (decision,) = _decisions(lines)
    decision["decision"]["plan"]["calls"][0]["count"] = 5
    file = tmp_path / "log"
    file.write_text(json.dumps(decision))
    assert main(["replay", str(file)]) == 3
    said = capsys.readouterr().out
    assert "- AssignPrefixes" in said
    assert "count=5" in said
    assert "+ AssignPrefixes" in said


def test_one_line_can_be_chosen(lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (decision,) = (line for line in lines if json.loads(line)["message"] == "decision")
    file = tmp_path / "log"
    file.write_text("\n".join([decision, "noise", decision]))
    assert main(["replay", str(file), "--line", "3", "--json"]) == 0
    assert [s["line"] for s in json.loads(capsys.readouterr().out)] == [3]
    assert main(["replay", str(file), "--line", "2"]) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing here\n", "holds no decision"),
        ('{"message": "decision", "decision": {"v": 7}}', "upgrade"),
        ('{"message": "decision", "decision": {"v": 1}}', "line 1: decision"),
    ],
)
def test_what_cannot_be_replayed_is_said_in_words(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log"
    file.write_text(text)
    assert main(["replay", str(file)]) == 1
    assert said in capsys.readouterr().err


def test_a_file_that_is_not_there_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "/nowhere/log"]) == 1
    assert "cannot read /nowhere/log" in capsys.readouterr().err
