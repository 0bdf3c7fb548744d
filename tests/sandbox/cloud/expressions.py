"""EventBridge's schedule expressions: ``rate(…)``, ``cron(…)`` and Scheduler's ``at(…)``. Pure.

Source: EventBridge user guide, "Setting a schedule pattern": six cron fields, minutes hours day-of-month month
day-of-week year; Sunday is 1; ``?`` in one of the two day fields.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

__all__ = ["ExpressionError", "next_time"]


class ExpressionError(ValueError):
    """Not an expression that EventBridge takes, or one that this module does not know (``W``)."""


_RATE: Final = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")
_SECONDS: Final = {"minute": 60, "hour": 3600, "day": 86400}
_MONTHS: Final = [name.upper() for name in calendar.month_abbr]
_DAYS: Final = ["", "SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_LIMIT: Final = timedelta(days=366 * 5)


def next_time(expression: str, after: datetime, zone: str = "UTC") -> datetime | None:
    """The first time later than ``after`` (aware), in UTC; ``None`` if there is none (an ``at`` in the past)."""
    if rate := _RATE.fullmatch(expression):
        return after + timedelta(seconds=int(rate[1]) * _SECONDS[rate[2]])
    if expression.startswith("at(") and expression.endswith(")"):
        when = datetime.fromisoformat(expression[3:-1]).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
        return when if when > after else None
    if expression.startswith("cron(") and expression.endswith(")"):
        return _next_cron(expression[5:-1], after, zone)
    raise ExpressionError(f"expected rate(...), cron(...) or at(...), got {expression!r}")


@dataclass(frozen=True, slots=True)
class _Cron:
    minutes: frozenset[int]
    hours: frozenset[int]
    month_days: str
    months: frozenset[int]
    week_days: str
    years: frozenset[int] | None

    def has_day(self, day: datetime) -> bool:
        if day.month not in self.months or (self.years is not None and day.year not in self.years):
            return False
        if self.month_days != "?":
            last = calendar.monthrange(day.year, day.month)[1]
            return day.day == last if self.month_days == "L" else day.day in _numbers(self.month_days, 1, 31)
        return _is_week_day(self.week_days, day)


def _is_week_day(field: str, day: datetime) -> bool:
    number = (day.weekday() + 1) % 7 + 1
    name, _, nth = field.partition("#")
    if nth:
        return number == _number(name, _DAYS) and (day.day - 1) // 7 + 1 == int(nth)
    if field.endswith("L") and field != "L":
        last = calendar.monthrange(day.year, day.month)[1]
        return number == _number(field[:-1], _DAYS) and day.day > last - 7
    if field == "L":
        return number == 7
    return number in _numbers(field, 1, 7, _DAYS)


def _next_cron(text: str, after: datetime, zone: str) -> datetime | None:
    fields = text.upper().split()
    if len(fields) != 6:
        raise ExpressionError(f"a cron expression has six fields, got {text!r}")
    minute, hour, month_day, month, week_day, year = fields
    if "W" in month_day or (month_day == "?") == (week_day == "?"):
        raise ExpressionError(f"exactly one of the two day fields must be ?, and W is not known: {text!r}")
    years = None if year == "*" else _numbers(year, 1970, 2199)
    cron = _Cron(
        _numbers(minute, 0, 59), _numbers(hour, 0, 23), month_day, _numbers(month, 1, 12, _MONTHS), week_day, years
    )
    local = after.astimezone(ZoneInfo(zone)).replace(second=0, microsecond=0) + timedelta(minutes=1)
    end = after + _LIMIT
    while local < end:
        if not cron.has_day(local):
            local = (local + timedelta(days=1)).replace(hour=0, minute=0)
        elif local.hour not in cron.hours:
            local = (local + timedelta(hours=1)).replace(minute=0)
        elif local.minute not in cron.minutes:
            local += timedelta(minutes=1)
        else:
            return local.astimezone(UTC)
    return None


def _number(text: str, names: Sequence[str]) -> int:
    if text in names:
        return names.index(text)
    try:
        return int(text)
    except ValueError:
        raise ExpressionError(f"expected a number or a name, got {text!r}") from None


def _numbers(field: str, low: int, high: int, names: Sequence[str] = ()) -> frozenset[int]:
    """The numbers of ``*``, ``1,3``, ``1-5``, ``0/15``, ``MON-FRI``."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            first, last = low, high
        elif "-" in span:
            first, last = (_number(t, names) for t in span.split("-", 1))
        else:
            first = _number(span, names)
            last = high if step else first
        found.update(range(first, last + 1, int(step) if step else 1))
    if not found or min(found) < low or max(found) > high:
        raise ExpressionError(f"out of range {low}-{high}: {field!r}")
    return frozenset(found)
