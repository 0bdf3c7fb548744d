"""The token budget: how soon each EC2 action may be called, shared by every stack of one account and region.

EC2 gives each API action of an account and region a bucket of its own (EC2 API throttling: "each API is evaluated
individually"). Berth keeps its own count of each in DynamoDB, so that concurrent functions and several stacks stay
under it together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

__all__ = ["Budget", "Priority", "Slot"]


class Priority(IntEnum):
    """Who goes first among the users of one action. Lower is more urgent.

    The first two reserve a slot when tokens are out; the others only take what is left over, and come again.
    """

    NEW_NODE = 0
    SHORTAGE = 1
    WARM = 2
    STANDBY = 3


@dataclass(frozen=True, slots=True)
class Slot:
    """``at`` is when the calls may be made (Unix seconds; not after now: at once). ``reserved``: they are ours then.

    Not reserved and not due means: nothing was taken, ask again about then.
    """

    at: float
    reserved: bool = True


class Budget(Protocol):
    """Actions are EC2's names, such as ``AssignPrivateIpAddresses``. Times are Unix seconds."""

    def reserve(self, action: str, count: int, priority: Priority, now: float) -> Slot:
        """Take ``count`` tokens of ``action``, now or at the slot that is given."""

    def waits(self, actions: frozenset[str], now: float) -> Mapping[str, float]:
        """Seconds until one more token of each action would be had, as far as is known. Takes nothing."""

    def throttled(self, action: str, now: float) -> None:
        """EC2 said RequestLimitExceeded: halve this action's budget for a while, for everybody."""
