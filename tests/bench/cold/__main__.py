"""``make bench-cold``: import and clients of each function in fresh processes, interleaved with a plain start of boto3.

Writes build/bench/cold.json: medians in milliseconds and their ratio to the plain start, which is ``import boto3`` with
an EC2 and a DynamoDB client. The start of the interpreter itself is in neither. Beside the time that passed stands the
processor's, which is the steadier one on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import botocore

from tests.bench.cold.place import Place, prepare

__all__ = ["AIM", "summary"]

AIM: Final = 0.6
"""The largest share of the plain start that a function may take."""
_TIMED: Final = """
import time
began, busy = time.perf_counter(), time.process_time()
{code}
print(1000 * (time.perf_counter() - began), 1000 * (time.process_time() - busy))
"""
Took = tuple[float, float]
"""Milliseconds that passed, and that the processor worked."""
_PLAIN: Final = "import boto3; boto3.client('ec2'); boto3.client('dynamodb')"


def summary(plain: Sequence[Took], functions: dict[str, list[Took]]) -> dict[str, Any]:
    """Medians and ratios."""
    base = _medians(plain)
    found = {name: _medians(times) for name, times in functions.items()}
    for times in found.values():
        times["ratio"] = round(times["median_ms"] / base["median_ms"], 3)
        times["cpu_ratio"] = round(times["cpu_ms"] / base["cpu_ms"], 3)
    met = {name: times["ratio"] <= AIM for name, times in found.items()}
    return {"aim": AIM, "plain": base, "functions": {n: {**times, "met": met[n]} for n, times in found.items()}}


def _medians(times: Sequence[Took]) -> dict[str, float]:
    passed, busy = zip(*times, strict=True)
    return {
        "median_ms": round(statistics.median(passed), 1),
        "least_ms": round(min(passed), 1),
        "cpu_ms": round(statistics.median(busy), 1),
    }


def _time(place: Place, function: str | None) -> Took:
    code = _TIMED.format(code=_PLAIN if function is None else "import app")
    # -S: no site-packages, only what Lambda has
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], env=place.environment(function), capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise SystemExit(f"{function or 'plain boto3'} does not start:\n{run.stderr}")
    passed, busy = map(float, run.stdout.splitlines()[-1].split())
    return passed, busy


def measure(place: Place, runs: int) -> dict[str, Any]:
    """``runs`` rounds of everything; the one before them, which warms the disk cache, does not count."""
    names = [None, *sorted(place.functions)]
    times: dict[str | None, list[Took]] = {name: [] for name in names}
    for number in range(runs + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            took = _time(place, name)
            if number:
                times[name].append(took)
    plain = times.pop(None)
    return summary(plain, {str(name): found for name, found in times.items()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, also when the aim is not met: the table says so."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cold", description=__doc__)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("build/bench/cold.json"))
    options = parser.parse_args(arguments)
    found = measure(prepare(options.out.parent / "cold"), options.runs)
    about = {"runs": options.runs, "python": sys.version.split()[0], "botocore": botocore.__version__}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**about, **found}, indent=1) + "\n")
    plain = found["plain"]
    print(f"{'plain boto3, EC2, DynamoDB':28} {plain['median_ms']:6.0f} ms, CPU {plain['cpu_ms']:.0f} ms")
    for name, result in found["functions"].items():
        verdict = "met" if result["met"] else "NOT MET"
        share = f"{result['ratio']:.2f} of it (CPU {result['cpu_ratio']:.2f})"
        print(f"{name:28} {result['median_ms']:6.0f} ms  {share}; aim {AIM}: {verdict}")
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
