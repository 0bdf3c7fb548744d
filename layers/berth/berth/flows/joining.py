"""The join: who is in an object, and the pods' columns for each batch of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from berth.flows.asking import Wanted
from berth.flows.ends import Subnets, canonical, end_of, judge
from berth.flows.fields import ENDS
from berth.flows.reading import FlowFile
from berth.flows.window import Attribution, Window, constant
from berth.flows.writing import SCHEMA
from berth.history import Held

__all__ = ["Joiner", "survey"]

_TIMES: Final = ("start", "end")
_NEVER: Final = Window(0.0, 0.0)
_VPC: Final = "vpc_id"
_ADDRESSES: Final = ("srcaddr", "dstaddr", "pkt_srcaddr", "pkt_dstaddr")


def survey(file: FlowFile, subnets: Subnets) -> dict[str, Wanted]:
    """The addresses of an object that are in ``subnets``, with the window that all records of one are in."""
    found: dict[str, Wanted] = {}
    for batch in file.batches([*_TIMES, *_ADDRESSES, _VPC]):
        times = [batch.column(name) for name in _TIMES]
        vpcs = batch.column(_VPC) if _VPC in batch.schema.names else pa.nulls(len(batch), pa.string())
        for side in ENDS:
            table = pa.table([_address(batch, side), vpcs, *times], names=["address", "vpc", *_TIMES])
            grouped = table.group_by(["address", "vpc"], use_threads=False)
            for row in grouped.aggregate([("start", "min"), ("end", "max")]).to_pylist():
                address, start, end = row["address"], row["start_min"], row["end_max"]
                near = subnets.near(address, row["vpc"]) if address is not None else ()
                if near and start is not None and end is not None:
                    wanted = Wanted(Window.of(start, end), frozenset(s.id for s in near))
                    known = found.get(canonical(address))
                    found[canonical(address)] = known.with_(wanted) if known else wanted
    return found


def _address(batch: pa.RecordBatch, side: str) -> pa.Array:
    """The packet's address, else the interface's."""
    columns = [batch.column(name) for name in (f"pkt_{side}addr", f"{side}addr") if name in batch.schema.names]
    return pc.coalesce(*columns)


@dataclass(slots=True)
class Joiner:
    """``leases`` and ``windows`` by address, as :func:`survey` and the ledger gave them; ``source`` names the object in
    each row. Rows are counted in ``counts``."""

    leases: Mapping[str, Sequence[Held]]
    windows: Mapping[str, Window]
    subnets: Subnets
    source: str
    now: float
    counts: Counter[str]

    def join(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch's records with all columns of the output. Left out: records of no data, and those without time."""
        batch = self._kept(batch)
        columns: dict[str, pa.Array] = {name: batch.column(name) for name in batch.schema.names}
        for side in ENDS:
            columns |= self._pods(batch, side)
        columns["source_object"] = pa.repeat(pa.scalar(self.source), len(batch))
        self.counts["FlowRows"] += len(batch)
        missing = SCHEMA.names - columns.keys()
        columns |= {name: pa.nulls(len(batch), SCHEMA.field(name).type) for name in missing}
        return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)

    def _kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        timed = pc.and_(batch.column("start").is_valid(), batch.column("end").is_valid())
        timed = pc.and_(
            timed, pc.and_(pc.greater_equal(batch.column("start"), 0), pc.less(batch.column("start"), 1 << 35))
        )
        timed = pc.fill_null(timed, False)
        self.counts["FlowRowsMalformed"] += len(batch) - _true(timed)
        if "log_status" not in batch.schema.names:
            return batch.filter(timed)
        status = batch.column("log_status")
        nothing = pc.and_(pc.fill_null(pc.equal(status, "NODATA"), False), timed)
        self.counts["FlowRowsNoData"] += _true(nothing)
        self.counts["FlowRowsSkipped"] += _true(pc.fill_null(pc.equal(status, "SKIPDATA"), False))
        return batch.filter(pc.and_not(timed, nothing))

    def _pods(self, batch: pa.RecordBatch, side: str) -> dict[str, pa.Array]:
        answers = _Answers(self, side, f"pkt_{side}addr" in batch.schema.names)
        names = (f"{side}addr", f"pkt_{side}addr", "flow_direction", "interface_id", "vpc_id")
        ends = zip(*(_values(batch, name) for name in names), strict=True)
        times = zip(*(batch.column(name).to_pylist() for name in _TIMES), strict=True)
        indices = [answers.place(end, time) for end, time in zip(ends, times, strict=True)]
        columns = _pod_columns(answers.found, pa.array(indices, pa.int32()))
        for state, number in Counter(columns["pod_state"].to_pylist()).items():
            self.counts[f"FlowEnds{state.capitalize()}"] += number
        return {f"{side}_address": _address(batch, side), **{f"{side}_{name}": a for name, a in columns.items()}}


class _Answers:
    """Whose the ends of a batch's records are: each answer once, and rows by its place among them.

    Most addresses had one pod, or none, for as long as the object is about. Only the others are judged by each record's
    own times.
    """

    def __init__(self, joiner: Joiner, side: str, has_packet: bool) -> None:
        self._joiner, self._side, self._has_packet = joiner, side, has_packet
        self._always: dict[tuple[Any, ...], int | None] = {}
        self._at_times: dict[tuple[Any, ...], int] = {}
        self.found: list[Attribution] = []

    def place(self, key: tuple[Any, ...], times: tuple[int, int]) -> int:
        """``key`` is what :func:`end_of` takes."""
        place = self._always.get(key, -1)
        if place == -1:
            place = self._always[key] = self._whole(key)
        if place is None:
            place = self._at_times.get((key, times))
        if place is None:
            place = self._at_times[key, times] = self._add(self._judged(key, Window.of(*times)))
        return place

    def _whole(self, key: tuple[Any, ...]) -> int | None:
        """The place of what is so for all of the object, or None if it depends on the time."""
        address = key[1] or key[0]
        window = self._joiner.windows.get(canonical(address)) if address else None
        answer = self._judged(key, window or _NEVER)
        return self._add(answer) if window is None or constant(answer, window) else None

    def _judged(self, key: tuple[Any, ...], window: Window) -> Attribution:
        joiner, end = self._joiner, end_of(self._side, *key, has_packet=self._has_packet)
        near = joiner.subnets.of(end.address) if end.address else ()
        return judge(end, window, joiner.leases, near, joiner.now)

    def _add(self, answer: Attribution) -> int:
        self.found.append(answer)
        return len(self.found) - 1


def _values(batch: pa.RecordBatch, name: str) -> Iterable[Any]:
    return batch.column(name).to_pylist() if name in batch.schema.names else repeat(None, len(batch))


def _true(mask: pa.Array) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _pod_columns(found: Sequence[Attribution], indices: pa.Array) -> dict[str, pa.Array]:
    """Each answer is made once, and taken as often as it is the answer."""
    pods = [a.lease for a in found]
    texts: dict[str, list[str | None]] = {
        "pod_state": [a.state.value for a in found],
        "pod_reason": [a.reason or None for a in found],
        "pod_namespace": [(p.namespace or None) if p else None for p in pods],
        "pod_name": [(p.name or None) if p else None for p in pods],
        "pod_uid": [(p.uid or None) if p else None for p in pods],
        "pod_node": [p.instance_id if p else None for p in pods],
    }
    columns = {name: pa.array(values, pa.string()).take(indices) for name, values in texts.items()}
    candidates = [sorted(c.pod for c in a.candidates) or None for a in found]
    columns["pod_candidates"] = pa.array(candidates, pa.list_(pa.string())).take(indices)
    return columns
