"""The sandbox's flow logs: the records that AWS would make of what was seen, in the flow log's own format."""

from __future__ import annotations

import gzip
import io
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.sandbox.fabric.flows import Flow, Traffic
from tests.sandbox.flowlogs import FlowDelivery, object_key, records, rendered
from tests.sandbox.world import Eni, FlowLog, Subnet, World

FORMAT = "version interface-id srcaddr dstaddr pkt-srcaddr pkt-dstaddr action vpc-id az-id flow-direction"
FIELDS = (*FORMAT.split(),)
WORLD = World(
    subnets=(Subnet("subnet-a", "10.0.1.0/24", "eu-west-1a", "vpc-1"),),
    enis=(Eni("eni-1", "02:00:00:00:00:01", "subnet-a", ("10.0.1.4",), ("10.0.1.16/28",), "i-1"),),
)
OUT = Flow("eni-1", True, True, "10.0.1.20", "10.0.2.9", 4000, 80, 6)
IN = Flow("eni-1", False, False, "10.0.2.9", "10.0.1.20", 4000, 22, 6)
SEEN = {OUT: Traffic(100.2, 130.9, 3, 1500, 3), IN: Traffic(101.0, 101.0, 1, 60, 2)}


def log(**changes: Any) -> FlowLog:
    return FlowLog(
        **{
            "id": "fl-1",
            "resource_id": "vpc-1",
            "traffic": "ALL",
            "bucket": "b",
            "prefix": "",
            "fields": FIELDS,
            **changes,
        }
    )


def test_an_interfaces_own_end_is_its_primary_address_and_the_packets_is_beside_it() -> None:
    out, came = records(WORLD, log(), SEEN)
    assert (out["srcaddr"], out["dstaddr"], out["pkt-srcaddr"]) == ("10.0.1.4", "10.0.2.9", "10.0.1.20")
    assert (came["srcaddr"], came["dstaddr"], came["pkt-dstaddr"]) == ("10.0.2.9", "10.0.1.4", "10.0.1.20")
    assert (out["start"], out["end"], out["action"], came["action"]) == (100, 130, "ACCEPT", "REJECT")
    assert (out["version"], out["flow-direction"], came["flow-direction"]) == (5, "egress", "ingress")


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"traffic": "REJECT"}, 1),
        ({"traffic": "ACCEPT"}, 1),
        ({"resource_id": "subnet-a"}, 2),
        ({"resource_id": "eni-1"}, 2),
        ({"resource_id": "vpc-2"}, 0),
    ],
)
def test_a_flow_log_has_what_it_was_made_for(changes: dict[str, str], count: int) -> None:
    assert len(records(WORLD, log(**changes), SEEN)) == count


def test_text_has_a_header_and_dashes_and_parquet_the_same_with_underscores() -> None:
    rows = records(WORLD, log(), SEEN)
    lines = gzip.decompress(rendered(log(), rows)).decode().splitlines()
    assert lines[0].split() == list(FIELDS)
    assert lines[1] == "5 eni-1 10.0.1.4 10.0.2.9 10.0.1.20 10.0.2.9 ACCEPT vpc-1 - egress"
    table = pq.read_table(io.BytesIO(rendered(log(parquet=True), rows))).to_pylist()
    assert table[0]["pkt_srcaddr"] == "10.0.1.20"
    assert table[0]["az_id"] is None


def test_objects_are_named_as_flow_logs_name_them() -> None:
    key = object_key(log(prefix="net"), 1_795_600_800, 5)
    assert key == (
        "net/AWSLogs/123456789012/vpcflowlogs/eu-west-1/2026/11/25/"
        "123456789012_vpcflowlogs_eu-west-1_fl-1_20261125T1000Z_00000005.log.gz"
    )


def test_nothing_is_delivered_into_a_bucket_whose_policy_does_not_let_the_service() -> None:
    put: list[str] = []
    world = World(subnets=WORLD.subnets, enis=WORLD.enis, flow_logs=(log(),))
    refusing = FlowDelivery(lambda: SEEN, lambda _, key, __: put.append(key), lambda *_: "no policy")
    with pytest.raises(PermissionError, match="no policy"):
        refusing.deliver(world, 0.0)
    assert put == []
    FlowDelivery(lambda: SEEN, lambda _, key, __: put.append(key), lambda *_: None).deliver(world, 0.0)
    assert len(put) == 1
