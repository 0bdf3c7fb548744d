"""The libcni-conformant driver on the node of containerd, for what containerd 1.6 asks nobody: 1.1.0, STATUS, GC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.runtime.conftest import NODE
from tests.sandbox.containerd import CNI_BIN, CNI_CONF
from tests.sandbox.node import Node
from tests.sandbox.runtime import Runtime
from tests.sandbox.world import netns_path


class _Place(Node):
    """The runtime node's namespace and its real paths, in the form that the driver wants."""

    def __init__(self, folder: Path) -> None:
        super().__init__(NODE)
        self.dir = folder
        (folder / "net.d").symlink_to(CNI_CONF)
        (folder / "bin").symlink_to(CNI_BIN)

    def argv(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net={netns_path(NODE)}", "--", *command]


def driver(folder: Path, **capabilities: Any) -> Runtime:
    """A runtime with these capabilities (``portMappings=…``)."""
    return Runtime(_Place(folder), capabilities=capabilities)
