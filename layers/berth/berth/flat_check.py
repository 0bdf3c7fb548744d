"""The scheduled flat-network check: describe, judge, and tell what breaks. It changes nothing.

See ``berth.flat`` for the judgement, ``berth check`` for the same by hand.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from berth.absent import Unlimited
from berth.budget import Budget, OutOfTokensError, paying
from berth.bus import Bus, network_not_flat
from berth.connect import connect_budget, connect_bus, count_calls
from berth.ec2 import CLIENT_CONFIG
from berth.flat.matrix import Matrix, check
from berth.flat.report import causes
from berth.flat_survey import take_snapshot
from berth.settings import Settings

if TYPE_CHECKING:
    from berth.meters import Meters

__all__ = ["FlatEdges", "check_network", "connect_flat"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FlatEdges:
    """``ec2`` is a client of botocore with EC2's whole model."""

    ec2: Any
    bus: Bus
    settings: Settings
    budget: Budget = field(default_factory=Unlimited)
    clock: Callable[[], float] = time.time


def connect_flat(settings: Settings, meters: Meters) -> FlatEdges:
    """What the check works with, in the region and with the credentials of the environment."""
    from botocore.session import Session

    ec2 = Session().create_client("ec2", config=CLIENT_CONFIG)
    count_calls(ec2, meters)
    return FlatEdges(ec2, connect_bus(settings), settings, connect_budget(settings))


def check_network(edges: FlatEdges) -> Counter[str]:
    """Check once; if something does not pass, tell what breaks it on the bus. Returns counts for metrics.

    Where the token budget has nothing to spare the check is left to the next run: no pod waits for it. Raises
    botocore's errors.
    """
    counts = Counter({"FlatCells": 0, "FlatCellsFailing": 0, "FlatCellsUnknown": 0, "FlatChecksPutOff": 0})
    pay = paying(edges.budget, edges.clock)
    taken_at = datetime.fromtimestamp(edges.clock(), UTC).isoformat(timespec="seconds")
    settings = edges.settings
    try:
        snapshot = take_snapshot(
            edges.ec2, settings.clusters, settings.no_snat_cidrs, taken_at, pay, settings.snat_cidrs
        )
    except OutOfTokensError:
        counts["FlatChecksPutOff"] = 1
        return counts
    matrix = check(snapshot, settings.flat_cidrs)
    failing = [c for c in matrix.failures if c.state != "unknown"]
    counts["FlatCells"], counts["FlatCellsFailing"] = len(matrix.cells), len(failing)
    counts["FlatCellsUnknown"] = len(matrix.failures) - len(failing)
    if failing:
        _tell(edges.bus, matrix, counts)
    return counts


def _tell(bus: Bus, matrix: Matrix, counts: Counter[str]) -> None:
    found = [
        {
            "code": finding.code,
            "resource": finding.resource,
            "rule": finding.what,
            "remedy": finding.remedy,
            "on-the-way-back": finding.answer,
            "breaks": breaks,
        }
        for finding, breaks in causes(matrix)
    ]
    for cause in found:
        logger.warning("the network is not flat", extra={"cause": cause})
    bus.send([network_not_flat(counts["FlatCells"], counts["FlatCellsFailing"], found)])
