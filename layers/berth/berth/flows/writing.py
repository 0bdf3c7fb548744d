"""Writes attributed flows as Parquet files on disk, one for each hour, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from berth.flows.fields import COLUMNS, UnreadableFlowsError
from berth.flows.reading import ARROW_TYPES

__all__ = ["SCHEMA", "HourlyFiles", "hour_of"]

SCHEMA: Final = pa.schema([pa.field(name, ARROW_TYPES[kind]) for name, kind in COLUMNS.items()])
_GROUP_ROWS: Final = 1 << 16
_HOURS: Final = 96
"""Hours of one object at the most. It has those of some minutes; more are broken times, and would be as many files."""
_HOUR: Final = 3600


def hour_of(start: int) -> str:
    """The partition of a record that starts then, UTC: ``2026-11-22-10``."""
    return datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d-%H")


class HourlyFiles:
    """``HOUR.parquet`` for each hour, in a folder. Equal rows make equal bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._waiting: dict[str, list[pa.RecordBatch]] = {}
        self._rows: dict[str, int] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Rows with all columns of :data:`SCHEMA`; each needs a ``start``."""
        hours = pc.divide(batch.column("start"), _HOUR)
        found = sorted(hours.unique().to_pylist())
        for hour in found:
            self._put(hour_of(hour * _HOUR), batch if len(found) == 1 else batch.filter(pc.equal(hours, hour)))

    def _put(self, hour: str, batch: pa.RecordBatch) -> None:
        waiting = self._waiting.setdefault(hour, [])
        waiting.append(batch)
        self._rows[hour] = self._rows.get(hour, 0) + len(batch)
        if self._rows[hour] >= _GROUP_ROWS:
            self._flush(hour)

    def _flush(self, hour: str) -> None:
        batches = self._waiting.pop(hour, [])
        self._rows[hour] = 0
        if not batches:
            return
        if hour not in self._writers:
            if len(self._writers) >= _HOURS:
                raise UnreadableFlowsError(f"its records are of more than {_HOURS} hours: their times are broken")
            path = self._folder / f"{hour}.parquet"
            self._writers[hour] = pq.ParquetWriter(path, SCHEMA, compression="zstd", version="2.6")
        self._writers[hour].write_table(pa.Table.from_batches(batches, SCHEMA))

    def close(self) -> Iterator[tuple[str, Path]]:
        """Finish all files: (hour, path), in order."""
        for hour in sorted(self._waiting):
            self._flush(hour)
        for hour in sorted(self._writers):
            self._writers[hour].close()
            yield hour, self._folder / f"{hour}.parquet"
