"""Kernel settings of the network namespace, by their files under ``/proc/sys``.

``/proc/sys/net`` shows the namespace of the thread that opens the file, by whatever mount it is reached. A container's
own is read-only unless it is privileged; BERTH_PROC_SYS_NET names a mount of the host's instead.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["LOOSE", "ensure", "read"]

LOOSE: Final = "2"
"""``rp_filter``: accept a source that is reachable by any interface (kernel's ip-sysctl)."""
_ROOT: Final = Path(os.environ.get("BERTH_PROC_SYS_NET", "/proc/sys/net"))


def read(name: str, family: str = "ipv4") -> str:
    """What ``net/FAMILY/NAME`` holds. Raises OSError."""
    return (_ROOT / family / name).read_text().strip()


def ensure(name: str, value: str, family: str = "ipv4") -> bool:
    """Make ``net/FAMILY/NAME`` hold the value; written only if it differs, which is told. Raises OSError."""
    path = _ROOT / family / name
    if path.read_text().strip() == value:
        return False
    path.write_text(value)
    return True
