"""The sweep's memory does not grow with the fleet. ``python -m tests.bench.sweep`` shows it on the wire."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.control.stack_template import load_template

ROOT = Path(__file__).parents[3]


def sweep(nodes: int) -> dict[str, Any]:
    """One sweep of nodes with 20 interfaces each, in a process of its own."""
    path = os.pathsep.join((".", "layers/berth", "node_agent"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.sweep.in_memory", str(nodes)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["counts"]["InterfacesSeen"] == 20 * nodes
    assert (found["counts"]["SweepsFinished"], found["counts"]["SweepTroubles"]) == (1, 0)
    return found


@pytest.mark.long
def test_ten_times_the_fleet_takes_hardly_more_memory_and_ten_times_the_describes() -> None:
    small, large = sweep(500), sweep(5000)
    described = {f"{20 * n:,}": sum(s["calls"].values()) for n, s in ((500, small), (5000, large))}
    print(f"describes by interfaces: {described}; MB: {small['megabytes']:.0f}, {large['megabytes']:.0f}")
    assert large["megabytes"] < small["megabytes"] * 1.1
    memory = load_template()["Resources"]["Sweep"]["Properties"]["MemorySize"]
    assert memory <= 512
    assert large["megabytes"] < memory
    # 25 pages of nodes, 8 pages of interfaces for each, 25 looks for the nodes of records, and one page of the rest
    assert described["100,000"] <= 25 + 200 + 25 + 3


def test_what_is_measured_is_the_memory_of_the_sweep_and_not_of_the_test_that_started_it() -> None:
    before = sweep(10)["megabytes"]
    ours = bytearray(b"x") * 200_000_000
    assert sweep(10)["megabytes"] < before * 1.1
    assert len(ours) == 200_000_000, "held until here"
