"""The most memory that this process has had."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["most_megabytes"]


def most_megabytes() -> float:
    """Of this program alone: ``getrusage`` also counts what the process that started it had (getrusage(2), exec)."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError("/proc/self/status has no VmHWM")
    return round(int(found[1]) / 1024, 1)
