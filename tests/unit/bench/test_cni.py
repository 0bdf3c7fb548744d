"""The CNI bench: what it says of the times it has measured, and the order in which it measures."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.bench.cni import plan, result
from tests.bench.cni.peers import Peer

TIMES: dict[str, Any] = {
    "add_ms": {
        "berth": {"p50": 2.0, "p99": 3.0},
        "ptp": {"p50": 10.0, "p99": 20.0},
        "ptp_ipmasq": {"p50": 25.0, "p99": 30.0},
        "floor": {"p50": 1.0, "p99": 2.0},
    },
    "del_ms": {
        "berth": {"p50": 1.0, "p99": 3.0},
        "ptp": {"p50": 20.0, "p99": 30.0},
        "ptp_ipmasq": {"p50": 80.0, "p99": 90.0},
        "floor": {"p50": 0.5, "p99": 2.0},
    },
    "burst110_pods_per_s": {"berth": 600.0, "ptp": 100.0, "ptp_ipmasq": 10.0, "floor": 800.0},
    "rtt_us": {"10": 4.0, "110": 4.1, "250": 4.2},
    "rss_mb": {"start": 30.0, "110": 46.0, "250": 40.0},
}


def test_each_aim_is_judged_by_the_ratio_of_both_sides_of_one_run() -> None:
    judged = {aim.aim: (round(aim.value, 3), aim.met) for aim in result.judge(TIMES)}
    assert judged == {
        "ADD p50 / ptp": (0.2, True),
        "ADD p50 / ptp_ipmasq": (0.08, True),
        "DEL p50 / ptp": (0.05, True),
        "burst, pods a second / ptp": (6.0, True),
        "burst, pods a second / ptp, the higher aim": (6.0, False),
        "ADD p50 / floor": (2.0, False),
        "DEL p50 / floor": (2.0, False),
        "burst duration / floor": (1.333, True),
        "RTT with 250 pods / with 10": (1.05, True),
        "agent's resident memory, MB": (46.0, False),
    }


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert result.milliseconds([1000.0 * n for n in range(1, 101)]) == {"p50": 50.5, "p99": 99.0}
    assert result.milliseconds([3000.0, 1000.0, 2000.0]) == {"p50": 2.0, "p99": 3.0}
    assert result.per_second(110, [100_000.0, 220_000.0, 900_000.0]) == 500.0


def test_every_round_has_every_peer_once_in_an_order_of_its_own() -> None:
    peers = [Peer(name, Path("/x"), {}, reaped=name == "floor") for name in ("berth", "ptp", "floor")]
    batches = [range(n, n + 1) for n in range(40)]
    lines = plan.adds(peers, batches, "turn", random.Random(1))
    order = [line.split()[1] for line in lines if line.startswith("run")]
    rounds = [tuple(order[n : n + 3]) for n in range(0, len(order), 3)]
    assert len(rounds) == 40
    assert {frozenset(r) for r in rounds} == {frozenset({"berth", "ptp", "floor"})}
    assert len(set(rounds)) == 6


def test_what_the_floors_del_leaves_is_deleted_after_it_and_not_timed_with_it() -> None:
    floor = Peer("floor", Path("/x"), {}, reaped=True)
    lines = plan.deletes([floor], [range(2)], "turn", random.Random(1))
    assert [line.split()[0:3] for line in lines] == [
        ["run", "floor", "DEL"],
        ["run", "floor", "DEL"],
        ["go", "300"],
        ["run", "floor", "REAP"],
        ["go", "0"],
    ]
