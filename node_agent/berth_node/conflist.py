"""The CNI configuration that makes the runtime's network ready: written when an address can be served, not before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from berth_node.chain import Link, common_versions
from berth_node.durable import write_atomically
from berth_node.pod_annotations import CAPABILITY as ANNOTATIONS

__all__ = ["content", "plugin", "publish", "withdraw"]

NAME: Final = "berth"
_EVERYBODYS: Final = ("0.3.1", "0.4.0", "1.0.0")


def plugin(*, host_ports: bool = True) -> dict[str, Any]:
    """Berth's entry of the list. ``host_ports`` declares the capability ``portMappings``: without it a runtime gives
    Berth no mappings, so a list in which ``portmap`` follows must not declare it, or both would translate.

    Pods' annotations are declared in any case: a runtime that knows nothing of a capability passes it over.
    """
    return {"type": "berth", "capabilities": {ANNOTATIONS: True, **({"portMappings": True} if host_ports else {})}}


def content(highest: str, links: Sequence[Link] = ()) -> str:
    """The list: Berth, then the chained plugins, in the versions that all of them speak. Raises ``ValueError``.

    A runtime of CNI 1.1.0 takes the highest version of both keys that it speaks (libcni's NetworkConfFromBytes). An
    older one reads ``cniVersion`` alone, takes any list, and refuses a *result* of a later version than its own:
    containerd before 2.0 would fail every ADD of a list of 1.1.0. So that key never says more than 1.0.0.
    """
    versions = common_versions(highest, links)
    if not versions:
        raise ValueError(f"no CNI version up to {highest} is spoken by all of the chain")
    host_ports = all(link.config["type"] != "portmap" for link in links)
    body = {
        "cniVersion": [v for v in versions if v in _EVERYBODYS or v == versions[0]][-1],
        "cniVersions": list(versions),
        "name": NAME,
        "plugins": [plugin(host_ports=host_ports), *(link.config for link in links)],
    }
    return json.dumps(body, indent=2) + "\n"


def publish(path: Path, highest: str, links: Sequence[Link] = ()) -> bool:
    """Put the file there, whole or not at all (runtimes watch the folder); True if it changed.

    Raises ``OSError``, and ``ValueError`` as :func:`content`.
    """
    text = content(highest, links)
    if path.exists() and path.read_text() == text:
        return False
    write_atomically(path, text)
    return True


def withdraw(path: Path) -> None:
    """Take the file of an earlier boot away: the folder outlives a reboot, the addresses' usability does not."""
    path.unlink(missing_ok=True)
