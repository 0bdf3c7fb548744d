"""Metrics: the text that Prometheus reads, and what the agent measures."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from berth.contract import Policy
from berth_node import skel
from berth_node.measures import COMMANDS, Measures, families, outcome_of
from berth_node.metrics import Counter, Family, Histogram, gauge, quantile, text, tree
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.node.make import block
from tests.unit.node.test_cli import snapshot

_LABEL = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(rf"^[a-zA-Z_:][\w:]*(\{{{_LABEL}(,{_LABEL})*\}})? (\+Inf|-Inf|-?\d+(\.\d+)?(e[+-]?\d+)?)$")


def page(*parts: Family) -> list[str]:
    return text(parts).removesuffix("\n").split("\n")


def test_a_counter_tells_each_label_with_help_and_type() -> None:
    counter = Counter("berth_things_total", "Things.", ("outcome",))
    counter.add("sent")
    counter.add("sent")
    counter.add("failed", by=0.5)
    assert page(counter.family()) == [
        "# HELP berth_things_total Things.",
        "# TYPE berth_things_total counter",
        'berth_things_total{outcome="sent"} 2',
        'berth_things_total{outcome="failed"} 0.5',
    ]


def test_a_histogram_counts_up_to_each_bound_and_all_at_the_end() -> None:
    times = Histogram("t_seconds", "T.", (0.1, 1), ("command",))
    for value in (0.05, 0.1, 0.5, 7):
        times.observe(value, "ADD")
    assert page(times.family())[2:] == [
        't_seconds_bucket{command="ADD",le="0.1"} 2',
        't_seconds_bucket{command="ADD",le="1"} 3',
        't_seconds_bucket{command="ADD",le="+Inf"} 4',
        't_seconds_sum{command="ADD"} 7.65',
        't_seconds_count{command="ADD"} 4',
    ]


@given(st.text(), st.floats(allow_nan=False))
def test_every_line_is_one_that_prometheus_can_read(label: str, value: float) -> None:
    lines = page(Family("a_b", "gauge", "x\ny", ("l",), {(label,): value}))
    assert len(lines) == 3, "a line break in a label or help must be escaped"
    assert _SAMPLE.match(lines[2]), lines[2]


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_the_end_of_the_bucket_that_holds_it(values: list[float], share: float) -> None:
    bounds = (0.5, 5.0, 50.0)
    times = Histogram("t", "T.", bounds)
    for value in values:
        times.observe(value)
    sample = times.family().samples[()]
    assert not isinstance(sample, float | int)
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    end = quantile(bounds, sample, share)
    assert end == next((b for b in bounds if exact <= b), None)


def test_the_whole_page_of_an_agent_can_be_read_and_names_are_unique() -> None:
    measures = Measures()
    measures.requests.observe(0.002, "ADD", "ok")
    lines = page(*families(measures, snapshot()))
    assert all(line.startswith("# ") or _SAMPLE.match(line) for line in lines)
    typed = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(typed) == len(set(typed))
    assert all(name.startswith(("berth_", "process_")) for name in typed)
    assert 'berth_trouble{what="record"} 1' in lines
    assert "berth_kernel_problems 1" in lines


def test_every_metric_of_the_agent_is_documented_and_none_that_it_has_not() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `berth_")]
    documented = {name for row in rows for name in re.findall(r"`(berth_\w+)`", row)} | {"berth_build_info"}
    made = {f.name for f in families(Measures(), snapshot())}
    assert documented == {name for name in made if name.startswith("berth_")}


def test_the_states_of_addresses_add_up_to_those_assigned() -> None:
    s = snapshot()
    blocks = (*s.pool.blocks, block("10.0.2.16/28", 2, releasing=True), block("10.0.2.9/32", 2, shown=False))
    pool = replace(s.pool, blocks=blocks, lent={**s.pool.lent, ("gone", "eth0"): "10.9.9.9"})
    told = {f.name: f for f in families(Measures(), replace(s, pool=pool))}["berth_pool_addresses"].samples
    assert {k[0]: v for k, v in told.items()} == {
        "in_use": 1, "free": 14, "cooling": 1, "surrendered": 16, "releasing": 16, "unusable": 1, "orphaned": 1
    }  # fmt: skip


def test_ages_count_from_the_last_success() -> None:
    s = replace(snapshot(), read_at={"record": 1000.0, "metadata": 1059.5})
    told = {f.name: f for f in families(Measures(), s)}["berth_source_age_seconds"].samples
    assert told == {("record",): 60.0, ("metadata",): 0.5}


def allocation(measures: Measures) -> list[tuple[int, float]]:
    return [(s["count"], s["sum"]) for s in tree([measures.allocation.family()])[0]["samples"]]


def test_the_lag_runs_from_the_first_report_of_a_shortage_to_a_new_usable_block() -> None:
    measures = Measures()
    measures.looked(frozenset({"a"}), 0, 0.0)
    measures.shortage_reported(10.0)
    measures.shortage_reported(11.0)
    measures.looked(frozenset({"a"}), 3, 12.0)
    assert allocation(measures) == []
    measures.looked(frozenset({"a", "b"}), 0, 14.0)
    assert allocation(measures) == [(1, 4.0)]
    measures.looked(frozenset({"a", "b", "c"}), 0, 99.0)
    assert allocation(measures) == [(1, 4.0)], "a block that nobody asked for is no lag"


def test_a_shortage_that_ends_by_itself_is_no_lag() -> None:
    measures = Measures()
    measures.shortage_reported(10.0)
    measures.looked(frozenset(), 0, 12.0)
    measures.looked(frozenset({"a"}), 0, 50.0)
    assert allocation(measures) == []


def test_the_labels_of_requests_are_bounded() -> None:
    codes = [value for name, value in vars(skel).items() if name.isupper() and isinstance(value, int)]
    assert len({outcome_of(code) for code in codes}) < 12
    assert outcome_of(999) == outcome_of(12345) == "failed"
    assert "ADD" in COMMANDS


def test_a_gauge_of_one_number_has_no_label() -> None:
    assert page(gauge("g", "G.", Policy().warm_addresses))[2] == f"g {Policy().warm_addresses}"


@pytest.mark.parametrize("empty", [Counter("c", "C."), Histogram("h", "H.", (1,))])
def test_nothing_counted_yet_tells_its_type_alone(empty: Counter | Histogram) -> None:
    assert [line.split()[1] for line in page(empty.family())] == ["HELP", "TYPE"]
