"""Lists in the sizes that EC2's filters and queues' batches take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

__all__ = ["FILTER_VALUES", "chunks"]

T = TypeVar("T")
FILTER_VALUES: Final = 200
"""Values that one filter of a Describe call may have (EC2 API reference, "Filter")."""


def chunks(items: Sequence[T], size: int = FILTER_VALUES) -> Iterator[list[T]]:
    """``items`` in their order, at most ``size`` at a time."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
