"""EC2's token buckets, one for each API action (EC2 developer guide, "Request throttling for the EC2 API")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["Buckets"]

_DESCRIBE: Final = (100.0, 20.0)
_OWN: Final = (100.0, 5.0)
_MUTATING: Final = (50.0, 5.0)
LIMITS: Final[dict[str, tuple[float, float]]] = {
    "AssignPrivateIpAddresses": _OWN,
    "UnassignPrivateIpAddresses": _OWN,
    "CreateNetworkInterface": _OWN,
    "DeleteNetworkInterface": _OWN,
    "ModifyNetworkInterfaceAttribute": _OWN,
    "CreateTags": (100.0, 10.0),
}
"""(capacity, tokens a second). AttachNetworkInterface and DetachNetworkInterface are not in AWS's table: mutating."""


@dataclass(slots=True)
class Buckets:
    """``scale`` makes all of them smaller, for schedules in which others use up the account's limits."""

    scale: float = 1.0
    _tokens: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, action: str, now: float) -> bool:
        """Take a token if there is one."""
        most, refill = self._limit(action)
        tokens, then = self._tokens.get(action, (most, now))
        tokens = min(most, tokens + max(0.0, now - then) * refill)
        taken = tokens >= 1.0
        self._tokens[action] = (tokens - taken, now)
        return taken

    def drain(self, action: str, now: float) -> None:
        """Somebody else in the account has taken them all."""
        self._tokens[action] = (0.0, now)

    def refill(self) -> None:
        """Everybody else has stopped."""
        self.scale = 1.0
        self._tokens.clear()

    def _limit(self, action: str) -> tuple[float, float]:
        most, refill = LIMITS.get(action, _DESCRIBE if action.startswith("Describe") else _MUTATING)
        return max(1.0, most * self.scale), refill * self.scale
