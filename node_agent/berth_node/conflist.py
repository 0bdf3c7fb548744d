"""The CNI configuration that makes the runtime's network ready: written when an address can be served, not before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from berth_node.durable import write_atomically
from berth_node.skel import VERSIONS

__all__ = ["content", "plugin", "publish", "withdraw"]

NAME: Final = "berth"


def plugin(*, host_ports: bool = True) -> dict[str, Any]:
    """Berth's entry of the list. ``host_ports`` declares the capability ``portMappings``: without it a runtime gives
    Berth no mappings, so a list in which ``portmap`` follows must not declare it, or both would translate."""
    return {"type": "berth", **({"capabilities": {"portMappings": True}} if host_ports else {})}


def content(version: str, *, host_ports: bool = True) -> str:
    """The list with berth alone. A runtime that knows ``cniVersions`` takes the highest it speaks."""
    body = {
        "cniVersion": version,
        "cniVersions": list(VERSIONS[: VERSIONS.index(version) + 1]),
        "name": NAME,
        "plugins": [plugin(host_ports=host_ports)],
    }
    return json.dumps(body, indent=2) + "\n"


def publish(path: Path, version: str) -> bool:
    """Put the file there, whole or not at all (runtimes watch the folder); True if it changed. Raises ``OSError``."""
    text = content(version)
    if path.exists() and path.read_text() == text:
        return False
    write_atomically(path, text)
    return True


def withdraw(path: Path) -> None:
    """Take the file of an earlier boot away: the folder outlives a reboot, the addresses' usability does not."""
    path.unlink(missing_ok=True)
