"""Metrics in Prometheus' text format, version 0.0.4: counters, histograms, and gauges that are read when asked for.

Own code because a client library costs megabytes of resident memory, and the format is a page long
(https://prometheus.io/docs/instrumenting/exposition_formats/). One thread alone, the event loop's, writes and reads.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

__all__ = ["CONTENT_TYPE", "Buckets", "Counter", "Family", "Histogram", "gauge", "quantile", "text", "tree"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Labels: TypeAlias = tuple[str, ...]


@dataclass(slots=True)
class Buckets:
    """One histogram series: ``counts[i]`` observations at or below ``bounds[i]``, the last one above all of them."""

    counts: list[int]
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Family:
    """One metric as told: ``samples`` maps label values (in the order of ``labels``) to a number or to buckets."""

    name: str
    kind: str
    help: str
    labels: Labels
    samples: Mapping[Labels, float | Buckets]
    bounds: tuple[float, ...] = ()


@dataclass(slots=True)
class Counter:
    """Counts by label values. A combination appears from its first count on."""

    name: str
    help: str
    labels: Labels = ()
    _values: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Count."""
        self._values[labels] = self._values.get(labels, 0.0) + by

    def family(self) -> Family:
        return Family(self.name, "counter", self.help, self.labels, dict(self._values))


@dataclass(slots=True)
class Histogram:
    """Distributions by label values. ``bounds`` are the buckets' upper ends, rising."""

    name: str
    help: str
    bounds: tuple[float, ...]
    labels: Labels = ()
    _series: dict[Labels, Buckets] = field(default_factory=dict)

    def observe(self, value: float, *labels: str) -> None:
        """Take one observation in; well under a microsecond or two, since it is on the way of every ADD."""
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = Buckets([0] * (len(self.bounds) + 1))
        series.counts[bisect_left(self.bounds, value)] += 1
        series.total += value

    def family(self) -> Family:
        copies = {labels: Buckets(list(s.counts), s.total) for labels, s in self._series.items()}
        return Family(self.name, "histogram", self.help, self.labels, copies, self.bounds)


def gauge(name: str, help: str, value: float | Mapping[str, float], label: str = "") -> Family:
    """A gauge from one number, or from numbers by the value of one label."""
    if isinstance(value, Mapping):
        return Family(name, "gauge", help, (label,), {(k,): v for k, v in value.items()})
    return Family(name, "gauge", help, (), {(): value})


# ------------------------------------------------------------------------------------------------------ telling


def text(families: Iterable[Family]) -> str:
    """The page that Prometheus reads."""
    lines: list[str] = []
    for family in families:
        told = family.help.replace("\\", "\\\\").replace("\n", "\\n")
        lines += [f"# HELP {family.name} {told}", f"# TYPE {family.name} {family.kind}"]
        for values, sample in family.samples.items():
            pairs = list(zip(family.labels, values, strict=True))
            if isinstance(sample, Buckets):
                lines += _histogram_lines(family, pairs, sample)
            else:
                lines.append(f"{family.name}{_braces(pairs)} {_number(sample)}")
    return "\n".join(lines) + "\n"


def _histogram_lines(family: Family, pairs: Sequence[tuple[str, str]], sample: Buckets) -> Iterable[str]:
    reached = 0
    for bound, count in zip((*family.bounds, math.inf), sample.counts, strict=True):
        reached += count
        yield f"{family.name}_bucket{_braces([*pairs, ('le', _number(bound))])} {reached}"
    yield f"{family.name}_sum{_braces(pairs)} {_number(sample.total)}"
    yield f"{family.name}_count{_braces(pairs)} {reached}"


def _braces(pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    escaped = ((name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for name, value in pairs)
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def tree(families: Iterable[Family]) -> list[dict[str, Any]]:
    """The same as JSON-ready values; a histogram's quantiles are upper bounds (None: above the last bucket)."""
    return [
        {
            "name": family.name,
            "type": family.kind,
            "help": family.help,
            "samples": [
                {"labels": dict(zip(family.labels, values, strict=True)), **_leaf(family, sample)}
                for values, sample in family.samples.items()
            ],
        }
        for family in families
    ]


def _leaf(family: Family, sample: float | Buckets) -> dict[str, Any]:
    if not isinstance(sample, Buckets):
        return {"value": sample}
    count = sum(sample.counts)
    return {
        "count": count,
        "sum": sample.total,
        "p50": quantile(family.bounds, sample, 0.50),
        "p99": quantile(family.bounds, sample, 0.99),
    }


def quantile(bounds: Sequence[float], sample: Buckets, share: float) -> float | None:
    """The upper end of the bucket that holds this quantile; None if that is beyond the last one, or empty."""
    wanted, reached = share * sum(sample.counts), 0
    for bound, count in zip(bounds, sample.counts, strict=False):
        reached += count
        if reached and reached >= wanted:
            return bound
    return None
