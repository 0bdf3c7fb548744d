"""Reads a flow-log object, gzip text or Parquet, in batches of columns. Memory does not grow with the object.

Each batch has the columns that the object has, with the types of ``fields.FIELDS``, and ``other`` for fields that are
not known here. "-" stands for what does not apply, and becomes null. A value that is no number where one belongs
becomes null too, and a line with too few or too many fields is left out; both are counted.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from berth.flows.fields import FIELDS, UnreadableFlowsError, fields_of, parse_header

__all__ = ["ARROW_TYPES", "FlowFile"]

ARROW_TYPES: Final = {
    "string": pa.string(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "array<string>": pa.list_(pa.string()),
    "map<string,string>": pa.map_(pa.string(), pa.string()),
}
_PARQUET: Final = b"PAR1"
_GZIP: Final = b"\x1f\x8b"
_BLOCK_BYTES: Final = 1 << 21
_BATCH_ROWS: Final = 1 << 14
_HEADER_BYTES: Final = 1 << 14
_NOTHING: Final = ["-", ""]
_NUMBER: Final = r"^-?[0-9]{1,18}$"
_MALFORMED: Final = "FlowRowsMalformed"
_MALFORMED_VALUES: Final = "FlowValuesMalformed"


class FlowFile:
    """An object on disk. It can be read several times; ``counts`` are of the last time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            start = file.read(4)
        self._parquet = start == _PARQUET
        self._packed = start.startswith(_GZIP)
        self.counts: Counter[str] = Counter()
        with _reading():
            self.names = self._parquet_names() if self._parquet else self._header()

    def batches(self, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Raises :class:`UnreadableFlowsError`, at the place where the object is broken."""
        self.counts = Counter({_MALFORMED: 0, _MALFORMED_VALUES: 0})
        wanted = [n for n in self.names if names is None or n in names]
        with _reading():
            for batch in self._parquet_batches(wanted) if self._parquet else self._text_batches(wanted):
                yield self._typed(batch, wanted)

    # ---------------------------------------------------------------------------------------------------- Parquet

    def _parquet_names(self) -> tuple[str, ...]:
        return fields_of(pq.read_schema(self._path).names)

    def _parquet_batches(self, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        # with a buffer, a row group is read page by page and not as a whole
        with pq.ParquetFile(self._path, buffer_size=1 << 16, pre_buffer=False) as file:
            columns = [file.schema_arrow.names[self.names.index(n)] for n in wanted]
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                # whatever the order in the file
                yield pa.RecordBatch.from_arrays([_texts(batch.column(c)) for c in columns], names=list(wanted))

    # ------------------------------------------------------------------------------------------------------- text

    def _opened(self) -> BinaryIO:
        if self._packed:
            return cast(BinaryIO, gzip.open(self._path, "rb"))
        return self._path.open("rb")

    def _header(self) -> tuple[str, ...]:
        with self._opened() as file:
            return parse_header(file.readline(_HEADER_BYTES))

    def _text_batches(self, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with self._opened() as file:
            file.readline(_HEADER_BYTES)
            first = file.read(1)
            if not first:
                return  # a header and no record
            reader = csv.open_csv(
                _Rest(first, file),
                csv.ReadOptions(column_names=self.names, use_threads=False, block_size=_BLOCK_BYTES),
                csv.ParseOptions(delimiter=" ", quote_char=False, invalid_row_handler=self._skip),
                csv.ConvertOptions(
                    column_types=dict.fromkeys(self.names, pa.string()),
                    include_columns=list(wanted),
                    null_values=_NOTHING,
                    strings_can_be_null=True,
                    check_utf8=False,
                ),
            )
            yield from reader

    def _skip(self, _row: Any) -> str:
        self.counts[_MALFORMED] += 1
        return "skip"

    # ------------------------------------------------------------------------------------------------------ types

    def _typed(self, batch: pa.RecordBatch, wanted: Sequence[str]) -> pa.RecordBatch:
        known = [n for n in wanted if n in FIELDS]
        arrays = [self._cast(batch.column(wanted.index(n)), ARROW_TYPES[FIELDS[n]]) for n in known]
        unknown = [n for n in wanted if n not in FIELDS]
        if unknown:
            arrays.append(_map([(n, batch.column(wanted.index(n))) for n in unknown]))
        return pa.RecordBatch.from_arrays(arrays, names=[*known, *(["other"] if unknown else [])])

    def _cast(self, array: pa.Array, kind: pa.DataType) -> pa.Array:
        if pa.types.is_string(array.type) and kind == pa.string():
            return _valid(array)
        try:
            return array.cast(kind)
        except pa.ArrowInvalid:
            return self._numbers(array, kind)

    def _numbers(self, array: pa.Array, kind: pa.DataType) -> pa.Array:
        texts = array.cast(pa.string())
        numbers = pc.if_else(pc.match_substring_regex(texts, _NUMBER), texts, None).cast(pa.int64())
        if kind == pa.int32():
            fits = pc.and_(pc.greater_equal(numbers, -(2**31)), pc.less(numbers, 2**31))
            numbers = pc.if_else(fits, numbers, None)
        self.counts[_MALFORMED_VALUES] += numbers.null_count - array.null_count
        return numbers.cast(kind)


def _texts(array: pa.Array) -> pa.Array:
    """A Parquet column as a text file would have it: "-" is nothing, and what is neither text nor number is text."""
    kind = array.type
    if pa.types.is_integer(kind):
        return array
    array = array.cast(pa.string()) if kind != pa.string() else array
    return pc.if_else(pc.equal(array, "-"), None, array)


def _valid(array: pa.Array) -> pa.Array:
    """Text that is no UTF-8 is what a broken file has: it must not break what is written."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        raw = array.cast(pa.binary()).to_pylist()
        return pa.array([None if v is None else v.decode("utf-8", "replace") for v in raw], pa.string())
    return array


def _map(columns: Sequence[tuple[str, pa.Array]]) -> pa.Array:
    """A map of the unknown fields for each row."""
    values = [[None if v is None else str(v) for v in column.to_pylist()] for _, column in columns]
    keys = [name for name, _ in columns]
    return pa.array(
        [list(zip(keys, row, strict=True)) for row in zip(*values, strict=True)], ARROW_TYPES["map<string,string>"]
    )


class _Rest(io.RawIOBase):
    """What is left of a file of which one byte has been read already."""

    def __init__(self, first: bytes, file: BinaryIO) -> None:
        super().__init__()
        self._first, self._file = first, file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._first and size:
            first, self._first = self._first, b""
            return first
        return self._file.read(size)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UnreadableFlowsError(f"the object is broken: {error}") from error
    except OSError as error:
        if isinstance(error, (FileNotFoundError, PermissionError)) or error.errno is not None:
            raise
        # Arrow's own: a Parquet page that cannot be read
        raise UnreadableFlowsError(f"the object is broken: {error}") from error
