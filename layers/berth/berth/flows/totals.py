"""Adds up flows with pods' names, batch by batch, for ``berth flows``.

A flow between two interfaces is in the logs of both: leaving the one and coming in at the other. So amounts are kept
for each direction apart, and the larger one counts; what only one side has logged counts as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["BY", "COLUMNS", "Amount", "Denial", "Denials", "Totals", "pod_mask"]

_SUMMED: Final = (("bytes", "sum"), ("packets", "sum"), ("bytes", "count"))
BY: Final = ("pod", "pair", "namespace", "node", "port")
COLUMNS: Final = (
    "bytes",
    "packets",
    "start",
    "end",
    "action",
    "protocol",
    "dstport",
    "flow_direction",
    "reject_reason",
    *(
        f"{end}_{name}"
        for end in ("src", "dst")
        for name in ("address", "pod_state", "pod_namespace", "pod_name", "pod_uid", "pod_node", "pod_candidates")
    ),
)
"""What is read of each file."""


@dataclass(frozen=True, slots=True)
class Amount:
    bytes: int = 0
    packets: int = 0
    records: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.bytes + other.bytes, self.packets + other.packets, self.records + other.records)


def _labels(batch: pa.RecordBatch, end: str) -> pa.Array:
    """NAMESPACE/NAME of a pod, else its address, and whether that could have been a pod."""
    state, address = batch.column(f"{end}_pod_state"), batch.column(f"{end}_address")
    name = pc.binary_join_element_wise(batch.column(f"{end}_pod_namespace"), batch.column(f"{end}_pod_name"), "/")
    unsure = pc.is_in(state, pa.array(["ambiguous", "unknown"]))
    marked = pc.binary_join_element_wise(address, pc.binary_join_element_wise("(", state, ")", ""), " ")
    return pc.coalesce(name, batch.column(f"{end}_pod_uid"), pc.if_else(unsure, marked, address), "-")


def _held(batch: pa.RecordBatch, end: str, column: str) -> pa.Array:
    """``column`` where the end is a pod's."""
    return pc.if_else(pc.equal(batch.column(f"{end}_pod_state"), "held"), batch.column(f"{end}_{column}"), None)


def _pods(batch: pa.RecordBatch, end: str) -> pa.Array:
    return pc.if_else(pc.equal(batch.column(f"{end}_pod_state"), "held"), _labels(batch, end), None)


def pod_mask(batch: pa.RecordBatch, end: str, pod: str) -> pa.Array:
    """Which rows have this pod at an end: NAMESPACE/NAME or a uid."""
    if "/" in pod:
        namespace, _, name = pod.partition("/")
        is_name = pc.equal(batch.column(f"{end}_pod_name"), name)
        found = pc.and_(pc.equal(batch.column(f"{end}_pod_namespace"), namespace), is_name)
    else:
        found = pc.equal(batch.column(f"{end}_pod_uid"), pod)
    return pc.fill_null(found, False)


def _keys(batch: pa.RecordBatch, by: str) -> Iterator[tuple[str, Sequence[pa.Array]]]:
    """(part, columns of the key): what is one thing's is sent by it or received."""
    if by == "pod":
        yield from (("sent", [_pods(batch, "src")]), ("received", [_pods(batch, "dst")]))
    elif by == "node":
        yield from ((part, [_held(batch, end, "pod_node")]) for part, end in (("sent", "src"), ("received", "dst")))
    elif by == "pair":
        yield "sent", [_labels(batch, "src"), _labels(batch, "dst")]
    elif by == "namespace":
        yield "sent", [pc.coalesce(_held(batch, end, "pod_namespace"), "-") for end in ("src", "dst")]
    else:
        yield "sent", [_labels(batch, "dst"), batch.column("protocol"), batch.column("dstport")]


