"""``python -m tests.flat``: many random VPCs, in a private world. See ``make flat``."""

from __future__ import annotations

import argparse
import sys
import time

from tests.flat.compare import compare
from tests.flat.design import draw


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first VPC; the next have the next numbers")
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    started, bad = time.monotonic(), 0
    totals = dict.fromkeys(("probes", "passed", "undecided", "cells", "repeated"), 0)
    for seed in range(arguments.seed, arguments.seed + arguments.count * arguments.step, arguments.step):
        result = compare(draw(seed))
        for name in totals:
            totals[name] += getattr(result, name)
        if result.differences:
            bad += 1
            print(f"seed {seed}: {len(result.differences)} differences", flush=True)
            for line in result.differences[:: 1 if not arguments.quiet else 10_000]:
                print(f"  {line}", flush=True)
    told = ", ".join(f"{value} {name}" for name, value in totals.items())
    print(
        f"{arguments.count} VPCs from seed {arguments.seed}: {bad} differ; {told}; {time.monotonic() - started:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
