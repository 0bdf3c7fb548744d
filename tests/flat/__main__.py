"""``python -m tests.flat``: random VPCs, judged and probed, by several processes in private worlds (``make flat``)."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any

from tests.flat.compare import Observed, compare, observe
from tests.flat.defects import DEFECTS
from tests.flat.design import draw

COUNTED = ("probes", "passed", "undecided", "cells", "repeated")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="VPCs")
    parser.add_argument("--seed", type=int, default=0, help="of the first VPC; the next have the next numbers")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--step", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    return _work(arguments) if arguments.step else _lead(arguments)


def _lead(arguments: argparse.Namespace) -> int:
    """Share the seeds among workers, each in a world of its own, and tell what they found."""
    started, workers = time.monotonic(), max(1, min(arguments.workers, arguments.count))
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.sandbox.world_ns", "--", sys.executable, "-m", "tests.flat",
             f"--seed={arguments.seed + n}", f"--count={len(range(n, arguments.count, workers))}", f"--step={workers}"],
            stdout=subprocess.PIPE, text=True,
        )
        for n in range(workers)
    ]  # fmt: skip
    ended = [(child.communicate()[0], child.returncode) for child in children]
    reports: list[dict[str, Any]] = []
    for text, code in ended:
        lines = text.splitlines()
        print("\n".join(lines if code else lines[:-1]), end="\n" if len(lines) > 1 or code else "")
        if code:
            print(f"a worker ended with {code}", file=sys.stderr)
            return 2
        reports.append(json.loads(lines[-1]))
    return _tell(arguments, reports, time.monotonic() - started)


def _tell(arguments: argparse.Namespace, reports: list[dict[str, Any]], seconds: float) -> int:
    totals: Counter[str] = sum((Counter(r["totals"]) for r in reports), Counter())
    bad = sorted(seed for r in reports for seed in r["bad"])
    missed = [name for name in DEFECTS if not any(name in r["caught"] for r in reports)]
    told = ", ".join(f"{totals[name]} {name}" for name in COUNTED)
    print(f"flat: {arguments.count} VPCs from seed {arguments.seed} in {seconds:.0f} s: {told}")
    print(f"flat: {len(bad)} VPCs where verdict and packets differ{f', seeds {bad}' if bad else ''}")
    print(f"flat: {len(DEFECTS) - len(missed)} of {len(DEFECTS)} planted defects found out")
    for name in missed if arguments.count >= 300 else ():
        print(f"flat: not found out: {name}")
    return 1 if bad or (missed and arguments.count >= 300) else 0


def _work(arguments: argparse.Namespace) -> int:
    totals: Counter[str] = Counter()
    bad: list[int] = []
    caught: dict[str, int] = {}
    for seed in range(arguments.seed, arguments.seed + arguments.count * arguments.step, arguments.step):
        observed = observe(draw(seed))
        result = compare(observed)
        totals.update({name: getattr(result, name) for name in COUNTED})
        if result.differences:
            bad.append(seed)
            print(f"seed {seed} (make flat FLAT=1 SEED={seed}):", *result.differences, sep="\n  ", flush=True)
        caught |= _found_out(observed, seed, caught)
    print(json.dumps({"totals": totals, "bad": bad, "caught": caught}))
    return 0


def _found_out(observed: Observed, seed: int, known: dict[str, int]) -> dict[str, int]:
    """Defects that this VPC shows and none before it did."""
    return {
        name: seed for name, defect in DEFECTS.items() if name not in known and compare(observed, defect).differences
    }


if __name__ == "__main__":
    sys.exit(main())
