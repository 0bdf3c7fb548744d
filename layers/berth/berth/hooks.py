"""The Auto Scaling edge: tells a group's launch hook that its node is ready, or is being worked upon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Hook", "Hooks"]


@dataclass(frozen=True, slots=True)
class Hook:
    """A lifecycle hook that an instance waits in: the names of its group and of the hook."""

    group: str
    name: str


class Hooks(Protocol):
    """Neither call raises: a hook that cannot be reached runs into its own short time-out, with CONTINUE."""

    def complete(self, hook: Hook, instance_id: str) -> bool:
        """CompleteLifecycleAction with CONTINUE. True: done, or nobody waits there any more."""

    def heartbeat(self, hook: Hook, instance_id: str) -> bool:
        """RecordLifecycleActionHeartbeat. False: nobody waits there, or it could not be said."""
