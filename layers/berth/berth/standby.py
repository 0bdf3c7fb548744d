"""Standby interfaces: made ahead with prefixes on them, so that a node can serve after one attach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from berth.model import InterfaceView

__all__ = ["StandbyPools"]


class StandbyPools(Protocol):
    """Standby interfaces by who may have them. Claims are conditional writes: no interface is ever claimed twice.

    Each interface's ``standby`` names its pool. Times are Unix seconds.
    """

    def candidates(self, subnet_ids: frozenset[str], now: float) -> tuple[InterfaceView, ...]:
        """Some that nobody has claimed, with all their addresses, in any order."""

    def claimed(self, instance_ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        """By instance id: those it has claimed and that are not settled, as they were while they stood by."""

    def claim(self, interface: InterfaceView, instance_id: str, now: float) -> bool:
        """Claim it for this instance. False: somebody else has it. Claiming one's own again is true."""

    def settle(self, interface: InterfaceView, instance_id: str, now: float) -> None:
        """EC2 shows it tagged for its instance now, or it is gone: the claim has served."""
