"""Is a descriptor a pod's network namespace?"""

from __future__ import annotations

import fcntl
import functools
import os
from pathlib import Path
from typing import Final

__all__ = ["check_netns"]

_NS_GET_NSTYPE: Final = 0xB703  # _IO(NSIO, 3), linux/nsfs.h
_CLONE_NEWNET: Final = 0x40000000


def check_netns(fd: int | None, error: int) -> str | None:
    """What is wrong with the namespace that the plugin opened (or failed to, with ``error``); None if nothing is."""
    if fd is None:
        return f"cannot be opened: {os.strerror(error)}" if error else "is empty"
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        return "is not a namespace; the runtime must give the path of the pod's network namespace"
    if kind != _CLONE_NEWNET:
        return "is a namespace of another type than network"
    theirs = os.fstat(fd)
    if (theirs.st_dev, theirs.st_ino) == _ours():
        return "is the node's own network namespace; pods on the host network need no CNI call"
    return None


@functools.cache  # a process stays in its namespace, but for the moments in which a thread makes a socket in a pod's
def _ours() -> tuple[int, int]:
    found = Path("/proc/self/ns/net").stat()
    return found.st_dev, found.st_ino
