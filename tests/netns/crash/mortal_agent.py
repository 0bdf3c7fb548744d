"""``berth-node agent`` that kills itself before a given one of its effects: ``python -m ... agent --config <config>``.

An effect is what somebody else can see: a write to a file, a rename, a request that changes the kernel, a run of nft,
an answer. They are counted here, around the standard library, so the agent's own code has no part in it. The file
``mortal.json`` beside the configuration says when: ``at``, the number of the effect before which to die (none: never),
``from_start``, or else from SIGUSR1 on, which is answered by making the file ``armed``; ``compact``: every line of the
journal is followed by a compaction.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG = Path(sys.argv[-1])
ORDERS = json.loads((CONFIG.parent / "mortal.json").read_text())
_lock = threading.Lock()
_state = {"armed": bool(ORDERS["from_start"]), "seen": 0}
_trace = os.open(CONFIG.parent / "effects", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
_write = os.write


def effect(what: str) -> None:
    """Something is about to be done."""
    with _lock:
        if not _state["armed"]:
            return
        _state["seen"] += 1
        _write(_trace, f"{_state['seen']} {what}\n".encode())
        if _state["seen"] == ORDERS["at"]:
            os.kill(os.getpid(), signal.SIGKILL)


def counted(name: str, real: Callable[..., Any], matters: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
    """The same function, whose calls count."""

    def call(*arguments: Any, **named: Any) -> Any:
        if matters(*arguments):
            effect(name)
        return real(*arguments, **named)

    return call


def _is_file(fd: int, *_: Any) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _changes(sock: socket.socket, data: Any, *_: Any) -> bool:
    """Questions to the kernel and what goes to AWS are nobody's effects; answers to the plugin are."""
    if sock.family == socket.AF_UNIX:
        return bool(sock.type & socket.SOCK_SEQPACKET == socket.SOCK_SEQPACKET)
    if sock.family != socket.AF_NETLINK:
        return False
    (kind,) = struct.unpack_from("=H", data, 4)
    return bool(sock.proto != socket.NETLINK_ROUTE or (kind - 16) % 4 != 2)  # RTM_GET...: every fourth


for function in ("replace", "rename", "unlink", "fsync", "chmod"):
    setattr(os, function, counted(function, getattr(os, function)))
for function in ("write", "ftruncate"):
    setattr(os, function, counted(function, getattr(os, function), _is_file))
socket.socket.send = counted("send", socket.socket.send, _changes)  # type: ignore[method-assign]
socket.socket.sendmsg = counted("answer", socket.socket.sendmsg, _changes)  # type: ignore[method-assign]
subprocess.Popen.__init__ = counted("run", subprocess.Popen.__init__)  # type: ignore[method-assign]


def _arm(*_: object) -> None:
    (CONFIG.parent / "armed").touch()  # first: the very next effect may be the last
    _state["armed"] = True


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _arm)
    from berth_node import journal
    from berth_node.cli import main

    if ORDERS["compact"]:
        journal._COMPACT_AFTER = -1_000_000  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
