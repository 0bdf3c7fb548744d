"""Runs many schedules side by side, a chunk of seeds at a time."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from tests.simulator.schedule import run

__all__ = ["Failure", "Summary", "run_many"]

_CHUNK = 50


@dataclass(frozen=True)
class Failure:
    """A schedule in which a promise was broken. ``make simulate TRACE=seed`` runs it again and tells what happens."""

    seed: int
    problem: str
    traceback: str


@dataclass
class Summary:
    """``calls`` are EC2 calls by (action, outcome); ``virtual`` and ``wall`` are seconds."""

    schedules: int = 0
    failures: list[Failure] = field(default_factory=list)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    virtual: float = 0.0
    wall: float = 0.0


def run_many(
    seeds: range, processes: int | None = None, progress: Callable[[Summary], None] = lambda _: None, stop_at: int = 5
) -> Summary:
    """Run the schedules of all ``seeds``; begin no more of them after ``stop_at`` failures.

    Raises :class:`~concurrent.futures.process.BrokenProcessPool` if one of its processes is killed.
    """
    started = time.monotonic()
    chunks = [seeds[n : n + _CHUNK] for n in range(0, len(seeds), _CHUNK)]
    total = Summary()
    count = processes or len(os.sched_getaffinity(0))
    # spawned, not forked: whoever calls may have threads. An executor, not a pool: it tells when a process was killed
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as executor:
        for done in as_completed([executor.submit(_run_chunk, chunk) for chunk in chunks]):
            part = done.result()
            total.schedules += part.schedules
            total.failures += part.failures
            total.calls += part.calls
            total.virtual += part.virtual
            total.wall = time.monotonic() - started
            progress(total)
            if len(total.failures) >= stop_at:
                executor.shutdown(wait=False, cancel_futures=True)
                break
    return total


def _run_chunk(seeds: range) -> Summary:
    summary = Summary()
    for seed in seeds:
        summary.schedules += 1
        try:
            result = run(seed)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a broken promise is no Exception
            problem = f"{type(error).__name__}: {error}"
            summary.failures.append(Failure(seed, problem, traceback.format_exc()))
        else:
            summary.calls += result.calls
            summary.virtual += result.seconds
    return summary
