"""Sockets on the file system that only root may use."""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["bound"]


def bound(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM, backlog: int = 100) -> socket.socket:
    """A socket of mode 0600 that listens and does not block. It appears at its path only when it listens, in place of
    what was there: nobody meets a dead one. Raises ``OSError``."""
    made = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        made.bind(str(draft))
    finally:
        os.umask(before)
    made.listen(backlog)
    draft.replace(path)
    return made
