"""Readings as CloudWatch metrics in embedded metric format. docs/operations.md lists them with their meaning."""

from __future__ import annotations

from collections.abc import Mapping

from aws_lambda_powertools import Metrics, single_metric
from aws_lambda_powertools.metrics import MetricUnit

from berth.meters import Readings

__all__ = ["publish"]


def publish(metrics: Metrics, counts: Mapping[str, int], readings: Readings | None = None) -> None:
    """Add everything to ``metrics``; what has dimensions of its own is written at once, a line each."""
    for name, value in counts.items():
        metrics.add_metric(name, unit=MetricUnit.Count, value=value)
    if readings is None:
        return
    for name, times in readings.times.items():
        for milliseconds in times:
            metrics.add_metric(name, unit=MetricUnit.Milliseconds, value=milliseconds)
    for (action, outcome), count in sorted(readings.calls.items()):
        _apart(metrics, "Ec2Calls", count, action=action, outcome=outcome)
    for (name, key, of), level in sorted(readings.levels.items()):
        _apart(metrics, name, level, **{key: of})


def _apart(metrics: Metrics, name: str, value: float, **dimensions: str) -> None:
    """A metric with more dimensions than the function's own."""
    shared = {"service": metrics.service} if metrics.service else {}
    with single_metric(
        name=name, unit=MetricUnit.Count, value=value, namespace=metrics.namespace, default_dimensions=shared
    ) as metric:
        for key, text in dimensions.items():
            metric.add_dimension(key, text)
