"""The kill switch: one parameter that operators set, read on each batch."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

__all__ = ["Brake", "Level"]


class Level(Enum):
    """How much may be changed."""

    NORMAL = "normal"
    NO_RELEASE = "no-release"  # nothing is unassigned, detached or deleted; nodes still grow
    READ_ONLY = "read-only"  # no mutating EC2 call at all


class Brake(Protocol):
    def level(self) -> Level:
        """The level now. Never raises: what cannot be read is as it was last read."""
