"""A function's SQS messages. What cannot be read is counted, logged with its id and done with: no retry mends it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from aws_lambda_powertools import Metrics
from aws_lambda_powertools.metrics import MetricUnit

from berth.events import MalformedEventError

__all__ = ["legible"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


def legible(
    metrics: Metrics, records: Iterable[Mapping[str, Any]], read: Callable[[str], T]
) -> Iterator[tuple[str, T]]:
    """(message id, what ``read`` makes of the body) of those that it can read; it raises ``MalformedEventError``."""
    for record in records:
        try:
            found = read(record["body"])
        except MalformedEventError as error:
            logger.warning("event not read", extra={"message_id": record["messageId"], "error": str(error)})
            metrics.add_metric("MalformedEvents", unit=MetricUnit.Count, value=1)
            continue
        yield record["messageId"], found
