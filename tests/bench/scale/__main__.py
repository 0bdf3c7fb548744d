"""``make bench-scale``: every system at every size, in virtual time. Writes build/bench/scale.json, prints tables."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.bench.scale.aims import judge, table
from tests.bench.scale.assumed import LAUNCH_WINDOW, stated
from tests.bench.scale.deployed import deployed
from tests.bench.scale.result import Result
from tests.bench.scale.systems import ALL_SYSTEMS, run
from tests.sandbox.cloud.throttle import limit_of


def main(arguments: list[str]) -> int:
    """Returns 0, also when an aim is not met: the table says so."""
    options = _options(arguments)
    # the largest first, so that both processors end together; the systems of one size next to each other
    wanted = [(s, n, p) for n in sorted(options.nodes, reverse=True) for p in options.pods for s in options.systems]
    results: list[Result] = []
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        runs = {pool.submit(run, *what, options.seed): what for what in wanted}
        for done in as_completed(runs):
            result = done.result()
            results.append(result)
            print(
                f"[{len(results)}/{len(wanted)}, {time.monotonic() - began:.0f} s] {result.system} "
                f"{result.nodes} nodes {result.pods_per_node} pods: all after {result.seconds_all} s",
                flush=True,
            )
    results.sort(key=lambda r: (r.nodes, r.pods_per_node, r.system))
    _write(options.out, results, options.seed)
    print(f"\n{table(results)}\n\n{_beside(results)}\n")
    for verdict in judge(results):
        print(verdict.line())
    print(f"\n{options.out}")
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000, 5000])
    parser.add_argument("--pods", type=int, nargs="+", default=[30, 110])
    parser.add_argument("--systems", nargs="+", choices=ALL_SYSTEMS, default=[*ALL_SYSTEMS])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("build/bench/scale.json"))
    return parser.parse_args(arguments)


def _write(path: Path, results: list[Result], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "assumptions": {**stated(), **_assumptions(results), "seed": seed},
        "aims": [
            {
                "aim": v.aim,
                "nodes": v.nodes,
                "pods_per_node": v.pods,
                "value": v.value,
                "limit": v.limit,
                "at_least": v.at_least,
                "met": v.met,
                "how": v.how,
            }
            for v in judge(results)
        ],
        "runs": [r.as_json() for r in results],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def _assumptions(results: list[Result]) -> dict[str, Any]:
    actions = sorted({a for r in results for a in r.calls})
    limits = {a: limit_of(a, {"Filter.1": ""}) for a in actions}
    template = deployed()
    return {
        "buckets": {a: {"capacity": m.capacity, "refill_per_second": m.refill} for a, m in limits.items()},
        "buckets_unfiltered": "DescribeInstances and DescribeNetworkInterfaces by ids alone: 50, 10 a second",
        "bound": "latency_floor_seconds + the largest over mutating actions of (calls - throttled - capacity) / refill",
        "latency_floor": "from a node's event to usable addresses, nobody else in the way, every latency at its least",
        "policy": f"minimum addresses = min({template.policy.max_pods}, pods + {template.policy.warm_addresses} warm) "
        "by tag on the instance; the tuned model has the same figures as MINIMUM_IP_TARGET and WARM_IP_TARGET",
        "asked_beyond_the_type": "of single addresses the type holds 56: so many pods come then (addresses_per_node)",
        "lambda": {"MaximumConcurrency": template.concurrency, "BatchSize": 10, "batching window": 0},
        "run_instances": "1,000 instances at once, then 2 a second (EC2 API throttling); the quota is assumed raised",
        "subnets": "enough /16 subnets that none fills or fragments",
    }


def _beside(results: list[Result]) -> str:
    """RunInstances' own limit, which the runs leave out, and what the standby pools hold."""
    lines = ["RunInstances by itself (1,000 instances at once, then 2 a second; quota assumed raised in the runs):"]
    for nodes in sorted({r.nodes for r in results}):
        seconds = max(LAUNCH_WINDOW, (nodes - 1000) / 2)
        lines.append(f"  {nodes:>5} nodes: {seconds:.0f} s by the default quota, {LAUNCH_WINDOW:.0f} s here")
    lines.append("Standby pools, each interface made ahead by one CreateNetworkInterface (counted, outside the bound):")
    for r in results:
        if "standby_pool" in r.details:
            d, where = r.details, f"{r.nodes:>5} nodes {r.pods_per_node:>3} pods"
            idle = f"addresses idle: {d['idle_addresses_before']} before, {d['idle_addresses_left']} after"
            lines.append(f"  {where}: {d['standby_pool']} interfaces, {d['standby_used']} used; {idle}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
