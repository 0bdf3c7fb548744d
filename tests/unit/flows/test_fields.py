"""Headers of flow logs, and that the template says what the code writes."""

from __future__ import annotations

import re

import pytest
from berth.flows.fields import COLUMNS, FIELDS, LOG_FORMAT, UnreadableFlowsError, fields_of, parse_header
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.stack_template import load_template

DEFAULT = (
    b"version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action"
    b" log-status\n"
)
NEEDED = ["start", "end", "srcaddr", "dstaddr"]


def test_the_default_format_is_read_by_its_header() -> None:
    assert parse_header(DEFAULT) == tuple(FIELDS)[:14]


def test_versions_2_to_11_are_known() -> None:
    for field in ("tcp-flags", "sublocation-id", "traffic-path", "ecs-task-id", "reject-reason", "resource-id"):
        assert field.replace("-", "_") in FIELDS
    assert {"encryption_status", "asg_tag_2", "next_hop_interface_type"} <= set(FIELDS)


@given(st.permutations(list(FIELDS)), st.integers(0, len(FIELDS)))
def test_fields_are_found_in_any_order(names: list[str], left_out: int) -> None:
    kept = [n for n in names[left_out:] if n not in NEEDED] + NEEDED
    header = " ".join(n.replace("_", "-") for n in kept).encode()
    assert parse_header(header + b"\n") == tuple(kept)
    assert fields_of(kept) == tuple(kept), "as Parquet names them"


@given(st.text("abcdefgh-", min_size=1, max_size=12).filter(lambda t: t.replace("-", "_").isidentifier()))
def test_a_field_of_a_later_version_is_no_error(name: str) -> None:
    column = name.replace("-", "_")
    if column not in NEEDED:
        assert fields_of([*NEEDED, name])[-1] == column


@given(st.binary(max_size=200))
def test_whatever_the_first_line_is_it_is_read_or_refused_in_words(line: bytes) -> None:
    try:
        found = parse_header(line)
    except UnreadableFlowsError:
        return
    assert {"start", "end"} <= set(found)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"", "names no fields"),
        (b"2 123456789012 eni-1 10.0.0.1 10.0.0.2 1 2 6 1 1 1 2 ACCEPT OK", "begin with a header"),
        (b"start end srcaddr dstaddr start", "twice: start"),
        (b"start srcaddr dstaddr", "lacks end"),
        (b"start end srcaddr", "lacks dstaddr"),
        ("start end srcaddr dstäddr".encode(), "not ASCII"),
    ],
)
def test_a_header_that_will_not_do_is_refused_with_the_reason(header: bytes, said: str) -> None:
    with pytest.raises(UnreadableFlowsError, match=said):
        parse_header(header)


def test_the_templates_table_has_the_columns_that_are_written() -> None:
    table = load_template()["Resources"]["FlowsTable"]["Properties"]["TableInput"]
    assert {c["Name"]: c["Type"] for c in table["StorageDescriptor"]["Columns"]} == dict(COLUMNS)
    assert [c["Name"] for c in table["StorageDescriptor"]["Columns"]] == list(COLUMNS)
    assert [k["Name"] for k in table["PartitionKeys"]] == ["hour"]


def test_the_templates_flow_log_has_the_fields_that_the_join_wants() -> None:
    made = load_template()["Resources"]["FlowLog"]["Properties"]["LogFormat"]
    assert re.findall(r"\$\{([a-z0-9-]+)\}", made) == LOG_FORMAT.split()
    fields_of(LOG_FORMAT.split())
