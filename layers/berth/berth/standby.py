"""Standby interfaces: made ahead with prefixes on them, so that a node can serve after one attach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from berth.model import InterfaceView

__all__ = ["StandbyPools"]


class StandbyPools(Protocol):
    """Standby interfaces by who may have them. Claims are conditional writes: no interface is ever claimed twice."""

    def candidates(self, subnet_ids: frozenset[str], now: float) -> tuple[InterfaceView, ...]:
        """Some that nobody has claimed, with all their addresses, in any order."""

    def claimed(self, instance_ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        """By instance id: those it has claimed and that its tag does not name yet."""

    def claim(self, interface_id: str, instance_id: str, now: float) -> bool:
        """Claim it for this instance. False: somebody else has it. Claiming one's own again is true."""

    def settle(self, interface_id: str) -> None:
        """It is tagged for its instance now, or gone: the claim has served."""
