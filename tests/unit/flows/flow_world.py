"""Objects, leases and edges for the tests of flow attribution."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from berth.contract import PodLease
from berth.events.flow_log_object import FlowObject
from berth.flows.attribution import FlowEdges
from berth.flows.ends import Subnet, Subnets
from berth.flows.objects import GoneError
from berth.history import Heartbeat, Held, histories
from berth.ledger_items import Fact, begin_key

__all__ = [
    "FORMAT",
    "NODE",
    "START",
    "SUBNETS",
    "FakeLedger",
    "FakeObjects",
    "fact",
    "held",
    "line",
    "parquet_object",
    "text_object",
    "thing",
    "world",
]

START: Final = 1_795_600_800
"""2026-11-25T10:00:00Z."""
NODE: Final = "i-0123456789abcdef0"
SUBNETS: Final = Subnets(
    [
        Subnet("subnet-a", "vpc-1", ("10.0.1.0/24", "2001:db8:1::/64")),
        Subnet("subnet-b", "vpc-1", ("10.0.2.0/24",)),
        Subnet("subnet-other", "vpc-2", ("10.0.1.0/24",)),
    ]
)
FORMAT: Final = (
    "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action"
    " log-status vpc-id pkt-srcaddr pkt-dstaddr flow-direction"
)


def line(**changes: Any) -> str:
    """A record in :data:`FORMAT`: web at 10.0.1.20 to db at 10.0.2.30, as web's interface saw it."""
    values: dict[str, Any] = {
        "version": 5,
        "account-id": "123456789012",
        "interface-id": "eni-1",
        "srcaddr": "10.0.1.4",
        "dstaddr": "10.0.2.30",
        "srcport": 40000,
        "dstport": 443,
        "protocol": 6,
        "packets": 3,
        "bytes": 1500,
        "start": START,
        "end": START + 30,
        "action": "ACCEPT",
        "log-status": "OK",
        "vpc-id": "vpc-1",
        "pkt-srcaddr": "10.0.1.20",
        "pkt-dstaddr": "10.0.2.30",
        "flow-direction": "egress",
    }
    values |= {name.replace("_", "-"): value for name, value in changes.items()}
    return " ".join(str(values[name]) for name in FORMAT.split())


def text_object(*lines: str, header: str = FORMAT) -> bytes:
    return gzip.compress("".join(f"{one}\n" for one in (header, *lines)).encode())


def fact(name: str, address: str, began: float, ended: float = 0.0, **more: Any) -> Fact:
    """What the ledger has of one lease."""
    about = {"instance_id": NODE, "interface_id": "eni-1", "subnet_id": "subnet-a", "until": began, **more}
    epoch = about.pop("epoch", "boot-1")
    row = PodLease(0, address, began, ended, namespace="shop", name=name, uid=f"uid-{name}", epoch=epoch)
    return Fact(row, received=began, **about)


def held(name: str, began: float, held_until: float, over_by: float = 0.0, **more: Any) -> Held:
    values: dict[str, Any] = {
        "address": "10.0.1.20",
        "live": False,
        "why": "its node was never heard of again" if not over_by else "",
        "namespace": "shop",
        "name": name,
        "uid": f"uid-{name}",
        "instance_id": NODE,
        "interface_id": "eni-1",
        "subnet_id": "subnet-a",
        "received": began,
    }
    return Held(began=began, held_until=held_until, over_by=over_by, **{**values, **more})


@dataclass
class FakeLedger:
    """The ledger's reader on facts in memory. ``asked`` counts Queries by address."""

    facts: Sequence[Fact] = ()
    beats: dict[str, Heartbeat] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def pages(
        self, index: str | None, key: str, value: str, sort: str | None = None, limit: int | None = None
    ) -> Iterator[list[Fact]]:
        def place(one: Fact) -> str:
            item: str = begin_key(one.lease.address, one.lease.began, one.instance_id, one.lease.epoch)["lease"]["S"]
            return item if not one.lease.ended else item.rpartition("#b#")[0] + "#e"

        assert (index, key) == (None, "address")
        found = sorted((f for f in self.facts if f.lease.address == value), key=place, reverse=True)
        found = [f for f in found if sort is None or place(f) < sort]
        size = limit or 1000
        for at in range(0, len(found), size):
            self.asked[value] += 1
            yield found[at : at + size]
        if len(found) % size == 0:
            self.asked[value] += 1
            yield []

    def leases(self, facts: Sequence[Fact]) -> list[Held]:
        return histories(facts, {}, self.beats)


@dataclass
class FakeObjects:
    """S3: ``data`` of the one object, and what was put, by key."""

    data: bytes = b""
    gone: bool = False
    put_files: dict[str, bytes] = field(default_factory=dict)

    def fetch(self, thing: FlowObject, path: Path) -> None:
        if self.gone:
            raise GoneError(thing.key)
        path.write_bytes(self.data)

    def put(self, key: str, path: Path) -> None:
        self.put_files[key] = path.read_bytes()

    def rows(self) -> list[dict[str, Any]]:
        return [r for data in self.put_files.values() for r in pq.read_table(io.BytesIO(data)).to_pylist()]


def thing(key: str = "AWSLogs/1/vpcflowlogs/eu-west-1/2026/11/25/x.log.gz", etag: str = "e1") -> FlowObject:
    return FlowObject("logs", key, etag, 100)


def world(data: bytes, facts: Sequence[Fact] = (), **more: Any) -> tuple[FlowEdges, FakeObjects, FakeLedger]:
    objects, ledger = FakeObjects(data), FakeLedger(facts, more.pop("beats", {}))
    return FlowEdges(objects, ledger, lambda: SUBNETS, clock=lambda: START + 600.0, **more), objects, ledger


def parquet_object(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer, row_group_size=1000, compression="gzip")
    return buffer.getvalue()
