"""Every system by its name."""

from __future__ import annotations

from typing import Final

from tests.bench.scale.berth_run import SYSTEMS, run_berth
from tests.bench.scale.peer_run import PEERS, run_peer
from tests.bench.scale.result import Result

__all__ = ["ALL_SYSTEMS", "run"]

ALL_SYSTEMS: Final = (*SYSTEMS, *PEERS)


def run(system: str, nodes: int, pods: int, seed: int) -> Result:
    """One run of one of :data:`ALL_SYSTEMS`: always the same for the same seed."""
    return (run_peer if system in PEERS else run_berth)(system, nodes, pods, seed)
