"""Lifecycle actions of Auto Scaling groups: an instance waits until each hook was completed or timed out.

Docs: EC2 Auto Scaling user guide, "Amazon EC2 Auto Scaling lifecycle hooks" and its event reference.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from moto.autoscaling.exceptions import ValidationError

from .ec2_events import put_event
from .timers import TIMERS

__all__ = [
    "LAUNCHING",
    "TERMINATING",
    "cancel",
    "complete",
    "hooks_of",
    "put_group_event",
    "run_hooks",
    "set_time_scale",
]

LAUNCHING: Final = "autoscaling:EC2_INSTANCE_LAUNCHING"
TERMINATING: Final = "autoscaling:EC2_INSTANCE_TERMINATING"
_ENDS: Final = {LAUNCHING: ("launch", "EC2", "AutoScalingGroup"), TERMINATING: ("terminate", "AutoScalingGroup", "EC2")}
_MAX_WAIT: Final = 48 * 3600


@dataclass(slots=True)
class _Action:
    token: str
    hook: Any
    instance_id: str
    timeout: float
    deadline: float
    last: float
    done: Callable[[str], None]


@dataclass(slots=True)
class _Clock:
    scale: float = 1.0


_clock: Final = _Clock()


def set_time_scale(scale: float) -> None:
    """Multiply heartbeat time-outs of actions that start from now on (0.001: a 30 s heartbeat lasts 30 ms)."""
    _clock.scale = scale


def _actions(backend: Any) -> dict[str, _Action]:
    found: dict[str, _Action] = backend.__dict__.setdefault("_lifecycle_actions", {})
    return found


def hooks_of(group: Any, transition: str) -> list[Any]:
    """The group's hooks for a transition, by name: AWS documents no order."""
    hooks = group.autoscaling_backend.lifecycle_hooks.values()
    found = [h for h in hooks if h.auto_scaling_group_name == group.name and h.lifecycle_transition == transition]
    return sorted(found, key=lambda hook: hook.name)


def run_hooks(group: Any, instance_id: str, transition: str, final: Callable[[str], None]) -> None:
    """Start an action for each hook at once; ``final`` gets the result: ABANDON as soon as one is abandoned."""
    hooks = hooks_of(group, transition)
    open_hooks = {hook.name for hook in hooks}
    if not hooks:
        final("CONTINUE")
        return

    def completed(name: str, result: str) -> None:
        if name not in open_hooks:
            return
        open_hooks.discard(name)
        if result == "ABANDON":
            open_hooks.clear()
            cancel(group.autoscaling_backend, instance_id)
        if not open_hooks:
            final(result)

    for hook in hooks:
        _start(group, hook, instance_id, functools.partial(completed, hook.name))


def _start(group: Any, hook: Any, instance_id: str, done: Callable[[str], None]) -> None:
    timeout = float(hook.heartbeat_timeout) * _clock.scale
    now = time.monotonic()
    last = now + min(_MAX_WAIT * _clock.scale, 100 * timeout)
    action = _Action(str(uuid.uuid4()), hook, instance_id, timeout, now + timeout, last, done)
    _actions(group.autoscaling_backend)[action.token] = action
    kind, origin, destination = _ENDS[hook.lifecycle_transition]
    detail = {
        "LifecycleActionToken": action.token,
        "AutoScalingGroupName": group.name,
        "LifecycleHookName": hook.name,
        "EC2InstanceId": instance_id,
        "LifecycleTransition": hook.lifecycle_transition,
        "Origin": origin,
        "Destination": destination,
    }
    if metadata := getattr(hook, "notification_metadata", None):
        detail["NotificationMetadata"] = metadata
    _watch(group.autoscaling_backend, action)
    put_group_event(group, f"EC2 Instance-{kind} Lifecycle Action", detail)


def put_group_event(group: Any, detail_type: str, detail: dict[str, Any]) -> None:
    """An event of source ``aws.autoscaling`` about the group."""
    backend = group.autoscaling_backend
    put_event(backend.account_id, backend.region_name, "aws.autoscaling", detail_type, detail, [group.arn])


def _watch(backend: Any, action: _Action) -> None:
    def due() -> None:
        if _actions(backend).get(action.token) is not action:
            return
        if time.monotonic() < action.deadline:
            _watch(backend, action)
            return
        del _actions(backend)[action.token]
        action.done(action.hook.default_result)

    TIMERS.call_later(max(action.deadline - time.monotonic(), 0.001), due)


def _find(backend: Any, group: str, hook: str, token: str | None, instance_id: str | None) -> _Action:
    for action in _actions(backend).values():
        named = action.hook.auto_scaling_group_name == group and action.hook.name == hook
        if named and (action.token == token if token else action.instance_id == instance_id):
            return action
    what = f"token {token}" if token else f"instance ID {instance_id}"
    raise ValidationError(f"No active Lifecycle Action found with {what}")


def complete(backend: Any, group: str, hook: str, token: str | None, instance_id: str | None, result: str) -> None:
    """CompleteLifecycleAction. ``ValidationError`` if the action is not, or no longer, there."""
    if result not in ("CONTINUE", "ABANDON"):
        raise ValidationError(f"Lifecycle action result {result} is invalid. Valid values are CONTINUE and ABANDON.")
    action = _find(backend, group, hook, token, instance_id)
    del _actions(backend)[action.token]
    action.done(result)


def heartbeat(backend: Any, group: str, hook: str, token: str | None, instance_id: str | None) -> None:
    """RecordLifecycleActionHeartbeat: the hook's time-out again from now, but never past 48 h or 100 time-outs."""
    action = _find(backend, group, hook, token, instance_id)
    action.deadline = min(time.monotonic() + action.timeout, action.last)


def cancel(backend: Any, instance_id: str) -> None:
    """Forget an instance's actions without a result: it is gone, or abandoned."""
    for token in [t for t, action in _actions(backend).items() if action.instance_id == instance_id]:
        del _actions(backend)[token]
