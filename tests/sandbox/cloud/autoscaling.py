"""Auto Scaling groups that wait: ``Pending:Wait`` and ``Terminating:Wait``, zones in turn, and the group's events.

Stock moto stores lifecycle hooks and never runs them, and puts every instance into the first subnet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from moto.autoscaling.exceptions import ValidationError
from moto.autoscaling.models import AutoScalingBackend, FakeAutoScalingGroup, TerminateInstanceActivity
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult, EmptyResult

from .autoscaling_actions import (
    LAUNCHING,
    TERMINATING,
    cancel,
    complete,
    heartbeat,
    hooks_of,
    put_group_event,
    run_hooks,
)
from .ec2_instances import CODES
from .patching import replace
from .timers import TIMERS

__all__ = ["install"]

_ACTIVE = ("Pending", "Pending:Wait", "Pending:Proceed", "InService")
_POLL_SECONDS = 0.05


def _active_instances(group: Any) -> list[Any]:
    """Those that count for the capacity: what waits for its launch hooks does."""
    return [s for s in group.instance_states if s.lifecycle_state in _ACTIVE]


def _replace_instances(original: Callable[..., Any]) -> Callable[..., Any]:
    def replace_autoscaling_group_instances(group: Any, count: int, tags: dict[str, str]) -> None:
        zones = group.vpc_zone_identifier
        for _ in range(count):
            known = list(group.instance_states)
            if zones:
                group.vpc_zone_identifier = min(zones.split(","), key=lambda subnet: _in_subnet(group, subnet))
            try:
                original(group, 1, dict(tags))
            finally:
                group.vpc_zone_identifier = zones
            for state in [s for s in group.instance_states if s not in known]:
                _launch(group, state)

    return replace_autoscaling_group_instances


def _in_subnet(group: Any, subnet_id: str) -> int:
    return sum(state.instance.subnet_id == subnet_id.strip() for state in group.instance_states)


def _detail(group: Any, state: Any) -> dict[str, Any]:
    return {"EC2InstanceId": state.instance.id, "AutoScalingGroupName": group.name, "StatusCode": "InProgress"}


def _launch(group: Any, state: Any) -> None:
    state.lifecycle_state = "Pending:Wait" if hooks_of(group, LAUNCHING) else "Pending"

    def finished(result: str) -> None:
        if state not in group.instance_states:
            return
        if result == "ABANDON":
            _abandon(group, state)
        else:
            state.lifecycle_state = "Pending:Proceed" if state.lifecycle_state == "Pending:Wait" else "Pending"
            _serve_when_running(group, state)

    run_hooks(group, state.instance.id, LAUNCHING, finished)


def _serve_when_running(group: Any, state: Any) -> None:
    if state not in group.instance_states or not state.lifecycle_state.startswith("Pending"):
        return
    if state.instance.state == "pending":
        TIMERS.call_later(_POLL_SECONDS, lambda: _serve_when_running(group, state))
        return
    state.lifecycle_state = "InService"
    put_group_event(group, "EC2 Instance Launch Successful", _detail(group, state))


def _abandon(group: Any, state: Any) -> None:
    """AWS ends the instance and launches another, ever more slowly while that keeps failing."""
    group.instance_states.remove(state)
    group.ec2_backend.terminate_instances([state.instance.id])
    put_group_event(group, "EC2 Instance Launch Unsuccessful", {**_detail(group, state), "StatusCode": "Failed"})
    failures = group.__dict__["_failed_launches"] = group.__dict__.get("_failed_launches", 0) + 1

    def again() -> None:
        if group.autoscaling_backend.autoscaling_groups.get(group.name) is group:
            group.set_desired_capacity(group.desired_capacity)

    TIMERS.call_later(min(2.0**failures, 300.0), again)


def retire(group: Any, state: Any) -> None:
    """Take an instance out of service, through its terminate hooks, and end it. Both results end it."""
    cancel(group.autoscaling_backend, state.instance.id)
    state.lifecycle_state = "Terminating:Wait" if hooks_of(group, TERMINATING) else "Terminating"

    def finished(_result: str) -> None:
        if state in group.instance_states:
            group.instance_states.remove(state)
        if state.instance.state not in ("shutting-down", "terminated"):
            group.ec2_backend.terminate_instances([state.instance.id])
        put_group_event(group, "EC2 Instance Terminate Successful", _detail(group, state))

    run_hooks(group, state.instance.id, TERMINATING, finished)


def _set_desired_capacity(original: Callable[..., Any]) -> Callable[..., Any]:
    def set_desired_capacity(group: Any, capacity: int | None) -> None:
        target = int((group.min_size if capacity is None else capacity) or 0)
        surplus = len(group.active_instances()) - target
        if surplus <= 0 or group.mixed_instances_policy:
            original(group, capacity)
            return
        group.desired_capacity = target
        for state in [s for s in group.active_instances() if not s.protected_from_scale_in][:surplus]:
            retire(group, state)

    return set_desired_capacity


def _terminate_instance(backend: Any, instance_id: str, should_decrement: bool) -> Any:
    """TerminateInstanceInAutoScalingGroup. Without decrement, another instance takes its place."""
    groups = backend.autoscaling_groups.values()
    found = [(g, s) for g in groups for s in g.instance_states if s.instance.id == instance_id]
    if not found:
        raise ValidationError(f"Instance Id not found - No managed instance found for instance ID: {instance_id}")
    group, state = found[0]
    original_size = group.desired_capacity
    retire(group, state)
    if should_decrement:
        group.desired_capacity = original_size - 1
    else:
        group.set_desired_capacity(group.desired_capacity)
    return TerminateInstanceActivity(state.instance, original_size)


def _delete_group(original: Callable[..., Any]) -> Callable[..., Any]:
    def delete_auto_scaling_group(backend: Any, name: str) -> None:
        """Outstanding lifecycle actions go with the group (docs: DeleteAutoScalingGroup, ForceDelete)."""
        group = backend.autoscaling_groups.get(name)
        states = list(group.instance_states) if group else []
        for state in states:
            cancel(backend, state.instance.id)
        for key in [k for k, hook in backend.lifecycle_hooks.items() if hook.auto_scaling_group_name == name]:
            del backend.lifecycle_hooks[key]
        original(backend, name)
        left = [s.instance for s in states if CODES[s.instance.state] in (0, 16, 80)]
        if left:
            group.ec2_backend.terminate_instances([instance.id for instance in left])

    return delete_auto_scaling_group


def _put_hook(backend: Any, group: str, asked: dict[str, Any]) -> None:
    """Make or change a hook; a change keeps what it does not name."""
    known = backend.lifecycle_hooks.get(f"{group}_{asked['LifecycleHookName']}")
    transition = asked.get("LifecycleTransition") or (known and known.lifecycle_transition)
    if transition not in (LAUNCHING, TERMINATING):
        raise ValidationError(f"Invalid lifecycle transition {transition}: give {LAUNCHING} or {TERMINATING}")
    timeout = int(asked.get("HeartbeatTimeout") or (known.heartbeat_timeout if known else 3600))
    if not 30 <= timeout <= 7200:
        raise ValidationError("HeartbeatTimeout must be between 30 and 7200 seconds")
    hook = backend.create_lifecycle_hook(
        name=asked["LifecycleHookName"],
        as_name=group,
        transition=transition,
        timeout=timeout,
        result=asked.get("DefaultResult") or (known.default_result if known else "ABANDON"),
    )
    hook.global_timeout = min(48 * 3600, 100 * timeout)
    hook.notification_metadata = asked.get("NotificationMetadata") or getattr(known, "notification_metadata", None)
    hook.notification_target_arn = asked.get("NotificationTargetARN")
    hook.role_arn = asked.get("RoleARN")


def put_lifecycle_hook(self: Any) -> ActionResult:
    asked = self._get_params()
    group = asked["AutoScalingGroupName"]
    if group not in self.autoscaling_backend.autoscaling_groups:
        raise ValidationError(f"AutoScalingGroup name not found - AutoScalingGroup '{group}' not found")
    _put_hook(self.autoscaling_backend, group, asked)
    return EmptyResult()


def _create_group(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def create_auto_scaling_group(response: Any) -> Any:
        """Hooks given with the group hold its first instances too."""
        name, hooks = response._get_param("AutoScalingGroupName"), response._get_param("LifecycleHookSpecificationList")
        for hook in hooks or []:
            _put_hook(response.autoscaling_backend, name, hook)
        try:
            return original(response)
        except Exception:
            for hook in hooks or []:
                with contextlib.suppress(KeyError):
                    del response.autoscaling_backend.lifecycle_hooks[f"{name}_{hook['LifecycleHookName']}"]
            raise

    return create_auto_scaling_group


def _which(response: Any) -> tuple[Any, str, str, str | None, str | None]:
    param = response._get_param
    return (
        response.autoscaling_backend,
        param("AutoScalingGroupName"),
        param("LifecycleHookName"),
        param("LifecycleActionToken"),
        param("InstanceId"),
    )


def complete_lifecycle_action(self: Any) -> ActionResult:
    complete(*_which(self), self._get_param("LifecycleActionResult"))
    return EmptyResult()


def record_lifecycle_action_heartbeat(self: Any) -> ActionResult:
    heartbeat(*_which(self))
    return EmptyResult()


def install() -> None:
    """Put lifecycle hooks to work."""
    replace(FakeAutoScalingGroup, "active_instances", _active_instances)
    replace(AutoScalingBackend, "terminate_instance", _terminate_instance)
    replace(AutoScalingResponse, "put_lifecycle_hook", put_lifecycle_hook)
    for owner, name, wrap in (
        (FakeAutoScalingGroup, "replace_autoscaling_group_instances", _replace_instances),
        (FakeAutoScalingGroup, "set_desired_capacity", _set_desired_capacity),
        (AutoScalingBackend, "delete_auto_scaling_group", _delete_group),
        (AutoScalingResponse, "create_auto_scaling_group", _create_group),
    ):
        replace(owner, name, wrap(getattr(owner, name)))
    # moto has no handlers for these two; its dispatch finds them by name
    for handler in (complete_lifecycle_action, record_lifecycle_action_heartbeat):
        setattr(AutoScalingResponse, handler.__name__, handler)
