"""Podman with its CNI backend in a node's network namespace: a second client of the same plugin and configuration.

Debian's podman 4.3 with runc, all its files on the private world's tmpfs. Its containers are no pods of a kubelet: it
passes K8S_POD_NAME and the like, with the container's name, but no K8S_POD_UID.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.sandbox import netns, pause_image
from tests.sandbox.containerd import CGROUPS, CNI_BIN, CNI_CONF, remove_cgroups

__all__ = ["Container", "Podman", "PodmanError"]

NETWORK: Final = "berth"
_ENGINE: Final = f"""[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "none"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{CNI_BIN}"]
network_config_dir = "{CNI_CONF}"
"""


class PodmanError(RuntimeError):
    """Podman refused. The message is its standard error."""


class Container:
    """What ``podman inspect`` says of one. ``netns`` is the name below /run/netns, empty when it does not run."""

    def __init__(self, inspected: dict[str, Any]) -> None:
        settings = inspected["NetworkSettings"]
        found = settings["Networks"][NETWORK]
        self.id: str = inspected["Id"]
        self.address: str = found["IPAddress"]
        self.mac: str = found["MacAddress"]
        self.gateway: str = found["Gateway"]
        self.netns: str = Path(settings["SandboxKey"]).name


class Podman:
    """Runs podman in the network namespace ``where``; a context manager that removes its containers."""

    def __init__(self, where: str, folder: Path) -> None:
        self._where, self._folder = where, folder

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        (self._folder / "containers.conf").write_text(_ENGINE)
        places = f'graphroot = "{self._folder}/root"\nrunroot = "{self._folder}/run"\n'
        (self._folder / "storage.conf").write_text(f'[storage]\ndriver = "overlay"\n{places}')
        image = self._folder / "pause.tar"
        pause_image.write(image)
        self("load", "--quiet", "--input", str(image))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self("rm", "--all", "--force", "--time", "0")
        remove_cgroups()

    def __call__(self, *arguments: str) -> str:
        """Run ``podman arguments``; its output. Raises :class:`PodmanError`."""
        with netns.inside(self._where):
            done = subprocess.run(
                ["podman", f"--tmpdir={self._folder}/tmp", *arguments],
                env={
                    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
                    "HOME": str(self._folder),
                    "CONTAINERS_CONF": str(self._folder / "containers.conf"),
                    "CONTAINERS_STORAGE_CONF": str(self._folder / "storage.conf"),
                },
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        if done.returncode:
            raise PodmanError(f"podman {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def run(self, name: str, *options: str) -> Container:
        """A container of the pause image on Berth's network."""
        # a limit cannot be raised without CAP_SYS_RESOURCE, and podman's defaults would be
        limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", f"--cgroup-parent=/{CGROUPS}")
        given = ("--detach", f"--name={name}", f"--network={NETWORK}", "--log-driver=none", *limits, *options)
        self("run", *given, pause_image.IMAGE)
        return self.inspect(name)

    def inspect(self, name: str) -> Container:
        """The container as it is now."""
        return Container(json.loads(self("inspect", name))[0])

    def remove(self, name: str) -> None:
        """End and remove a container: CNI's DEL is called."""
        self("rm", "--force", "--time", "0", name)
