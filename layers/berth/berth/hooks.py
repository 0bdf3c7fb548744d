"""The Auto Scaling edge: tells a group's launch hook that its node is ready, or is being worked upon.

An instance that Auto Scaling launches waits in ``Pending:Wait`` (or ``Warmed:Pending:Wait``) until its launch hook is
completed or times out; it boots meanwhile. Both calls name the action by instance id, which the API takes in place of
the token: so a token that an earlier event brought, or that no event brought, does not matter.
https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from berth.events import Signal

if TYPE_CHECKING:
    from mypy_boto3_autoscaling.client import AutoScalingClient

__all__ = ["HOOKS_CONFIG", "WORKING_SECONDS", "AutoScalingHooks", "Hook", "Hooks", "only_ours"]

logger = logging.getLogger(__name__)

HOOKS_CONFIG: Final = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2})
"""Short: a hook that is not told runs into its own time-out, and the node's work matters more."""
WORKING_SECONDS: Final = 600.0
"""So long after its event a hook gets heartbeats: a node that is not ready by then must not hold its group up."""
_NOBODY_WAITS: Final = "ValidationError"
"""``No active Lifecycle Action found with instance ID …``; also the answer for a group or hook that is gone."""
_NOT_OURS: Final = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")


@dataclass(frozen=True, slots=True)
class Hook:
    """A lifecycle hook that an instance waits in: the names of its group and of the hook."""

    group: str
    name: str


class Hooks(Protocol):
    """Neither call raises: a hook that cannot be reached runs into its own short time-out, with CONTINUE."""

    def complete(self, hook: Hook, instance_id: str) -> bool:
        """CompleteLifecycleAction with CONTINUE. True: done, nobody waits there any more, or it is not ours to do."""

    def heartbeat(self, hook: Hook, instance_id: str) -> bool:
        """RecordLifecycleActionHeartbeat. False: nobody waits there, or it could not be said."""


class AutoScalingHooks:
    """Auto Scaling through boto3. ``connect`` makes the client when the first hook wants it: few invocations do."""

    def __init__(self, connect: Callable[[], AutoScalingClient]) -> None:
        self._connect = connect
        self._client: AutoScalingClient | None = None

    def complete(self, hook: Hook, instance_id: str) -> bool:
        code = self._tell("complete_lifecycle_action", hook, instance_id, LifecycleActionResult="CONTINUE")
        return code in ("", _NOBODY_WAITS, *_NOT_OURS)

    def heartbeat(self, hook: Hook, instance_id: str) -> bool:
        return self._tell("record_lifecycle_action_heartbeat", hook, instance_id) == ""

    def _tell(self, action: str, hook: Hook, instance_id: str, **more: str) -> str:
        """Make one call. Returns the error's code, or "" if there was none."""
        try:
            self._client = self._client or self._connect()
            call: Callable[..., Any] = getattr(self._client, action)
            call(AutoScalingGroupName=hook.group, LifecycleHookName=hook.name, InstanceId=instance_id, **more)
        except ClientError as error:
            code = error.response["Error"].get("Code", "") or type(error).__name__
            if code != _NOBODY_WAITS:
                self._complain(action, hook, instance_id, error)
            return code
        except BotoCoreError as error:
            self._complain(action, hook, instance_id, error)
            return type(error).__name__
        return ""

    @staticmethod
    def _complain(action: str, hook: Hook, instance_id: str, error: Exception) -> None:
        logger.warning(
            "launch hook not told; its own time-out ends the wait",
            extra={"node": instance_id, "group": hook.group, "hook": hook.name, "call": action, "error": str(error)},
        )


def only_ours(signal: Signal, name: str) -> Signal:
    """The signal without the launch hook that it tells of, unless that bears ``name`` ("": none is ours)."""
    if not signal.hook_name or (name and signal.hook_name == name):
        return signal
    return replace(signal, hook_group="", hook_name="", hook_at=0.0)
