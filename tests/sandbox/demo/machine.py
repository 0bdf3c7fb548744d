"""Starts and ends the sandbox process for whoever drives it: the demo and the end-to-end tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.sandbox.stack import Settings
from tests.sandbox.world import ROOT
from tests.sandbox.world_ns import in_world

__all__ = ["QUICK", "RunningSandbox", "SandboxDiedError", "needing", "running_sandbox", "start_sandbox"]

QUICK: Final = Settings(pending=0.5, shutting_down=0.5, metadata_lag=0.2)
"""EC2 in a hurry, for those who do not look at what happens while an instance is pending."""


class SandboxDiedError(RuntimeError):
    """The sandbox process ended before it was told to. The message has its status and the end of its output."""


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """Where the API is, and the process that serves it."""

    endpoint: str
    process: subprocess.Popen[bytes]

    def last_words(self) -> str:
        """How it ended and what it said last, or nothing while it runs."""
        status = self.process.poll()
        return "" if status is None else f"the sandbox process ended with status {status}: {_last_words()}"

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self.process.terminate()
        self.process.wait()


def start_sandbox(settings: Settings, host_fd: int | None = None, *, tied: bool = True) -> RunningSandbox:
    """Start the sandbox process and wait until it serves. ``tied`` ends it with this process.
    Raises :class:`SandboxDiedError`, or RuntimeError outside a private world.
    """
    if not in_world():
        raise RuntimeError("the sandbox runs only inside a private world: use python -m tests.sandbox.world_ns -- ...")
    ready, write = os.pipe()
    life, _ours = os.pipe()  # our end stays open for as long as we live
    fds = [write, *([life] if tied else []), *([host_fd] if host_fd is not None else [])]
    command = [sys.executable, "-m", "tests.sandbox.stack", "--ready-fd", str(write)]
    command += ["--life-fd", str(life)] if tied else []
    command += ["--host-fd", str(host_fd)] if host_fd is not None else []
    command += ["--settings", json.dumps(asdict(settings))]
    (ROOT / "log").mkdir(parents=True, exist_ok=True)
    with (ROOT / "log" / "sandbox.out").open("ab") as out:
        process = subprocess.Popen(
            command, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    os.close(write)
    os.close(life)
    with os.fdopen(ready) as lines:
        line = lines.readline()
    if not line:
        raise SandboxDiedError(f"the sandbox ended with status {process.wait()}: {_last_words()}")
    return RunningSandbox(json.loads(line)["endpoint"], process)


def _last_words() -> str:
    texts = [path.read_text(errors="replace") for path in map(Path, (ROOT / "log" / "sandbox.out",)) if path.exists()]
    return "\n".join(texts)[-2000:].strip() or "it said nothing"


@contextlib.contextmanager
def needing(sandbox: RunningSandbox) -> Iterator[None]:
    """Raises :class:`SandboxDiedError` in the block as soon as the sandbox ends; else one waits for what never comes.

    For the main thread, since only that one hears signals.
    """
    over = threading.Event()

    def watch() -> None:
        # polled: a Popen that a thread waits for reports no status to anybody else meanwhile
        while not over.wait(0.2):
            if sandbox.last_words():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                return

    def tell(*_: object) -> None:
        if not over.is_set():
            raise SandboxDiedError(sandbox.last_words())

    previous = signal.signal(signal.SIGUSR1, tell)
    watcher = threading.Thread(target=watch, name="watch the sandbox", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, previous)


@contextlib.contextmanager
def running_sandbox(settings: Settings) -> Iterator[str]:
    """A sandbox for the length of a ``with`` block; gives the endpoint."""
    sandbox = start_sandbox(settings)
    try:
        yield sandbox.endpoint
    finally:
        sandbox.stop()
