"""Where ``berth flows`` reads: a folder, or the bucket of a stack; a file at a time, batch by batch."""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from berth.cli.account import aws_errors, session
from berth.cli.command import CliError, UsageError
from berth.cli.ledger import parse_time
from berth.cli.stack import DEFAULT_STACK, add_stack_option, stack_outputs

__all__ = ["Span", "add_source_options", "batches", "require_pyarrow", "span_of"]

_HOUR: Final = timedelta(hours=1)
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400}
_LONGEST_HOURS: Final = 24 * 3660
_PREFIX: Final = "flows/"
_ROWS: Final = 1 << 16
_SPOOLED_BYTES: Final = 8 << 20

Opener = Callable[[], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True, slots=True)
class Span:
    """From ``since`` up to ``until``, Unix seconds."""

    since: float
    until: float

    def hours(self) -> Iterator[str]:
        """The partitions, UTC."""
        hour = datetime.fromtimestamp(self.since, UTC).replace(minute=0, second=0, microsecond=0)
        while hour.timestamp() < self.until:
            yield hour.strftime("%Y-%m-%d-%H")
            hour += _HOUR


def add_source_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--last", metavar="TIME", default="1h", help="as in 30m, 6h or 2d; default: 1h")
    parser.add_argument("--from", dest="since", metavar="TIME", help="instead of --last: ISO 8601 with a zone")
    parser.add_argument("--until", metavar="TIME", help="ISO 8601 with a zone; default: now")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="read copies of the bucket's hour=... folders here")
    add_stack_option(parser, DEFAULT_STACK)


def span_of(arguments: argparse.Namespace) -> Span:
    """What the arguments ask about. Raises :class:`UsageError`."""
    until = parse_time(arguments.until) if arguments.until else time.time()
    if arguments.since:
        since = parse_time(arguments.since)
    else:
        match = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", arguments.last)
        if match is None:
            raise UsageError(f"--last {arguments.last}: write it as in 30m, 6h or 2d")
        since = until - int(match[1]) * _UNITS[match[2]]
    if not 0 <= since < until or until - since > _LONGEST_HOURS * 3600:
        raise UsageError("the time asked about is empty, or longer than ten years")
    return Span(since, until)


def require_pyarrow() -> None:
    """Raises :class:`CliError` where it is not installed: no other command needs it."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise CliError(
            "flows are Parquet files, and pyarrow, which reads them, is not installed: pip install 'berth[flows]'"
        ) from None


def batches(arguments: argparse.Namespace, columns: tuple[str, ...]) -> Iterator[Any]:
    """Arrow batches with these columns, of records that end within the time that is asked about.

    Raises :class:`CliError`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    span = span_of(arguments)
    for name, opened in _in_folder(arguments.folder, span) if arguments.folder else _in_bucket(arguments, span):
        try:
            with opened() as file, pq.ParquetFile(file) as flows:
                for batch in flows.iter_batches(_ROWS, columns=list(columns), use_threads=False):
                    end = batch.column("end")
                    yield batch.filter(pc.and_(pc.greater_equal(end, span.since), pc.less(end, span.until)))
        except (pa.ArrowException, KeyError) as error:
            raise CliError(f"{name} is no file of attribute_flows, or is broken: {error}") from None


def _in_folder(folder: Path, span: Span) -> Iterator[tuple[str, Opener]]:
    if not folder.is_dir():
        raise CliError(f"there is no folder {folder}")
    hours = set(span.hours())
    for path in sorted(folder.rglob("hour=*/*.parquet")):
        if path.parent.name.removeprefix("hour=") in hours:
            yield str(path), lambda path=path: path.open("rb")  # type: ignore[misc]


def _in_bucket(arguments: argparse.Namespace, span: Span) -> Iterator[tuple[str, Opener]]:
    account = session(arguments)
    bucket = stack_outputs(account, arguments.stack).get("PodFlowsBucketName")
    if not bucket:
        raise CliError(f"the stack {arguments.stack} has no flows with names: its parameter FlowAttribution is false")
    with aws_errors("read the flows"):
        s3 = account.client("s3")
        for hour in span.hours():
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{_PREFIX}hour={hour}/")
            for thing in (thing for page in pages for thing in page.get("Contents", ())):
                yield f"s3://{bucket}/{thing['Key']}", lambda key=thing["Key"]: _fetched(s3, bucket, key)  # type: ignore[misc]


def _fetched(s3: Any, bucket: str, key: str) -> AbstractContextManager[BinaryIO]:
    with aws_errors(f"read s3://{bucket}/{key}"):
        file = tempfile.SpooledTemporaryFile(_SPOOLED_BYTES)  # noqa: SIM115 - closed by who reads it
        for chunk in s3.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(1 << 20):
            file.write(chunk)
        file.seek(0)
    return cast(AbstractContextManager[BinaryIO], file)
