"""Structured logs on standard error: JSON, one object a line, or text for journald with its priorities."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Final

__all__ = ["FORMATS", "journal_wanted", "set_up"]

FORMATS: Final = ("auto", "json", "journal")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# syslog's numbers, which sd-daemon(3) wants as "<N>" at a line's start
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {k: v for k, v in vars(record).items() if k not in _STANDARD}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_extras(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Journal(logging.Formatter):
    """``<4>message key=value``. No time: journald has its own. Each line of an exception gets the priority, since
    journald takes each for an entry."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = (f" {k}={_value(v)}" for k, v in _extras(record).items())
        told = record.getMessage() + "".join(pairs)
        if record.exc_info:
            told += "\n" + self.formatException(record.exc_info)
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in told.splitlines())


def _value(value: object) -> str:
    """Bare where that is plain, else in JSON's quotes; a line break never gets through unescaped."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    bare = text.isprintable() and text and not any(c in text for c in ' "=')
    return text if bare or not isinstance(value, str) else json.dumps(value)


def journal_wanted(environment: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether the descriptor is journald's stream: systemd gives its device and inode (systemd.exec(5)), so that a
    program whose output was redirected meanwhile can tell."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def set_up(level: str, form: str = "auto") -> None:
    """Send all logs of level ``level`` and above to standard error; ``form`` is one of :data:`FORMATS`."""
    journal = form == "journal" or (form == "auto" and journal_wanted(os.environ))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Journal() if journal else _Json())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
