"""Execution environments: one process each, with the deployed code, under AWS's own runtime interface client."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .runtime_api import Invocation, RuntimeApi

__all__ = ["CodeStore", "Environment", "Outcome", "Spec"]

_BOOTSTRAP: Final = Path(__file__).with_name("lambda_bootstrap.py")
INIT_SECONDS: Final = 30.0
"""Lambda allows 10 s; two busy cores are slower than Lambda, so the sandbox allows more."""

_RUNTIME_DISTRIBUTIONS: Final = (
    "awslambdaric",
    "snapshot-restore-py",
    "simplejson",
    "boto3",
    "botocore",
    "s3transfer",
    "jmespath",
    "urllib3",
    "python-dateutil",
    "six",
)
"""What the managed Python runtime brings: its client and boto3, and what they need."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A deployed revision of a function. Two equal specs may share environments."""

    name: str
    arn: str
    handler: str
    runtime: str
    memory: int
    timeout: float
    role: str
    code: str
    layers: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an invocation gave: JSON text, or an error's JSON. ``log`` is what it printed."""

    ok: bool
    payload: str
    log: str = ""


class CodeStore:
    """Unpacks each zip once, by digest. Environments share the result; nothing writes to it but bytecode."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._runtime: Path | None = None

    def unpack(self, digest: str, data: bytes) -> Path:
        """The folder with the zip's content."""
        folder = self._root / hashlib.sha256(digest.encode()).hexdigest()[:16]
        with self._lock:
            if not folder.exists():
                partial = folder.with_suffix(".partial")
                with zipfile.ZipFile(io.BytesIO(data)) as archive:
                    archive.extractall(partial)
                partial.rename(folder)
        return folder

    def runtime(self) -> Path:
        """A folder of links to the packages that the Lambda runtime has, so that no other is importable."""
        with self._lock:
            if self._runtime is None:
                self._runtime = self._root / "runtime"
                self._runtime.mkdir(parents=True, exist_ok=True)
                for name in _RUNTIME_DISTRIBUTIONS:
                    self._link(importlib.metadata.distribution(name))
            return self._runtime

    def _link(self, distribution: importlib.metadata.Distribution) -> None:
        assert self._runtime is not None
        tops = {Path(str(file)).parts[0] for file in distribution.files or ()}
        for top in sorted(tops - {"..", "__pycache__"}):
            target = Path(str(distribution.locate_file(top)))
            link = self._runtime / top
            if not link.is_symlink():
                link.symlink_to(target)


class Environment:
    """One process. Serves one invocation at a time; ``alive`` is false once it may not be used again."""

    def __init__(
        self,
        spec: Spec,
        paths: tuple[Path, ...],
        runtime: Path,
        environ: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> None:
        self.spec = spec
        self.alive = True
        self._on_line = on_line
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._api = RuntimeApi()
        env = {
            **environ,
            **dict(spec.variables),
            "AWS_LAMBDA_RUNTIME_API": self._api.address,
            "LAMBDA_TASK_ROOT": str(paths[0]),
            "_HANDLER": spec.handler,
        }
        command = [sys.executable, "-S", "-P", str(_BOOTSTRAP), str(runtime), *map(str, paths), spec.handler]
        self._process = subprocess.Popen(
            command, cwd=paths[0], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._pump = threading.Thread(target=self._read_lines, name=f"log-{spec.name}", daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def invoke(self, event: bytes) -> Outcome:
        """Run the handler on ``event``. Errors are outcomes; an environment that broke is no longer alive."""
        request_id = str(uuid.uuid4())
        failure = self._initialized(request_id)
        if failure is None:
            invocation = Invocation(request_id, event, self.spec.arn, self.spec.timeout)
            self._log(f"START RequestId: {request_id} Version: $LATEST")
            begin = time.monotonic()
            self._api.put(invocation)
            failed, payload = self._await(invocation, begin + self.spec.timeout)
            if not self.alive:
                self.close()  # all of its output has arrived then
            self._settle()
            self._log(f"END RequestId: {request_id}")
            self._log(f"REPORT RequestId: {request_id}\tDuration: {(time.monotonic() - begin) * 1000:.2f} ms")
        else:
            failed, payload = True, failure
            self.close()
        return Outcome(not failed, payload, self._drain())

    def close(self) -> None:
        """Kill the process and free what it held."""
        self.alive = False
        self._process.kill()
        self._process.wait()
        self._api.close()
        self._pump.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()

    def _initialized(self, request_id: str) -> str | None:
        """``None`` when the handler is loaded, else the error as JSON."""
        end = time.monotonic() + INIT_SECONDS
        while not self._api.ready.wait(0.05):
            if self._process.poll() is not None:
                break
            if time.monotonic() > end:
                self.alive = False
                return _timed_out(request_id, INIT_SECONDS)
        if self._api.init_error is None and self._process.poll() is None:
            return None
        self.alive = False
        return self._api.init_error or _exited(request_id, self._process.poll())

    def _await(self, invocation: Invocation, end: float) -> tuple[bool, str]:
        while True:
            left = end - time.monotonic()
            try:
                return invocation.result.get(timeout=max(0.001, min(left, 0.1)))
            except queue.Empty:
                pass
            if self._process.poll() is not None:
                self.alive = False
                return True, _exited(invocation.id, self._process.returncode)
            if left <= 0:
                self.alive = False
                return True, _timed_out(invocation.id, self.spec.timeout)

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._log(line.decode(errors="replace").rstrip("\n"))

    def _settle(self) -> None:
        """Wait until what was printed before the answer has been read, but not for long: it goes on printing."""
        for _ in range(50):
            if not self._unread():
                return
            time.sleep(0.001)

    def _unread(self) -> bool:
        stdout = self._process.stdout
        if stdout is None or stdout.closed:
            return False
        return bool(select.select([stdout], [], [], 0.001)[0])

    def _log(self, line: str) -> None:
        self._lines.put(line)
        self._on_line(line)

    def _drain(self) -> str:
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        return "\n".join(lines)


def _timed_out(request_id: str, seconds: float) -> str:
    message = f"RequestId: {request_id} Error: Task timed out after {seconds:.2f} seconds"
    return json.dumps({"errorType": "Sandbox.Timedout", "errorMessage": message})


def _exited(request_id: str, status: int | None) -> str:
    reason = f"signal: {signal.Signals(-status).name}" if status and status < 0 else f"exit status {status}"
    message = f"RequestId: {request_id} Error: Runtime exited with error: {reason}"
    return json.dumps({"errorType": "Runtime.ExitError", "errorMessage": message})
