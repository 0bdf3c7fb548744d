"""Edges that a stack may do without: each does nothing, in the way its callers expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from berth.brake import Level
from berth.budget import Priority, Slot
from berth.hooks import Hook
from berth.ledger_items import Closing, Fact
from berth.model import InterfaceView, PublicAddress

__all__ = ["NoHooks", "NoLedger", "NoPublics", "NoStandby", "Released", "Unlimited"]


class Unlimited:
    """No budget is kept."""

    def reserve(self, action: str, count: int, priority: Priority, now: float) -> Slot:
        return Slot(now)

    def waits(self, actions: frozenset[str], now: float) -> Mapping[str, float]:
        return dict.fromkeys(actions, 0.0)

    def throttled(self, action: str, now: float) -> None:
        """Nobody counts."""


class Released:
    """No brake is there to pull."""

    def level(self) -> Level:
        return Level.NORMAL


class NoHooks:
    """No hook is ours to complete."""

    def complete(self, hook: Hook, instance_id: str) -> bool:
        return True

    def heartbeat(self, hook: Hook, instance_id: str) -> bool:
        return True


class NoLedger:
    """Whatever is told is acknowledged, and forgotten."""

    def begun(self, facts: Sequence[Fact]) -> frozenset[Fact]:
        return frozenset(facts)

    def write(self, facts: Sequence[Fact], closings: Sequence[Closing] = ()) -> None:
        """Nowhere."""


class NoStandby:
    """Where no pool is kept."""

    def candidates(self, subnet_ids: frozenset[str], now: float) -> tuple[InterfaceView, ...]:
        return ()

    def claimed(self, instance_ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        return {}

    def claim(self, interface: InterfaceView, instance_id: str, now: float) -> bool:
        return False

    def settle(self, interface: InterfaceView, instance_id: str, now: float) -> None:
        """There is none."""


class NoPublics:
    """Where no Elastic IP address may be used."""

    def load(self) -> tuple[PublicAddress, ...]:
        return ()

    def claim(self, public: PublicAddress, instance_id: str, request: str, address: str, now: float) -> bool:
        return False

    def unclaim(self, allocation_id: str, instance_id: str) -> None:
        """There is none."""
