"""Kernel settings of the network namespace, by their files under ``/proc/sys``.

``/proc/sys/net`` shows the namespace of the thread that opens the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["LOOSE", "ensure"]

LOOSE: Final = "2"
"""``rp_filter``: accept a source that is reachable by any interface (kernel's ip-sysctl)."""
_ROOT: Final = Path("/proc/sys/net/ipv4")


def ensure(name: str, value: str) -> None:
    """Make ``net/ipv4/NAME`` hold the value; written only if it differs. Raises OSError."""
    path = _ROOT / name
    if path.read_text().strip() != value:
        path.write_text(value)