@dataclass(slots=True)
class Totals:
    """``by`` is one of :data:`BY`. What was denied is not traffic, and is left out."""

    by: str
    _kept: dict[tuple[str, tuple[Any, ...]], dict[str | None, Amount]] = field(default_factory=dict)

    def add(self, batch: pa.RecordBatch) -> None:
        batch = batch.filter(pc.fill_null(pc.not_equal(batch.column("action"), "REJECT"), True))
        for part, keys in _keys(batch, self.by):
            names = [f"key{n}" for n in range(len(keys))]
            arrays = [*keys, batch.column("flow_direction"), batch.column("bytes"), batch.column("packets")]
            table = pa.table(arrays, names=[*names, "direction", "bytes", "packets"])
            summed = table.group_by([*names, "direction"], use_threads=False).aggregate(list(_SUMMED))
            for row in summed.to_pylist():
                self._count(part, tuple(row[n] for n in names), row)

    def _count(self, part: str, key: tuple[Any, ...], row: Mapping[str, Any]) -> None:
        if key[0] is None:
            return  # no pod
        amount = Amount(row["bytes_sum"] or 0, row["packets_sum"] or 0, row["bytes_count"])
        ways = self._kept.setdefault((part, key), {})
        ways[row["direction"]] = ways.get(row["direction"], Amount()) + amount

    def top(self, limit: int) -> list[tuple[tuple[Any, ...], Amount, Amount]]:
        """(key, sent, received), the most bytes first."""
        found: dict[tuple[Any, ...], dict[str, Amount]] = {}
        for (part, key), ways in self._kept.items():
            most = max(ways.values(), key=lambda amount: (amount.bytes, amount.packets, amount.records))
            found.setdefault(key, {})[part] = most
        rows = [(k, parts.get("sent", Amount()), parts.get("received", Amount())) for k, parts in found.items()]
        return sorted(rows, key=lambda r: (-(r[1].bytes + r[2].bytes), str(r[0])))[:limit]


@dataclass(frozen=True, slots=True)
class Denial:
    """Packets that were denied. ``at``: leaving the ``source``, or arriving. Times are Unix seconds."""

    source: str
    protocol: int
    port: int
    at: str
    reason: str
    records: int
    packets: int
    first: int
    last: int


@dataclass(slots=True)
class Denials:
    """What was denied on its way to a pod, and from another one if that is asked for.

    ``perhaps`` counts records of an address that this pod may have had.
    """

    to: str
    source: str = ""
    perhaps: int = 0
    _kept: dict[tuple[Any, ...], list[int]] = field(default_factory=dict)

    def add(self, batch: pa.RecordBatch) -> None:
        batch = batch.filter(pc.fill_null(pc.equal(batch.column("action"), "REJECT"), False))
        if self.source:
            batch = batch.filter(pod_mask(batch, "src", self.source))
        if "/" in self.to:
            unsure = batch.filter(pc.is_in(batch.column("dst_pod_state"), pa.array(["ambiguous", "unknown"])))
            self.perhaps += sum(self.to in (named or ()) for named in unsure.column("dst_pod_candidates").to_pylist())
        batch = batch.filter(pod_mask(batch, "dst", self.to))
        names = ("source", "protocol", "dstport", "flow_direction", "reject_reason")
        columns = [_labels(batch, "src"), *(batch.column(n) for n in (*names[1:], "packets", "start", "end"))]
        table = pa.table(columns, names=[*names, "packets", "start", "end"]).group_by(list(names), use_threads=False)
        told = [("packets", "count"), ("packets", "sum"), ("start", "min"), ("end", "max")]
        for row in table.aggregate(told).to_pylist():
            number = [row["packets_count"], row["packets_sum"] or 0, row["start_min"], row["end_max"]]
            key = tuple(row[n] for n in names)
            kept = self._kept.setdefault(key, [0, 0, number[2], number[3]])
            sums = [kept[0] + number[0], kept[1] + number[1]]
            self._kept[key] = [*sums, min(kept[2], number[2]), max(kept[3], number[3])]

    def found(self) -> list[Denial]:
        """The most packets first."""
        rows = [
            Denial(source, protocol or 0, port or 0, _AT.get(way, "-"), reason or "", *amounts)
            for (source, protocol, port, way, reason), amounts in self._kept.items()
        ]
        return sorted(rows, key=lambda d: (-d.packets, d.source, d.port))


_AT: Final[Mapping[str | None, str]] = {"egress": "leaving the source", "ingress": "arriving at the pod"}
