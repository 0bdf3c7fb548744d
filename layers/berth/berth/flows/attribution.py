"""The function's shell: one flow-log object in, its flows with pods' names out.

The output's keys follow from the object's name and etag alone, so whatever is repeated overwrites itself. Nothing is
written before all of the object has been read.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from berth.events.flow_log_object import FlowObject
from berth.flows.asking import Leases, ask_ledger
from berth.flows.ends import Subnets
from berth.flows.joining import Joiner, survey
from berth.flows.objects import GoneError, Objects
from berth.flows.reading import FlowFile
from berth.flows.writing import HourlyFiles

__all__ = ["PREFIX", "FlowEdges", "attribute_object", "output_name"]

logger = logging.getLogger(__name__)

PREFIX: Final = "flows/"
_COUNTED: Final = (
    "FlowObjects",
    "FlowObjectsLeftOut",
    "FlowRows",
    "FlowRowsMalformed",
    "FlowRowsNoData",
    "FlowRowsSkipped",
    "FlowValuesMalformed",
    "FlowAddressesAsked",
    "FlowLedgerQueries",
    "FlowEndsHeld",
    "FlowEndsUnknown",
    "FlowEndsAmbiguous",
    "FlowEndsNone",
)


@dataclass(frozen=True, slots=True)
class FlowEdges:
    """``subnets`` asks EC2, and remembers for a while. ``scratch`` has room for the object and what comes of it."""

    objects: Objects
    ledger: Leases
    subnets: Callable[[], Subnets]
    scratch: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    clock: Callable[[], float] = time.time


def output_name(thing: FlowObject) -> str:
    """The name of what comes of one version of an object, in each hour."""
    named = f"s3://{thing.bucket}/{thing.key}#{thing.etag}"
    return f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.parquet"


def attribute_object(edges: FlowEdges, thing: FlowObject) -> Counter[str]:
    """Write an object's flows with pods' names. Returns counts for metrics.

    Raises ``UnreadableFlowsError`` for an object that is broken, and botocore's errors; then nothing was written, or
    the same will be written again.
    """
    counts = Counter(dict.fromkeys(_COUNTED, 0))
    if not thing.is_flow_log:
        counts["FlowObjectsLeftOut"] = 1
        return counts
    with tempfile.TemporaryDirectory(dir=edges.scratch, prefix="flows-") as folder:
        path = Path(folder) / "object"
        try:
            edges.objects.fetch(thing, path)
        except GoneError as error:
            logger.warning("the object is gone", extra={"object": str(error)})
            counts["FlowObjectsLeftOut"] = 1
            return counts
        _attribute(edges, thing, path, counts)
    counts["FlowObjects"] = 1
    return counts


def _attribute(edges: FlowEdges, thing: FlowObject, path: Path, counts: Counter[str]) -> None:
    file, subnets, now = FlowFile(path), edges.subnets(), edges.clock()
    wanted = survey(file, subnets)
    counts["FlowAddressesAsked"] = len(wanted)
    leases = ask_ledger(edges.ledger, wanted, now, counts)
    windows = {address: about.window for address, about in wanted.items()}
    joiner = Joiner(leases, windows, subnets, f"s3://{thing.bucket}/{thing.key}", now, counts)
    hours = HourlyFiles(path.parent)
    for batch in file.batches():
        hours.add(joiner.join(batch))
    counts.update(file.counts)
    name = output_name(thing)
    for hour, written in hours.close():
        edges.objects.put(f"{PREFIX}hour={hour}/{name}", written)
        written.unlink()
