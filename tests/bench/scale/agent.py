"""A node's agent in virtual time: when it looks, what it can use, when it reports and what.

The cadence is berth_node's own: quick while the node is not ready, pods wait or something is missing, then slow; a
report at once when the record changed or a shortage grew, soon after any other change, and at least every so often.
No look that would find nothing new is played: the next one after each change is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from berth.contract import Order, Record, Report, address_count
from berth_node import agent as berth_agent
from berth_node import reporter as berth_reporter
from berth_node.config import Config

from tests.bench.scale.assumed import AGENT_CALL, POD_START
from tests.bench.scale.timeline import Timeline

__all__ = ["Agent"]

_CONFIG: Final = Config(table="", reports_queue_url="")
_ATTENTIVE: Final = min(berth_agent._ATTENTIVE, _CONFIG.poll_slow_seconds)


@dataclass(slots=True)
class Agent:
    """``asked`` pods come once the node is ready; it can serve them when as many addresses are usable.

    ``record()`` is the node's record now and ``blocks()`` what metadata shows, as ``VirtualEc2.blocks`` does.
    """

    timeline: Timeline
    rng: random.Random
    asked: int
    record: Callable[[], Record | None]
    blocks: Callable[[], dict[str, tuple[str, float]]]
    send: Callable[[Report], None]
    served: Callable[[], None]
    started: bool = False
    pods: int = 0
    usable: int = 0
    ready_at: float | None = None
    served_at: float | None = None
    reports: int = 0
    _record: Record | None = None
    _unusable: tuple[str, ...] = ()
    _last_look: float = 0.0
    _looks: int = 0
    _look_due: float = float("inf")
    _last: Report | None = None
    _report_due: float = float("inf")
    _calls: int = field(default=0)

    def start(self) -> None:
        """The agent's process starts now."""
        self.started = True
        self._look_at(self.timeline.now)

    def changed(self, when: float) -> None:
        """The record changes now, or metadata at ``when``: the first look after that will see it."""
        if not self.started:
            return
        look, looks = self._last_look, self._looks
        while look < when:
            pause = self._pause(looks)
            look, looks = look + pause, looks + 1
            if pause >= _CONFIG.poll_slow_seconds and look < when:
                look += pause * int((when - look) / pause)
        if look < self._look_due:
            self._looks = looks
            self._look_at(look)

    # ------------------------------------------------------------------------------------------------ looking

    def _pause(self, looks: int) -> float:
        attentive = self.ready_at is None or self.pods > self.usable
        if not (attentive or self._deficit > 0 or self._unusable):
            return _CONFIG.poll_slow_seconds
        longest = _ATTENTIVE if attentive else _CONFIG.poll_slow_seconds
        return float(min(longest, _CONFIG.poll_quick_seconds * berth_agent._BACKOFF ** min(looks, 60)))

    @property
    def _deficit(self) -> int:
        """As the pool reckons it; nothing cools and nothing is surrendered here."""
        if self._record is None:
            return 0
        policy, listed = self._record.policy, self._listed(self._record)
        warm = min(policy.max_pods, self.pods + policy.warm_addresses) - self.usable
        return max(warm, min(policy.max_pods, policy.minimum_addresses) - listed, 0)

    @staticmethod
    def _listed(record: Record) -> int:
        return sum(address_count(a.cidr) for i in record.interfaces for a in i.assignments)

    def _look_at(self, when: float) -> None:
        self._look_due = when
        self.timeline.at(when + AGENT_CALL.draw(self.rng), lambda: self._look(when))

    def _look(self, due: float) -> None:
        if due != self._look_due:
            return  # an earlier one has been asked for
        now = self.timeline.now
        self._look_due, self._last_look = float("inf"), now
        record = self.record()
        if record is None:
            return
        shown = self.blocks()
        usable, unusable, later = 0, [], 0.0
        for interface in record.interfaces:
            for a in interface.assignments:
                mac, since = shown.get(a.cidr, ("", float("inf")))
                if mac == interface.mac and since <= now and not a.releasing:
                    usable += address_count(a.cidr)
                else:
                    unusable.append(a.cidr)
                    later = max(later, since if since < float("inf") else 0.0)
        news = usable != self.usable or self._record is None or record.revision != self._record.revision
        self._record, self.usable, self._unusable = record, usable, tuple(unusable)
        self._looks = 0 if news else self._looks
        if later > now:
            self.changed(later)
        self._settle(now)

    def _settle(self, now: float) -> None:
        if self.ready_at is None and self.usable:
            self.ready_at = now
            self.timeline.after(POD_START.draw(self.rng), self._pods_come)
        if self.served_at is None and self.usable >= self.asked:
            self.served_at = now
            self.served()
        last, report = self._last, self._build()
        if report is None:
            return
        need = report.in_use + len(report.waiting)
        grew = last is None or need > last.in_use + len(last.waiting)
        if last is None or report.acknowledged_revision != last.acknowledged_revision or (grew and self._deficit):
            self._report_at(now + berth_reporter._URGENT)
        elif _substance(report) != _substance(last):
            self._report_at(now + _CONFIG.report_debounce_seconds)

    def _pods_come(self) -> None:
        self.pods = self.asked
        self._looks = 0
        self._settle(self.timeline.now)

    # ------------------------------------------------------------------------------------------------ reporting

    def _build(self) -> Report | None:
        if self._record is None:
            return None
        waiting = max(0, self.pods - self.usable)
        return Report(
            order=Order(1, self.reports + 1),
            acknowledged_revision=self._record.revision,
            in_use=min(self.pods, self.usable),
            waiting=tuple(f"pod-{n}" for n in range(waiting)),
            unusable=self._unusable,
        )

    def _report_at(self, when: float) -> None:
        if when < self._report_due:
            self._report_due = when
            self.timeline.at(when, lambda: self._report(when))

    def _report(self, due: float) -> None:
        if due != self._report_due:
            return
        self._report_due = float("inf")
        report = self._build()
        if report is None:
            return
        self.reports += 1
        self._last = report
        self.send(report)
        self._report_at(self.timeline.now + _CONFIG.report_interval_seconds * self.rng.uniform(0.9, 1.1))
        if report.waiting or self._deficit > 0:
            self._looks = 0


def _substance(report: Report) -> tuple[object, ...]:
    return (report.acknowledged_revision, report.in_use, report.waiting, report.unusable)
