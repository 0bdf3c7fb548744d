"""The report of `make demo-vpc`: what fails in a section is told there, and keeps nothing else from being shown."""

from __future__ import annotations

import io

import pytest

from tests.sandbox.demo.machine import SandboxDiedError
from tests.sandbox.demo.report import Report
from tests.sandbox.demo.vpc.telling import Telling


@pytest.fixture
def telling() -> Telling:
    return Telling(Report(out=io.StringIO()))


def said(telling: Telling) -> str:
    assert isinstance(telling.report.out, io.StringIO)
    return telling.report.out.getvalue()


def test_a_section_in_which_all_held_is_ok(telling: Telling) -> None:
    with telling.section(1, "Routes", "docs/routes.md"):
        telling.did("a pod calls")
        telling.seen("the server is called by", "10.0.1.4", "10.0.1.4")
    telling.verdict()
    assert telling.report.ok
    (section,) = telling.report.document()["sections"]
    assert (section["ok"], section["did"]) == (True, ["a pod calls"])
    assert "OK in" in said(telling)


def test_another_answer_than_the_expected_one_fails_the_section_and_names_both(telling: Telling) -> None:
    with telling.section(4, "Routes", "docs/routes.md"):
        telling.seen("the server is called by", "10.0.1.9", "10.0.1.4")
    assert not telling.report.ok
    assert telling.report.failures == ["4. Routes: the server is called by: 10.0.1.9 (expected: 10.0.1.4)"]
    assert "FAILED in" in said(telling)


def test_an_error_ends_its_section_and_the_next_one_is_shown(telling: Telling) -> None:
    with telling.section(1, "Routes", "docs/routes.md"):
        raise TimeoutError("waited for a route")
    with telling.section(2, "Ledger", "docs/ledger.md"):
        telling.holds("a lease is there", True)
    assert [section.ok for section in telling.sections] == [False, True]
    assert telling.report.failures == ["1. Routes: TimeoutError: waited for a route"]


def test_a_section_that_saw_nothing_is_no_success(telling: Telling) -> None:
    with telling.section(1, "Routes", "docs/routes.md"):
        telling.did("nothing much")
    assert not telling.report.ok


def test_the_end_of_the_sandbox_ends_it_all(telling: Telling) -> None:
    with pytest.raises(SandboxDiedError), telling.section(1, "Routes", "docs/routes.md"):
        raise SandboxDiedError("killed")


def test_long_lines_are_wrapped_for_a_terminal(telling: Telling) -> None:
    with telling.section(1, "Routes", "docs/routes.md"):
        telling.did("word " * 60)
        telling.seen("what " * 40, "told " * 20, "expected " * 20)
        telling.command("berth " + "--option value " * 20, "answer " * 60)
    assert max(map(len, said(telling).splitlines())) <= 120
