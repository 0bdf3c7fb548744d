"""The CNI bench in its quick size: it runs, and what it writes has the keys that others read."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench.cni.__main__ import main
from tests.bench.cni.peers import DEBIAN
from tests.sandbox import netns


def test_the_quick_bench_measures_every_peer_that_is_installed(tmp_path: Path) -> None:
    out = tmp_path / "cni.json"
    assert main(["--quick", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    peers = ["berth", "floor"] + (["ptp", "ptp_ipmasq", "bridge"] if (DEBIAN / "ptp").exists() else [])
    for key in ("add_ms", "del_ms", "first_packet_ms"):
        assert sorted(found[key]) == sorted(peers)
        assert all(0 < times["p50"] <= times["p99"] for times in found[key].values())
    assert sorted(found["burst110_pods_per_s"]) == sorted(peers)
    # The floor does a part of what Berth does, so no luck makes it the slower one.
    assert found["add_ms"]["floor"]["p50"] < found["add_ms"]["berth"]["p50"]
    assert all(found["first_packet_ms"][p]["p50"] > found["add_ms"][p]["p50"] for p in peers)
    assert found["rtt_us"].keys() == found["rtt_us_rules"].keys() == {"2", "6"}
    assert found["rss_mb"].keys() == {"start", "6"}
    assert found["aims"]
    assert not [name for name in netns.names() if name.partition("-")[0] in peers]
