"""One EC2 instance as processes see it: an init in namespaces of its own, the agent, the plugin, and files.

The fabric makes the instance's network namespace ``/run/netns/<instance-id>``; :meth:`Node.boot` adds a pid and a mount
namespace in which :data:`MOUNTS` lie over the paths that agent and plugin really use. /run/netns is a slave of the
sandbox's, so a pod's namespace made outside appears inside. Everything about a node is files under ``node_dir(id)``,
so any process of the sandbox may use ``Node(id)``: nothing depends upon the one that booted it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.sandbox.waiting import eventually
from tests.sandbox.world import netns_path, node_dir
from tests.sandbox.world_ns import PID1, REPOSITORY, nsenter_argv, tool_path

__all__ = ["MOUNTS", "PLUGIN", "Node", "NodeError", "NodeStatus"]

MOUNTS: Final = {
    "run": "/run/berth",
    "lib": "/var/lib/berth",
    "etc": "/etc/berth",
    "net.d": "/etc/cni/net.d",
    "bin": "/opt/cni/bin",
    "log": "/var/log/berth",
}
"""Directory below ``node_dir(id)`` → where it is mounted in the node."""
PLUGIN: Final = "berth"
_POLL_SECONDS: Final = 0.01


class NodeError(RuntimeError):
    """The node is not in the state that the call needs. The message says which, and what to call first."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """``init_pid`` and ``agent_pid`` are None when that process is not running. ``cni_configs`` are file names."""

    instance_id: str
    init_pid: int | None
    agent_pid: int | None
    cni_configs: tuple[str, ...]
    plugins: tuple[str, ...]


class Node:
    """The processes of one instance. Cheap to make; several objects of one id are the same node."""

    def __init__(self, instance_id: str) -> None:
        self.id = instance_id
        self.dir = node_dir(instance_id)
        self._inits: list[subprocess.Popen[bytes]] = []  # these two are ours to reap
        self._agents: list[subprocess.Popen[bytes]] = []

    def boot(self, timeout: float = 30.0) -> int:
        """Start the node's init and return its pid; a running one is left alone.

        Files in /run/berth do not survive it, those in /var/lib/berth do, as with a reboot. Raises NodeError when the
        fabric has no namespace of that name, or a mount is refused.
        """
        if (running := self.init_pid()) is not None:
            return running
        if not netns_path(self.id).exists():
            raise NodeError(f"{netns_path(self.id)} is missing: the fabric makes it when the instance is pending")
        shutil.rmtree(self.dir / "run", ignore_errors=True)
        for name, target in MOUNTS.items():
            (self.dir / name).mkdir(parents=True, exist_ok=True)
            Path(target).mkdir(parents=True, exist_ok=True)
        pid = self._start_init(timeout)
        _write_atomically(self.dir / "init.pid", f"{pid} {_start_time(pid)}\n")
        return pid

    def _start_init(self, timeout: float) -> int:
        ours, theirs = socket.socketpair()
        with ours, (self.dir / "log" / "init.log").open("ab") as log:
            with theirs:
                binds = [(str(self.dir / name), target) for name, target in MOUNTS.items()]
                spec = json.dumps({"channel": theirs.fileno(), "binds": binds, "sysfs": True})
                unshare = ["unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--"]
                init = subprocess.Popen(
                    ["nsenter", f"--net={netns_path(self.id)}", *unshare, sys.executable, "-I", "-S", str(PID1), spec],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=_environment({}),
                    start_new_session=True,
                )
            ours.settimeout(timeout)
            said = ours.recv(65536).decode(errors="replace")
        if not said.startswith("P"):
            init.kill()
            init.wait()
            raise NodeError(f"node {self.id} did not boot: {said[1:] or self.log('init.log')}")
        self._inits.append(init)
        return int(said[1:])

    def init_pid(self) -> int | None:
        """The init's pid in the sandbox's pid namespace, or None if the node is not running."""
        return _alive(self.dir / "init.pid")

    def shutdown(self, timeout: float = 15.0) -> None:
        """Kill the init, and so everything in the node, at once (a power cut). Files stay. Not running is fine."""
        if (pid := self.init_pid()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if not eventually(lambda: self.init_pid() is None, timeout):
                raise NodeError(f"node {self.id}: process {pid} did not die within {timeout} s")
        for starter in (*self._agents, *self._inits):
            starter.wait(timeout)
        self._agents, self._inits = [], []

    def run(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command in the node to its end. ``options`` are subprocess.run's; text is captured by default."""
        options = {"text": True, "capture_output": True, "check": False, "timeout": 60.0} | options
        if "stdout" in options or "stderr" in options:
            options.pop("capture_output")
        return subprocess.run(self.argv(argv), env=_environment(options.pop("env", {})), **options)

    def argv(self, command: Sequence[str]) -> list[str]:
        """The argv that runs ``command`` in the node's mount, pid and network namespaces. Raises NodeError."""
        pid = self.init_pid()
        if pid is None:
            raise NodeError(f"node {self.id} is not running: call boot() first")
        return nsenter_argv(pid, command)

    def install_plugin(self, binary: Path, name: str = PLUGIN) -> None:
        """Put a CNI plugin into /opt/cni/bin, atomically, so that one being executed is not disturbed."""
        target = self.dir / "bin" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(".new")
        shutil.copyfile(binary, fresh)
        fresh.chmod(0o755)
        fresh.rename(target)

    def write_agent_config(self, table: str, reports_queue_url: str, **settings: str | int | float | bool) -> Path:
        """Write node.toml; ``settings`` are further top-level keys. Returns its path outside the node."""
        values: dict[str, str | int | float | bool] = {"table": table, "reports_queue_url": reports_queue_url}
        target = self.dir / "etc" / "node.toml"
        target.parent.mkdir(parents=True, exist_ok=True)
        # JSON's strings, numbers and booleans are TOML's
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in (values | settings).items()]
        _write_atomically(target, "".join(lines))
        return target

    def start_agent(self, env: Mapping[str, str] | None = None, argv: Sequence[str] | None = None) -> int:
        """Start the agent (``argv``: something else in its place) and return its pid in the sandbox's pid namespace.

        It gets a node's environment, not ours: no AWS credentials but those that the instance's metadata hands out.
        Its output is appended to ``agent.log``. Raises NodeError if one is running.
        """
        if (running := self.agent_pid()) is not None:
            raise NodeError(f"the agent of {self.id} is running already (process {running}): call stop_agent() first")
        command = argv or [sys.executable, "-m", "berth_node", "agent", "--config", "/etc/berth/node.toml"]
        with (self.dir / "log" / "agent.log").open("ab") as log:
            starter = subprocess.Popen(
                self.argv(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(env or {}),
                start_new_session=True,
            )
        self._agents.append(starter)
        pid = _only_child(starter)
        if pid is not None:
            _write_atomically(self.dir / "agent.pid", f"{pid} {_start_time(pid)}\n")
            return pid
        raise NodeError(f"the agent of {self.id} ended at once: {self.log('agent.log')}")

    def agent_pid(self) -> int | None:
        return _alive(self.dir / "agent.pid")

    def agent_alive(self) -> bool:
        return self.agent_pid() is not None

    def stop_agent(self, number: int = signal.SIGTERM, timeout: float = 30.0) -> None:
        """Send the agent a signal and wait until it is gone; NodeError after ``timeout``. Not running is fine."""
        pid = self.agent_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if not eventually(lambda: not self.agent_alive(), timeout):
                raise NodeError(f"the agent of {self.id} ignored signal {number} for {timeout} s: {self.log()}")
        for starter in self._agents:  # each ends right after what it started
            starter.wait(timeout)
        self._agents = []

    def log(self, name: str = "agent.log", lines: int = 20) -> str:
        """The last lines of a log, for messages."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join((self.dir / "log" / name).read_text(errors="replace").splitlines()[-lines:])
        return ""

    def status(self) -> NodeStatus:
        return NodeStatus(self.id, self.init_pid(), self.agent_pid(), self._names("net.d"), self._names("bin"))

    def _names(self, directory: str) -> tuple[str, ...]:
        with contextlib.suppress(FileNotFoundError):
            return tuple(sorted(os.listdir(self.dir / directory)))
        return ()


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What a service on a node has, and where this checkout's packages are. Nothing else of ours gets in."""
    packages = [REPOSITORY / "layers" / "berth", REPOSITORY / "node_agent"]
    return {
        "PATH": tool_path(),
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(map(str, packages)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **extra,
    }


def _write_atomically(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.rename(path)


def _start_time(pid: int) -> str | None:
    """Field 22 of proc(5)'s stat: with the pid it names a process for good. None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _alive(pid_file: Path) -> int | None:
    try:
        pid, started = pid_file.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _start_time(int(pid)) == started else None


def _only_child(starter: subprocess.Popen[bytes]) -> int | None:
    """nsenter forks so that the command is in the pid namespace. None if it ended before it could be seen."""
    while True:
        children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children")
        with contextlib.suppress(OSError):
            if found := children.read_text().split():
                return int(found[0])
        if starter.poll() is not None:
            return None
        time.sleep(_POLL_SECONDS)
