"""Kernel settings of the network namespace, by their files under ``/proc/sys``.

``/proc/sys/net`` shows the namespace of the thread that opens the file, by whatever mount it is reached. A container's
own is read-only unless it is privileged; BERTH_PROC_SYS_NET names a mount of the host's instead.
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import Final

__all__ = ["LOOSE", "ensure", "hear_no_router", "read"]

LOOSE: Final = "2"
"""``rp_filter``: accept a source that is reachable by any interface (kernel's ip-sysctl)."""
_log = logging.getLogger(__name__)
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


def hear_no_router(link: str) -> None:
    """Take no router advertisement from a link: a pod may send raw packets, and a node that does not forward IPv6 would
    route by it (compare CVE-2020-10749). A link without IPv6 hears none."""
    try:
        file = os.open(f"{_ROOT}/ipv6/conf/{link}/accept_ra", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, b"0")
        finally:
            os.close(file)
    except FileNotFoundError:
        return  # also from writing, if the link has gone meanwhile
    except OSError as error:
        _cannot(str(error))


@functools.lru_cache(maxsize=8)  # once for each reason, not for each pod
def _cannot(why: str) -> None:
    _log.warning("pods' links cannot be kept from sending router advertisements to the node", extra={"why": why})
