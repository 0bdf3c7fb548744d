"""Whom Berth is timed beside: Debian's plugins, and the floor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["DEBIAN", "PEERS", "Peer", "available", "write_configs"]

DEBIAN: Final = Path("/usr/lib/cni")
"""Where the package containernetworking-plugins has them."""


@dataclass(frozen=True, slots=True)
class Peer:
    """``reaped``: what its DEL leaves behind is deleted by a ``REAP``, which is not timed."""

    name: str
    binary: Path
    config: Mapping[str, Any]
    reaped: bool = False

    @property
    def node(self) -> str:
        return f"node-{self.name}"


def _ipam(network: int) -> dict[str, Any]:
    # each network has an address range and a folder of leases of its own, all on the world's tmpfs
    return {
        "type": "host-local",
        "subnet": f"10.{network}.0.0/16",
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": "/run/host-local",
    }


def _debian(name: str, plugin: str, network: int, **more: Any) -> Peer:
    # 1.0.0 is the newest that these speak
    config = {"cniVersion": "1.0.0", "name": name, "type": plugin, "mtu": 9001, "ipam": _ipam(network), **more}
    return Peer(name, DEBIAN / plugin, config)


def available(plugin: Path, floor: Path) -> tuple[Peer, ...]:
    """Those whose programs are installed."""
    berth = {"cniVersion": "1.1.0", "name": "berth", "type": "berth"}
    every = (
        Peer("berth", plugin, berth),
        _debian("ptp", "ptp", 22, ipMasq=False),
        _debian("ptp_ipmasq", "ptp", 23, ipMasq=True),
        _debian("bridge", "bridge", 24, bridge="cni0", isGateway=True, ipMasq=False),
        Peer("floor", floor, berth, reaped=True),
    )
    return tuple(p for p in every if p.binary.exists())


PEERS: Final = ("berth", "ptp", "ptp_ipmasq", "bridge", "floor")


def write_configs(peers: tuple[Peer, ...], folder: Path) -> dict[str, Path]:
    """Each peer's standard input as a file."""
    made = {p.name: folder / f"{p.name}.json" for p in peers}
    for p in peers:
        made[p.name].write_text(json.dumps(p.config))
    return made
