"""The nodes of the bench: one network namespace for each peer, all alike, and Berth's agent in its own."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from berth.contract import Assignment, Interface, Policy, Record
from berth_node.seams import InterfaceLayout, NodeLayout
from berth_node.usable import MetadataInterface

from tests.sandbox import netns
from tests.sandbox.waiting import wait_for
from tests.sandbox.world import netns_path
from tests.unit.node.cloud import ARN, FakeCloud, serving

__all__ = ["ADDRESS", "BLOCKS", "LAYOUT", "Agent", "addresses", "agent", "node"]

ADDRESS: Final = "10.0.1.5"
SUBNET, GATEWAY, MAC = "10.0.0.0/20", "10.0.0.1", "02:aa:00:00:00:01"
BLOCKS: Final = tuple(str(n) for n in list(ipaddress.ip_network("10.0.2.0/23").subnets(new_prefix=28))[:20])
"""Enough for 250 pods and for those that were just deleted."""
LAYOUT: Final = NodeLayout(
    (InterfaceLayout(MAC, 0, SUBNET, GATEWAY, ADDRESS, 0, BLOCKS),), no_snat_cidrs=("10.0.0.0/16",)
)
_ROOT: Final = Path(__file__).resolve().parents[3]


def addresses() -> list[str]:
    """Every address that pods can get."""
    return [str(a) for block in BLOCKS for a in ipaddress.ip_network(block)]


@contextmanager
def node(name: str) -> Iterator[socket.socket]:
    """A namespace with one interface, and something that takes TCP connections on port 7 (the kernel does)."""
    netns.create(name)
    try:
        lines = [
            f"link add eth0 address {MAC} type veth peer name far",
            f"addr add {ADDRESS}/20 dev eth0",
            "link set eth0 up",
            "link set far up",
            f"route add default via {GATEWAY}",
        ]
        netns.ip_batch(name, lines)
        with netns.open_socket(name) as listener:
            listener.bind(("", 7))
            listener.listen(4096)
            yield listener
    finally:
        netns.delete(name)


@dataclass(slots=True)
class Agent:
    """The real agent, started as an installation starts it but for its settings' endpoints."""

    name: str
    folder: Path
    cloud: FakeCloud
    process: subprocess.Popen[bytes] | None = None
    settings: str = ""

    def start(self) -> None:
        """Start it on a node that was just booted, and wait until it lends addresses."""
        Path("/run/berth/ready").unlink(missing_ok=True)
        Path("/run/berth/cni.sock").unlink(missing_ok=True)
        self.spawn()
        ready = [Path("/run/berth/ready"), Path("/run/berth/cni.sock")]
        try:
            wait_for("the agent", lambda: all(p.exists() for p in ready) or self._ended(), 30, 0.02)
        finally:
            if self._ended():
                print(self.log.read_text(), file=sys.stderr)

    @property
    def log(self) -> Path:
        """What it has logged, all its lives."""
        return self.folder / "agent.log"

    def spawn(self) -> None:
        """Start it. Byte code is kept, as an installation's is: without it the process compiles its modules itself,
        which shows in its memory."""
        config = self.folder / "node.toml"
        config.write_text(f'table = "nodes"\nreports_queue_url = "http://queue/reports"\n{self.settings}')
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {
            "AWS_ENDPOINT_URL": self.cloud.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.cloud.url,
            "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"),
            "PYTHONPATH": f"{_ROOT / 'layers/berth'}:{_ROOT / 'node_agent'}",
        }
        argv = [sys.executable, "-m", "berth_node", "agent", "--config", str(config)]
        with self.log.open("ab") as stderr:
            self.process = netns.popen(self.name, argv, env=environment, cwd="/", stderr=stderr)

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def stop(self) -> None:
        """End it by SIGTERM."""
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
            self.process = None

    def rss_mb(self) -> float:
        """Resident memory, MB of 10^6 bytes, as the kernel adds it up (proc(5), smaps_rollup)."""
        assert self.process
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        kilobytes = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Rss:"))
        return round(kilobytes * 1024 / 1e6, 1)

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def status(self) -> dict[str, Any]:
        """``berth-node status --json``."""
        environment = {**os.environ, "PYTHONPATH": f"{_ROOT / 'layers/berth'}:{_ROOT / 'node_agent'}"}
        argv = [sys.executable, "-m", "berth_node", "status", "--json"]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@contextmanager
def agent(name: str, folder: Path) -> Iterator[Agent]:
    """An agent that is stopped at the end, in a node of this name, with all of ``BLOCKS`` to lend.

    Addresses cool for a second, so that two minutes of them need not be kept in stock.
    """
    cloud = FakeCloud(interfaces=[MetadataInterface(MAC, 0, (ADDRESS,), BLOCKS)])
    assignments = tuple(Assignment(c, f"as-{c}", False) for c in BLOCKS)
    interface = Interface("eni-1", MAC, 0, "subnet-1", SUBNET, GATEWAY, ADDRESS, 0, assignments)
    policy = Policy(warm_addresses=16 * len(BLOCKS), max_pods=250, cooldown_seconds=1)
    cloud.record = Record(ARN, 1, policy, (interface,))
    with serving(cloud, netns.open_socket(name)):
        made = Agent(name, folder, cloud)
        try:
            yield made
        finally:
            made.stop()


def pod(name: str) -> str:
    """A pod's namespace, made; returns its path."""
    netns.create(name)
    return str(netns_path(name))
