"""Scheduled rules of EventBridge and schedules of EventBridge Scheduler, on a clock that may run fast."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from moto.events.models import Rule, events_backends
from moto.scheduler.models import scheduler_backends

from .expressions import ExpressionError, next_time
from .identity import ACCOUNT, REGION, Principal
from .lock import API_LOCK
from .targets import EventBridge, scheduled_event

__all__ = ["Schedules"]

LOG: Final = logging.getLogger(__name__)

RoleMay = Callable[[str, str, str], bool]
_LOOK_SECONDS: Final = 0.2
"""How often deployed schedules are looked at; AWS's own resolution is a minute."""


@dataclass(slots=True)
class _Due:
    expression: str
    at: datetime | None


class Schedules:
    """Fires what is due. ``acceleration`` 60 makes an hour of AWS pass in a minute."""

    def __init__(self, bridge: EventBridge, role_may: RoleMay, acceleration: float = 1.0) -> None:
        self._bridge = bridge
        self._role_may = role_may
        self._acceleration = acceleration
        self._begin = datetime.now(UTC)
        self._begin_clock = time.monotonic()
        self._due: dict[str, _Due] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="schedules", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def now(self) -> datetime:
        """The schedules' own time."""
        passed = (time.monotonic() - self._begin_clock) * self._acceleration
        return self._begin + timedelta(seconds=passed)

    def fire(self, rule_name: str) -> None:
        """Fire a scheduled rule of the default bus now, by (part of) its name. ``LookupError`` if there is none."""
        with API_LOCK:
            rules = list(events_backends[ACCOUNT][REGION].event_buses["default"].rules.values())
            rule = next((r for r in rules if r.name == rule_name), None)
            rule = rule or next((r for r in rules if rule_name in r.name and r.scheduled_expression), None)
            if rule is None:
                raise LookupError(f"the default bus has no rule {rule_name}; it has {[r.name for r in rules]}")
            self._fire_rule(rule)

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            with API_LOCK:
                for key, expression, zone, fire in self._deployed():
                    self._consider(key, expression, zone, fire)

    def _consider(self, key: str, expression: str, zone: str, fire: Callable[[], None]) -> None:
        now = self.now()
        known = self._due.get(key)
        try:
            if known is None or known.expression != expression:
                self._due[key] = _Due(expression, next_time(expression, now, zone))
                return
            if known.at is not None and known.at <= now:
                # the next is reckoned from now: times that were slept over are not made up for
                known.at = next_time(expression, now, zone)
                fire()
        except ExpressionError as error:
            LOG.warning("%s never fires: %s", key, error)
            self._due[key] = _Due(expression, None)

    def _deployed(self) -> Iterator[tuple[str, str, str, Callable[[], None]]]:
        """Key, expression, time zone and what to do, of each that is enabled."""
        for rule in list(events_backends[ACCOUNT][REGION].event_buses["default"].rules.values()):
            if rule.scheduled_expression and rule.state == "ENABLED":
                yield rule.arn, rule.scheduled_expression, "UTC", lambda r=rule: self._fire_rule(r)  # type: ignore[misc]
        for group in list(scheduler_backends[ACCOUNT][REGION].schedule_groups.values()):
            for schedule in list(group.schedules.values()):
                if schedule.state == "ENABLED":
                    zone = schedule.schedule_expression_timezone or "UTC"
                    fire = lambda s=schedule: self._fire_schedule(s)  # noqa: E731
                    yield schedule.arn, schedule.schedule_expression, zone, fire

    def _fire_rule(self, rule: Rule) -> None:
        event = scheduled_event("Scheduled Event", rule.arn, "aws.events", self.now().timestamp())
        self._bridge.deliver(rule, event)

    def _fire_schedule(self, schedule: Any) -> None:
        """Scheduler acts with the target's execution role, which must allow it (its user guide, "Execution role")."""
        target = schedule.target
        role = str(target["RoleArn"])
        action = {"lambda": "lambda:InvokeFunction", "sqs": "sqs:SendMessage"}.get(target["Arn"].split(":")[2], "")
        if not self._role_may(role, action, target["Arn"]):
            LOG.error("%s: its role %s may not %s", schedule.arn, role, action)
            return
        sender = Principal("service", "scheduler.amazonaws.com", f":{uuid.uuid4()}", role=role.rpartition("/")[2])
        self._bridge.deliver_to(target, str(target.get("Input") or "{}"), schedule.arn, sender)
