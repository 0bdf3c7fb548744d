"""What functions print: at once to a file each, and in batches to the simulated CloudWatch Logs."""

from __future__ import annotations

import queue
import re
import threading
import time
from pathlib import Path
from typing import Final

from moto.logs.models import logs_backends

from .identity import ACCOUNT, REGION
from .lock import API_LOCK

__all__ = ["FunctionLogs"]

_Line = tuple[str, str, int, str]


class FunctionLogs:
    """Collects lines from any thread. Files are ``<folder>/<function>.log``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder: Final = folder
        self._lines: queue.SimpleQueue[_Line | None] = queue.SimpleQueue()
        self._file_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="function-logs", daemon=True)
        self._thread.start()

    def write(self, function: str, group: str | None, stream: str, line: str) -> None:
        """Add one line of a function's environment (``stream``). Without a group it goes to the file alone."""
        name = re.sub(r"[^\w.-]", "_", function)
        with self._file_lock, (self._folder / f"{name}.log").open("a") as file:
            file.write(line + "\n")
        if group is not None:
            self._lines.put((group, stream, int(time.time() * 1000), line))

    def make_group(self, group: str) -> None:
        """What Lambda does before a function's first line, if the function's role may."""
        with API_LOCK:
            logs_backends[ACCOUNT][REGION].ensure_log_group(group)

    def close(self) -> None:
        """Write what is left and end."""
        self._lines.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            batch = [line]
            while not self._lines.empty():
                more = self._lines.get()
                if more is None:
                    self._store(batch)
                    return
                batch.append(more)
            self._store(batch)

    def _store(self, batch: list[_Line]) -> None:
        backend = logs_backends[ACCOUNT][REGION]
        with API_LOCK:
            for group, stream in {(g, s): None for g, s, _, _ in batch}:
                events = [{"timestamp": t, "message": m} for g, s, t, m in batch if (g, s) == (group, stream)]
                if group not in backend.groups:
                    continue  # deleted under a function that still runs: it does not come back
                backend.ensure_log_stream(group, stream)
                backend.put_log_events(group, stream, events)
