"""One VPC with two wired nodes for all traffic tests of a module; a lone, unwired node for each other test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.netns.dataplane.site import ONPREM, PARTNER, A, B, Node, attachment, layout_of, nodes, pods_of, two_nodes
from tests.sandbox import netns
from tests.sandbox.echo import EchoServers
from tests.sandbox.fabric import Fabric
from tests.sandbox.waiting import eventually


@dataclass
class Site:
    """``pods`` maps names (``a1-single``: node A, device index 1) to addresses; a pod's namespace has its name."""

    fabric: Fabric
    servers: EchoServers
    a: Node
    b: Node
    pods: dict[str, str] = field(default_factory=dict)

    def drops(self) -> int:
        return self.fabric.counters()["source_check_drops"]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Both nodes configured, a pod of each kind on each interface, a server in each pod, node and far network."""
    world = two_nodes()
    with Fabric() as fabric, EchoServers() as servers:
        fabric.apply(world)
        with nodes(A, B) as made:
            found = Site(fabric, servers, made[A], made[B])
            for node in (found.a, found.b):
                netns.sysctl(node.name, {"ipv4/icmp_ratelimit": 0})  # tests ask for more errors than a second allows
                assert node.call(node.dataplane.configure, layout_of(world, node.name)) == ()
                for name, address in pods_of(world, node.name).items():
                    wanted = attachment(name, address, netns_fd=node.pod(name))
                    node.call(node.dataplane.attach, wanted)
                    servers.add(name, name=name)
                    found.pods[name] = address
                servers.add(node.name, name=f"node-{node.name[-1]}")
            servers.add("internet", name="internet")
            for address in (ONPREM, PARTNER):
                servers.add("onprem", address=address, name="onprem")
            assert eventually(lambda: netns.settled(*netns.names()))
            yield found


@pytest.fixture
def node() -> Iterator[Node]:
    """Node A in a VPC of its own, not configured."""
    with Fabric() as fabric:
        fabric.apply(two_nodes())
        with nodes(A) as made:
            yield made[A]


@pytest.fixture
def bare() -> Iterator[Node]:
    """A namespace with nothing but a loopback: enough for pods."""
    netns.create("dp-bare")
    try:
        with nodes("dp-bare") as made:
            yield made["dp-bare"]
    finally:
        netns.delete("dp-bare")
