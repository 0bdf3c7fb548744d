"""An object in, its flows with pods' names out: text and Parquet, whole and broken, once and again."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from berth.flows.attribution import attribute_object, output_name
from berth.flows.fields import COLUMNS, UnreadableFlowsError
from berth.history import Heartbeat
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.flows.flow_world import (
    FORMAT,
    NODE,
    START,
    fact,
    line,
    parquet_object,
    text_object,
    thing,
    world,
)

WEB = fact("web", "10.0.1.20", START - 500.0, START + 500.0)
DB = fact("db", "10.0.2.30", START - 500.0, START + 500.0, subnet_id="subnet-b", interface_id="eni-2")
HOUR = "flows/hour=2026-11-25-10/"
TYPES = {n: pa.int32() for n in ("version", "srcport", "dstport", "protocol")}
TYPES |= {n: pa.int64() for n in ("packets", "bytes", "start", "end")}


def as_parquet(*lines: str) -> bytes:
    """The same records as AWS delivers them in Parquet: underscores, numbers as numbers, null for what is missing."""
    names = [name.replace("-", "_") for name in FORMAT.split()]
    rows = []
    for one in lines:
        values = dict(zip(names, one.split(), strict=True))
        rows.append({n: None if v == "-" else int(v) if n in TYPES else v for n, v in values.items()})
    return parquet_object(rows, pa.schema([(n, TYPES.get(n, pa.string())) for n in names]))


@pytest.mark.parametrize("made", [text_object, as_parquet])
def test_both_ends_are_named_in_text_and_in_parquet(made: Callable[..., bytes]) -> None:
    edges, objects, _ = world(made(line()), [WEB, DB])
    counts = attribute_object(edges, thing())
    (row,) = objects.rows()
    assert list(row) == list(COLUMNS)
    assert (row["src_address"], row["src_pod_state"], row["src_pod_namespace"]) == ("10.0.1.20", "held", "shop")
    assert (row["src_pod_name"], row["src_pod_uid"], row["src_pod_node"]) == ("web", "uid-web", NODE)
    assert (row["dst_pod_name"], row["dst_pod_state"], row["dst_pod_candidates"]) == ("db", "held", None)
    assert (row["bytes"], row["dstport"], row["action"], row["start"]) == (1500, 443, "ACCEPT", START)
    assert (counts["FlowObjects"], counts["FlowRows"], counts["FlowEndsHeld"]) == (1, 1, 2)
    assert row["source_object"] == f"s3://logs/{thing().key}"


def test_rows_go_into_the_hour_in_which_they_start() -> None:
    edges, objects, _ = world(text_object(line(), line(start=START - 1, end=START + 5), line(start=START + 3599)))
    attribute_object(edges, thing())
    name = output_name(thing())
    assert set(objects.put_files) == {f"{HOUR}{name}", f"flows/hour=2026-11-25-09/{name}"}
    assert len(objects.rows()) == 3


def test_an_event_that_comes_again_overwrites_what_it_wrote_with_the_same_bytes() -> None:
    edges, objects, _ = world(text_object(*(line(srcport=port) for port in range(2000))), [WEB, DB])
    attribute_object(edges, thing())
    first = dict(objects.put_files)
    attribute_object(edges, thing())
    assert objects.put_files == first
    attribute_object(edges, thing(etag="e2"))
    assert len(objects.put_files) == 2, "another version of the object is another"


def test_an_address_that_two_pods_had_is_marked_with_both() -> None:
    ended = fact("web", "10.0.1.20", START - 500.0, START - 20.0)
    edges, objects, _ = world(text_object(line()), [ended, fact("job", "10.0.1.20", START + 1.0, START + 90.0)])
    assert attribute_object(edges, thing())["FlowEndsAmbiguous"] == 1
    (row,) = objects.rows()
    assert (row["src_pod_state"], row["src_pod_name"], row["src_pod_uid"]) == ("ambiguous", None, None)
    assert row["src_pod_candidates"] == ["shop/job", "shop/web"]


def test_a_lease_that_goes_on_is_known_by_its_nodes_last_report() -> None:
    open_one = fact("web", "10.0.1.20", START - 500.0)
    for until, state in ((START + 60.0, "held"), (START - 100.0, "unknown")):
        edges, objects, _ = world(text_object(line()), [open_one], beats={NODE: Heartbeat("boot-1", until)})
        attribute_object(edges, thing())
        assert objects.rows()[0]["src_pod_state"] == state


def test_each_address_is_asked_about_once_and_only_those_of_subnets() -> None:
    lines = [line(dstaddr=a, pkt_dstaddr=a, srcport=p) for a in ("10.0.2.30", "203.0.113.9") for p in range(500)]
    # 10.0.1.0/24 is a subnet of two VPCs: the records' own counts
    old = [fact(f"old-{n}", "10.0.1.20", START - 90_000.0 + n * 60, START - 89_970.0 + n * 60) for n in range(200)]
    edges, _, ledger = world(text_object(*lines), [*old, WEB, DB])
    counts = attribute_object(edges, thing())
    assert set(ledger.asked) == {"10.0.1.20", "10.0.2.30"}
    assert ledger.asked["10.0.1.20"] <= 2, "200 older leases are not read: one of each subnet is enough"
    assert counts["FlowLedgerQueries"] == sum(ledger.asked.values())


def test_no_data_is_left_out_and_skipped_records_stay() -> None:
    nothing = dict.fromkeys(("srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets", "bytes", "action"), "-")
    nothing |= {"pkt_srcaddr": "-", "pkt_dstaddr": "-", "flow_direction": "-"}
    lines = [line(**nothing, log_status="NODATA"), line(**nothing, log_status="SKIPDATA"), line()]
    for made in (text_object, as_parquet):
        edges, objects, _ = world(made(*lines), [WEB])
        counts = attribute_object(edges, thing())
        assert [row["log_status"] for row in objects.rows()] == ["SKIPDATA", "OK"]
        assert objects.rows()[0]["src_pod_reason"] == "the record names no address"
        assert (counts["FlowRowsNoData"], counts["FlowRowsSkipped"], counts["FlowRows"]) == (1, 1, 2)


def test_fields_that_are_not_known_are_kept_beside() -> None:
    data = text_object(f"{line()} blue", f"{line()} -", header=f"{FORMAT} colour-of-packet")
    edges, objects, _ = world(data)
    attribute_object(edges, thing())
    assert [row["other"] for row in objects.rows()] == [[("colour_of_packet", "blue")], [("colour_of_packet", None)]]


def test_the_default_format_has_no_packet_addresses_and_says_so() -> None:
    header = " ".join(FORMAT.split()[:14])
    edges, objects, _ = world(text_object(" ".join(line().split()[:14]), header=header), [WEB, DB])
    attribute_object(edges, thing())
    (row,) = objects.rows()
    assert (row["src_pod_state"], row["dst_pod_state"], row["dst_pod_name"]) == ("unknown", "held", "db")


def test_ipv6_flows_are_named() -> None:
    six = fact("six", "2001:db8:1::5", START - 500.0, START + 500.0)
    to = {"dstaddr": "2001:db8:1::5", "pkt_dstaddr": "2001:db8:1:0:0:0:0:5"}
    edges, objects, _ = world(text_object(line(**to)), [six])
    attribute_object(edges, thing())
    assert objects.rows()[0]["dst_pod_name"] == "six"


def test_values_that_are_no_numbers_and_lines_of_another_length_are_counted() -> None:
    lines = [line(), line(srcport="http"), line(bytes="9" * 30), line(start="soon"), "2 eni-1", f"{line()} more"]
    edges, objects, _ = world(text_object(*lines), [WEB])
    counts = attribute_object(edges, thing())
    assert [(r["srcport"], r["bytes"]) for r in objects.rows()] == [(40000, 1500), (None, 1500), (40000, None)]
    assert (counts["FlowValuesMalformed"], counts["FlowRowsMalformed"]) == (3, 3)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "names no fields"),
        (text_object(*[line()] * 5000)[:-400], "broken"),
        (text_object(line())[:12], "broken"),
        (b"\x1f\x8b\x08\x00garbage-garbage-garbage", "broken"),
        (as_parquet(*[line()] * 50)[:-30], "broken"),
        (b"PAR1" + b"\0" * 40, "broken"),
        (gzip.compress(b"{}\n"), "names no fields"),
        (text_object(*(line(start=START + n * 3600) for n in range(200))), "more than 96 hours"),
    ],
)
def test_a_broken_object_is_refused_and_nothing_is_written(data: bytes, said: str) -> None:
    edges, objects, _ = world(data, [WEB])
    with pytest.raises(UnreadableFlowsError, match=said):
        attribute_object(edges, thing())
    assert objects.put_files == {}


def test_an_object_with_a_header_alone_is_done_with() -> None:
    edges, objects, ledger = world(text_object())
    counts = attribute_object(edges, thing())
    assert (counts["FlowObjects"], objects.put_files, ledger.asked) == (1, {}, {})


def test_what_is_no_flow_log_or_gone_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    edges, objects, _ = world(b"whatever")
    assert attribute_object(edges, thing("AWSLogs/1/elasticloadbalancing/x.gz"))["FlowObjectsLeftOut"] == 1
    objects.gone = True
    with caplog.at_level(logging.WARNING):
        assert attribute_object(edges, thing())["FlowObjectsLeftOut"] == 1
    assert "gone" in caplog.text


def test_nothing_stays_on_disk(tmp_path: Any) -> None:
    edges, _, _ = world(text_object(line()), [WEB], scratch=tmp_path)
    attribute_object(edges, thing())
    assert list(tmp_path.iterdir()) == []


_VALUES = st.one_of(
    st.sampled_from(["-", "0", "10.0.1.20", "2001:db8:1::5", "OK", "NODATA", "egress", str(START), "-1", "9" * 25]),
    st.text(st.characters(codec="utf-8", exclude_characters=" \n\r\0"), min_size=1, max_size=9),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(FORMAT.split()), _VALUES), max_size=8))
def test_whatever_values_a_record_has_none_is_lost_uncounted(changes: list[dict[str, str]]) -> None:
    lines = [line(**change) for change in changes]
    edges, objects, _ = world(text_object(*lines), [WEB, DB])
    try:
        counts = attribute_object(edges, thing())
    except UnreadableFlowsError:
        return
    kept = len(objects.rows())
    assert kept == counts["FlowRows"]
    assert kept + counts["FlowRowsMalformed"] + counts["FlowRowsNoData"] == len(lines)
    ends = sum(counts[f"FlowEnds{state}"] for state in ("Held", "Unknown", "Ambiguous", "None"))
    assert ends == 2 * kept
