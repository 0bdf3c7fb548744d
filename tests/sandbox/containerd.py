"""A real containerd with runc in a node's network namespace, driven through CRI as kubelet drives it.

Debian's containerd 1.6 and runc 1.1, without systemd. Everything that it writes lies on the private world's tmpfs, but
for cgroups, which are the machine's: they have a parent of their own, :data:`CGROUPS`, that is removed at start and
end, since processes killed with their world leave empty ones behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

from berth_node import cri

from tests.sandbox import netns, pause_image
from tests.sandbox.waiting import wait_for

__all__ = ["CGROUPS", "CNI_BIN", "CNI_CONF", "Containerd", "PodSpec", "Sandbox", "remove_cgroups"]

CGROUPS: Final = "berth-sandbox"
CNI_BIN: Final = Path("/opt/cni/bin")
CNI_CONF: Final = Path("/etc/cni/net.d")
REFERENCE_PLUGINS: Final = Path("/usr/lib/cni")
"""Where Debian's containernetworking-plugins are."""
SOCKET: Final = Path("/run/containerd/containerd.sock")
_READY: Final = 0  # PodSandboxState.SANDBOX_READY, which a message leaves out
_UNUSED: Final = ("snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.devmapper", "snapshotter.v1.aufs")


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A pod as kubelet names it in CRI. ``ports`` are (host port, container port)."""

    name: str
    namespace: str = "default"
    uid: str = field(default_factory=lambda: str(uuid4()))
    attempt: int = 0
    ports: tuple[tuple[int, int], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        """A PodSandboxConfig (k8s.io/cri-api, runtime/v1/api.proto)."""
        m = cri.message
        metadata = m((1, self.name), (2, self.uid), (3, self.namespace), (4, self.attempt))
        options = m((2, 1))  # NamespaceOption.pid: CONTAINER; network: POD, which is 0
        linux = m((1, f"/{CGROUPS}"), (2, m((1, options))))
        ports = [(5, m((2, inside), (3, outside))) for outside, inside in self.ports]
        annotations = [(7, m((1, name), (2, value))) for name, value in self.annotations]
        return m((1, metadata), (2, self.name), *ports, *annotations, (8, linux))


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox as CRI tells of it. ``netns`` is the name below /run/netns."""

    id: str
    ready: bool
    address: str
    netns: str
    pid: int


