"""The aims, judged on what was counted: each with its figures, met or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tests.bench.scale.result import Result

__all__ = ["Verdict", "judge", "table"]

_JUDGED_FROM = 1000
"""Ratios are judged at so many nodes and more; counts at any number."""
_DESCRIBES_PER_BATCH = 1.5
"""Of each of the two actions: one a round. A batch's first round describes all of its nodes, further ones those that
somebody knocked for meanwhile; these are in the count, and have a call each. With single addresses, whose batches
last longest, they make it 1.42 (1,000 nodes), else at most 1.09. A second call in each round makes it 2 or more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``value`` must be at most ``limit``, or at least where ``at_least``."""

    aim: str
    nodes: int
    pods: int
    value: float
    limit: float
    at_least: bool = False
    how: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def line(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "met    " if self.met else "NOT MET"
        where = f"{self.nodes:>5} nodes {self.pods:>3} pods"
        return f"{verdict} {where}  {self.aim}: {self.value:.3f} {sign} {self.limit:g}  {self.how}"


def judge(results: Sequence[Result]) -> list[Verdict]:
    """Every aim at every size at which it is judged and was run."""
    by = {(r.system, r.nodes, r.pods_per_node): r for r in results}
    found: list[Verdict] = []
    for nodes, pods in sorted({(r.nodes, r.pods_per_node) for r in results}):
        here = {r.system: r for r in by.values() if (r.nodes, r.pods_per_node) == (nodes, pods)}
        found += _counts(here.values())
        if nodes >= _JUDGED_FROM:
            found += _ratios(here)
    return found


def _counts(results: Iterable[Result]) -> Iterator[Verdict]:
    for r in results:
        at = (r.nodes, r.pods_per_node)
        if not r.system.startswith("berth-"):
            continue
        yield Verdict(f"{r.system}: calls throttled", *at, float(r.throttled_calls), 0)
        batches, rounds = max(r.details["batches_described"], 1), r.details["rounds_of_describing"]
        for action in ("DescribeInstances", "DescribeNetworkInterfaces"):
            shown = r.calls.get(action, 0)
            how = f"{shown} calls, {batches} batches, {rounds} rounds, {r.details['nodes_described']} nodes"
            yield Verdict(f"{r.system}: {action} per batch", *at, shown / batches, _DESCRIBES_PER_BATCH, how=how)
        mutating = r.mutating_calls_per_node
        if r.system == "berth-prefixes":
            yield Verdict("berth-prefixes: mutating calls per node", *at, mutating, 1)
        if r.system == "berth-launch-template":
            yield Verdict("berth-launch-template: mutating calls per node", *at, mutating, 0)


def _ratios(here: dict[str, Result]) -> Iterator[Verdict]:
    ours = here.get("berth-prefixes")
    if ours is None:
        return
    at = (ours.nodes, ours.pods_per_node)
    all_ours = _seconds(ours)
    how = f"{all_ours:.1f} s against {ours.bound_seconds:.1f} s"
    yield Verdict("berth-prefixes: seconds_all / bound", *at, all_ours / ours.bound_seconds, 1.1, how=how)
    if (standby := here.get("berth-standby")) is not None:
        how = f"{ours.bound_seconds:.1f} s against {_seconds(standby):.1f} s"
        yield Verdict(
            "berth-standby: one-bucket bound / seconds_all", *at, ours.bound_seconds / _seconds(standby), 1.7, True, how
        )
    if ours.pods_per_node != 110:
        return
    if (default := here.get("vpc-cni-default")) is not None:
        how = f"{_seconds(default):.1f} s for {default.addresses_per_node} addresses against {all_ours:.1f} s for 110"
        yield Verdict("vpc-cni-default (model) / berth-prefixes", *at, _seconds(default) / all_ours, 3, True, how)
    if (tuned := here.get("vpc-cni-tuned")) is not None:
        how = f"{all_ours:.1f} s against {_seconds(tuned):.1f} s"
        yield Verdict("berth-prefixes / vpc-cni-tuned (model)", *at, all_ours / _seconds(tuned), 1.02, how=how)
        ours_calls, tuned_calls = sum(ours.calls.values()), sum(tuned.calls.values())
        how = f"{ours_calls} against {tuned_calls}"
        yield Verdict("calls in all, berth-prefixes / vpc-cni-tuned (model)", *at, ours_calls / tuned_calls, 1, how=how)
        kept = tuned_calls - sum(tuned.throttled.values())
        how = f"{ours_calls} against {kept}"
        yield Verdict("the same, without the model's throttled calls", *at, ours_calls / kept, 1, how=how)


def _seconds(r: Result) -> float:
    return r.seconds_all if r.seconds_all is not None else float("inf")


def table(results: Sequence[Result]) -> str:
    """One line for each run."""
    head = f"{'nodes':>5} {'pods':>4} {'system':<22} {'mutating':>8} {'describe':>8} {'throttled':>9}"
    lines = [f"{head} {'p50 s':>8} {'p99 s':>8} {'all s':>8} {'bound s':>8}"]
    for r in sorted(results, key=lambda r: (r.nodes, r.pods_per_node, r.system)):
        seconds = " ".join(
            f"{'-' if s is None else format(s, '.1f'):>8}" for s in (r.seconds_p50, r.seconds_p99, r.seconds_all)
        )
        lines.append(
            f"{r.nodes:>5} {r.pods_per_node:>4} {r.system:<22} {r.mutating_calls_per_node:>8.2f} "
            f"{r.describe_calls_per_node:>8.2f} {r.throttled_calls:>9} {seconds} {r.bound_seconds:>8.1f}"
        )
    return "\n".join(lines)
