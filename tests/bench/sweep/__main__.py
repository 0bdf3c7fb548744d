"""One sweep over fleets of growing size, the deployed handler against AWS's own wire formats: memory and calls.

Writes build/bench/sweep.json and prints a table. EC2's own latency is in none of the seconds: they are what the
function spends on parsing and comparing, with a whole processor and with the part of one that Lambda gives at 512 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.sweep.cloud import Cloud, serving
from tests.bench.sweep.fleet import ARN_PREFIX, CLUSTER, Fleet

ROOT = Path(__file__).parents[3]
LIMIT_MEGABYTES = 512
TIMEOUT_SECONDS = 300.0
SHARE = 512 / 1769
"""Of a processor, at 512 MB (Lambda Developer Guide, "Configure Lambda function memory": one at 1,769 MB)."""
EC2 = ("DescribeInstances", "DescribeNetworkInterfaces", "DescribeSubnets", "GetSubnetCidrReservations")
CASES: dict[str, tuple[Fleet, bool]] = {
    "500 nodes, 10,000 interfaces": (Fleet(500), False),
    "5,000 nodes, 100,000 interfaces": (Fleet(5000), False),
    "the same after an outage: no records": (Fleet(5000), True),
    "the same with 49 single addresses each": (Fleet(5000, prefixes=0, addresses=49), False),
}


def run(fleet: Fleet, *, lost: bool = False) -> dict[str, Any]:
    """One invocation, in a process of its own."""
    cloud = Cloud(fleet, lost=lost)
    with serving(cloud) as url:
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.sweep.invocation", str(TIMEOUT_SECONDS)],
            cwd=ROOT,
            env=_environment(url),
            stdout=subprocess.PIPE,
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout)
    described = {action: cloud.calls[action] for action in EC2 if cloud.calls[action]}
    return {
        "nodes": fleet.nodes,
        "interfaces": fleet.nodes * fleet.interfaces,
        "megabytes": found["megabytes"],
        "megabytes_before": found["megabytes_before"],
        "describe_calls": sum(described.values()),
        "describe_calls_by_action": described,
        "other_calls": {k: v for k, v in sorted(cloud.calls.items()) if k not in EC2},
        "table_megabytes_read": round(cloud.read_bytes / 1e6, 1),
        "seconds": found["seconds"],
        "cpu_seconds": found["cpu_seconds"],
        "lambda_seconds": round(found["cpu_seconds"] / SHARE, 1),
        "finished": bool(found["counts"]["SweepsFinished"]),
        "looks_asked": found["counts"]["SweepRepairs"],
        "troubles": found["counts"]["SweepTroubles"],
    }


def _environment(url: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join((".", "layers/berth", "node_agent")),
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_REGION": "eu-west-1",
        "CLUSTER_NAMES": CLUSTER,
        "TABLE_NAME": "nodes",
        "NODE_EVENTS_QUEUE_URL": f"{url}/123456789012/events",
        "NODE_REPORTS_QUEUE_ARN": "arn:aws:sqs:eu-west-1:123456789012:reports",
        "BUS_NAME": "berth",
        "INSTANCE_ARN_PREFIX": ARN_PREFIX,
        "DEFAULT_MODE": "prefixes",
        "DEFAULT_WARM_ADDRESSES": "8",
        "DEFAULT_MINIMUM_ADDRESSES": "0",
        "DEFAULT_MAX_PODS": "110",
        "DEFAULT_COOLDOWN_SECONDS": "120",
        "POWERTOOLS_METRICS_NAMESPACE": "Berth",
        "POWERTOOLS_SERVICE_NAME": "sweep",
    }


def main(arguments: list[str]) -> int:
    """Returns 1 where a fleet does not fit the function."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sweep", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "sweep.json")
    options = parser.parse_args(arguments)
    results = {}
    print(f"{'fleet':42} {'MB':>6} {'describes':>9} {'table MB':>8} {'cpu s':>6} {'on Lambda':>9} {'asked':>6}")
    for name, (fleet, lost) in CASES.items():
        r = results[name] = run(fleet, lost=lost)
        print(
            f"{name:42} {r['megabytes']:6.0f} {r['describe_calls']:9} {r['table_megabytes_read']:8} "
            f"{r['cpu_seconds']:6} {r['lambda_seconds']:9} {r['looks_asked']:6}"
            f"{'' if r['finished'] else '  (not finished in one run)'}",
            flush=True,
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"limit_megabytes": LIMIT_MEGABYTES, "fleets": results}, indent=2) + "\n")
    print(options.out)
    return int(any(r["megabytes"] > LIMIT_MEGABYTES or r["troubles"] for r in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