class Containerd:
    """One daemon in the network namespace ``where``; a context manager. Files are below ``folder``."""

    def __init__(self, where: str, folder: Path, socket: Path = SOCKET) -> None:
        self._where, self._folder, self.socket = where, folder, socket
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        remove_cgroups()
        self._folder.mkdir(parents=True)
        CNI_BIN.mkdir(parents=True, exist_ok=True)
        install_reference_plugins("loopback")  # containerd runs it for lo in each sandbox
        (self._folder / "config.toml").write_text(self._config())
        self.start()
        image = self._folder / "pause.tar"
        pause_image.write(image)
        self._ctr("-n", "k8s.io", "images", "import", str(image))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for sandbox in self.list():
            with contextlib.suppress(cri.CriError):
                self.remove(sandbox)
        self.stop()
        remove_cgroups()
        print(self.log())

    def _config(self) -> str:
        # restrict_oom_score_adj: without CAP_SYS_RESOURCE runc could not lower a sandbox's score
        unused = [f"io.containerd.{name}" for name in (*_UNUSED, "internal.v1.opt", "tracing.processor.v1.otlp")]
        return f"""version = 2
root = "{self._folder}/root"
state = "{self._folder}/state"
disabled_plugins = {json.dumps(unused)}
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image.IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_BIN}"
    conf_dir = "{CNI_CONF}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""

    # ------------------------------------------------------------------------------------------------ the daemon

    def start(self) -> None:
        """Start the daemon and wait until CRI answers: until it has loaded its sandboxes, it refuses every call."""
        assert self._process is None
        with (self._folder / "containerd.log").open("ab") as log:
            self._process = netns.popen(
                self._where,
                ["containerd", "--config", str(self._folder / "config.toml")],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for("containerd's CRI", self._answers, every=0.05)

    def _answers(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise RuntimeError(f"containerd ended at once: {self.log()}")
        try:
            cri.list_sandboxes(str(self.socket))
        except cri.CriError:
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the daemon; sandboxes go on, each below a shim of its own."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def log(self) -> str:
        """The daemon's last words, for messages."""
        return (self._folder / "containerd.log").read_text(errors="replace")[-4000:]

    def _ctr(self, *arguments: str) -> None:
        done = subprocess.run(["ctr", "--address", str(self.socket), *arguments], capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ctr {' '.join(arguments)}: {done.stderr.decode()}")

    # -------------------------------------------------------------------------------------------------------- CRI

    def _call(self, method: str, *fields: tuple[int, int | str | bytes], timeout: float = 60.0) -> dict[int, Any]:
        """The answer's last value of each field. Raises :class:`berth_node.cri.CriError`."""
        return _fields(cri.call(str(self.socket), method, cri.message(*fields), timeout))

    def run(self, pod: PodSpec, timeout: float = 60.0) -> str:
        """RunPodSandbox; returns the sandbox's id. After ``timeout`` seconds the caller hangs up."""
        answer = self._call("RunPodSandbox", (1, pod.encode()), timeout=timeout)
        return str(answer[1].decode())

    def stop_sandbox(self, sandbox: str) -> None:
        """StopPodSandbox: its process ends, and CNI's DEL is called with its namespace."""
        self._call("StopPodSandbox", (1, sandbox))

    def remove_sandbox(self, sandbox: str) -> None:
        """RemovePodSandbox: CNI's DEL is called once more, without a namespace."""
        self._call("RemovePodSandbox", (1, sandbox))

    def remove(self, sandbox: str) -> None:
        """Stop and remove."""
        self.stop_sandbox(sandbox)
        self.remove_sandbox(sandbox)

    def list(self) -> tuple[str, ...]:
        """The ids of all sandboxes."""
        return cri.list_sandboxes(str(self.socket))

    def status(self, sandbox: str) -> Sandbox:
        """PodSandboxStatus, with what only the verbose answer has."""
        answer = self._call("PodSandboxStatus", (1, sandbox), (2, 1))
        status, info = _fields(answer[1]), _info(answer[2])
        network = _fields(status.get(5, b""))
        spaces = info["runtimeSpec"]["linux"]["namespaces"]
        path = next(space["path"] for space in spaces if space["type"] == "network")
        address = network.get(1, b"").decode()
        return Sandbox(sandbox, status.get(3, _READY) == _READY, address, Path(path).name, info["pid"])

    def network_ready(self) -> bool:
        """Whether kubelet would call the node's network ready (Status, the condition NetworkReady)."""
        conditions = [_fields(v) for n, v in cri.parse(self._call("Status")[1]) if n == 1]
        return any((c.get(1), c.get(2)) == (b"NetworkReady", 1) for c in conditions)


def _fields(message: Any) -> dict[int, Any]:
    """A message's last value of each field."""
    return dict(cri.parse(message))


def _info(entry: bytes) -> dict[str, Any]:
    """The one entry of the verbose map: JSON below the key "info"."""
    found: dict[str, Any] = json.loads(_fields(entry)[2])
    return found


def install_reference_plugins(*names: str) -> None:
    """Put some of Debian's plugins beside ours. Raises FileNotFoundError when the package is not installed."""
    for name in names:
        shutil.copy(REFERENCE_PLUGINS / name, CNI_BIN / name)


def remove_cgroups() -> None:
    """Remove our empty cgroups, innermost first; one that is in use stays."""
    for folder in _cgroups():
        for inner, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(inner)


def _cgroups() -> Iterator[Path]:
    base = Path("/sys/fs/cgroup")
    yield base / CGROUPS
    for hierarchy in sorted(base.glob("*/")):
        yield hierarchy / CGROUPS


def missing_tools(*names: str) -> Sequence[str]:
    """Which of these programs are not installed."""
    return [name for name in names if shutil.which(name) is None]
