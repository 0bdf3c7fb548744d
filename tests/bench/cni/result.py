"""What the measurements say: percentiles, and the aims of the bench, each met or not."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Aim", "judge", "milliseconds", "per_second", "table"]


@dataclass(frozen=True, slots=True)
class Aim:
    """``value`` must be at most ``limit``, or at least where ``at_least``."""

    aim: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def as_json(self) -> dict[str, Any]:
        sign = ">=" if self.at_least else "<="
        return {"aim": f"{self.aim} {sign} {self.limit:g}", "value": round(self.value, 3), "met": self.met}


def milliseconds(microseconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile (the nearest rank)."""
    ordered = sorted(microseconds)
    rank = -(-99 * len(ordered) // 100)  # rounded up
    return {"p50": round(statistics.median(ordered) / 1000, 3), "p99": round(ordered[rank - 1] / 1000, 3)}


def per_second(pods: int, makespans: Sequence[float]) -> float:
    """Pods a second, by the median of several bursts' durations in microseconds."""
    return round(pods * 1e6 / statistics.median(makespans), 1)


def judge(found: Mapping[str, Any]) -> list[Aim]:
    """Every aim for which both sides were measured."""
    return list(_aims(found))


def _aims(found: Mapping[str, Any]) -> Iterator[Aim]:
    add = {peer: times["p50"] for peer, times in found["add_ms"].items()}
    delete = {peer: times["p50"] for peer, times in found["del_ms"].items()}
    burst = found["burst110_pods_per_s"]
    if "ptp" in add:
        yield Aim("ADD p50 / ptp", add["berth"] / add["ptp"], 0.20)
        yield Aim("ADD p50 / ptp_ipmasq", add["berth"] / add["ptp_ipmasq"], 0.09)
        yield Aim("DEL p50 / ptp", delete["berth"] / delete["ptp"], 0.08)
        yield Aim("burst, pods a second / ptp", burst["berth"] / burst["ptp"], 5, at_least=True)
        yield Aim("burst, pods a second / ptp, the higher aim", burst["berth"] / burst["ptp"], 9, at_least=True)
    if "floor" in add:
        yield Aim("ADD p50 / floor", add["berth"] / add["floor"], 1.6)
        yield Aim("DEL p50 / floor", delete["berth"] / delete["floor"], 1.6)
        yield Aim("burst duration / floor", burst["floor"] / burst["berth"], 1.6)
    rtt = {int(pods): value for pods, value in found["rtt_us"].items()}
    if len(rtt) > 1:
        yield Aim(f"RTT with {max(rtt)} pods / with {min(rtt)}", rtt[max(rtt)] / rtt[min(rtt)], 1.15)
    if found["rss_mb"]:
        yield Aim("agent's resident memory, MB", max(found["rss_mb"].values()), 45)


def table(found: Mapping[str, Any]) -> str:
    """The figures as text."""
    concurrent = found["concurrent20_ms"]
    lines = [f"{'ms':<12} {'ADD p50':>8} {'p99':>7} {'DEL p50':>8} {'p99':>7} {'20 at once':>11} {'burst pods/s':>13}"]
    for peer, add in found["add_ms"].items():
        delete = found["del_ms"][peer]
        lines.append(
            f"{peer:<12} {add['p50']:>8.2f} {add['p99']:>7.2f} {delete['p50']:>8.2f} {delete['p99']:>7.2f} "
            f"{concurrent['add'][peer]['p50']:>11.2f} {found['burst110_pods_per_s'][peer]:>13.0f}"
        )
    lines.append(f"first packet, ms: {found['first_packet_ms']}")
    lines.append(f"RTT, us: {found['rtt_us']}; with two rules a pod: {found['rtt_us_rules']}")
    lines.append(f"agent's memory, MB: {found['rss_mb']}")
    for aim in found["aims"]:
        lines.append(f"{'met    ' if aim['met'] else 'NOT MET'} {aim['aim']}: {aim['value']}")
    return "\n".join(lines)
