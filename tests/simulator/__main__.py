"""``python -m tests.simulator``: many random schedules, or one that is told step by step.

``--schedules 100000 --seed 0`` runs the seeds 0 to 99,999; ``--trace 279`` runs that one alone and prints each event,
call, write and death in it, in order.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.simulator.runner import Summary, run_many
from tests.simulator.schedule import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed; the others follow")
    parser.add_argument("--processes", type=int, help="side by side; default: one for each processor")
    parser.add_argument("--trace", type=int, metavar="SEED", help="run this one alone and tell what happens")
    options = parser.parse_args()
    if options.trace is not None:
        return tell(options.trace)
    seeds = range(options.seed, options.seed + options.schedules)
    return report(run_many(seeds, options.processes, Progress(options.schedules)))


class Progress:
    """A line every ten seconds."""

    def __init__(self, schedules: int) -> None:
        self._schedules, self._told = schedules, time.monotonic()

    def __call__(self, so_far: Summary) -> None:
        if time.monotonic() - self._told >= 10:
            self._told = time.monotonic()
            rate = so_far.schedules / so_far.wall
            left = (self._schedules - so_far.schedules) / rate
            print(f"{so_far.schedules:,} of {self._schedules:,}, {rate:.0f} a second, {left:.0f} s left", flush=True)


def report(summary: Summary) -> int:
    """Print what came of it. Returns the exit status."""
    for failure in summary.failures:
        print(f"\nseed {failure.seed}: {failure.problem}\n    make simulate TRACE={failure.seed}")
    rate = summary.schedules / max(summary.wall, 0.001)
    calls = sum(summary.calls.values())
    print(
        f"{summary.schedules:,} schedules, {len(summary.failures)} failed; {summary.wall:.0f} s, {rate:.0f} a second; "
        f"{calls:,} EC2 calls in {summary.virtual / 86_400:,.0f} days of virtual time"
    )
    outcomes: dict[str, int] = {}
    for (_, outcome), count in summary.calls.items():
        outcomes[outcome] = outcomes.get(outcome, 0) + count
    print(", ".join(f"{name} {count:,}" for name, count in sorted(outcomes.items(), key=lambda i: -i[1])))
    return 1 if summary.failures else 0


def tell(seed: int) -> int:
    """Run one schedule and print it. Returns the exit status."""
    try:
        run(seed, trace=print)
    except BaseException:  # a broken promise is no Exception
        traceback.print_exc()
        print(f"seed {seed} fails")
        return 1
    print(f"seed {seed} holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
