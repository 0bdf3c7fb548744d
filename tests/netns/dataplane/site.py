"""Two nodes in a VPC, each with a primary and a secondary interface that have a prefix and single addresses.

Node B's secondary interface is in node A's subnet, so that traffic inside a subnet is there too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeVar

from berth_node import portmap
from berth_node.dataplane import KernelDataplane
from berth_node.portmap import PortMapping
from berth_node.seams import Attachment, Dataplane, InterfaceLayout, NodeLayout

from tests.sandbox import netns
from tests.sandbox.world import Eni, Instance, Route, Subnet, World, netns_path

__all__ = ["INTERNET", "ONPREM", "PARTNER", "Node", "attachment", "layout_of", "lent", "nodes", "pods_of", "two_nodes"]

INTERNET: Final = "198.51.100.10"
ONPREM: Final = "192.168.50.10"
"""In the no-SNAT list: it sees pods' own addresses."""
PARTNER: Final = "172.30.9.10"
"""Not in the no-SNAT list, yet it may reach pods directly."""
EIP: Final = "203.0.113.5"
A, B = "i-dp0000000000000a", "i-dp0000000000000b"

_T = TypeVar("_T")


def two_nodes() -> World:
    private = (
        Route("10.0.0.0/16", "local"),
        Route("0.0.0.0/0", "nat-1"),
        Route("192.168.50.0/24", "vgw-1"),
        Route("172.30.9.0/24", "vgw-1"),
    )
    public = (Route("10.0.0.0/16", "local"), Route("0.0.0.0/0", "igw-1"))
    return World(
        vpc_cidrs=("10.0.0.0/16",),
        subnets=(
            Subnet("subnet-public", "10.0.0.0/24", "eu-west-1a", "vpc-1", public),
            Subnet("subnet-a", "10.0.1.0/24", "eu-west-1a", "vpc-1", private),
            Subnet("subnet-b", "10.0.2.0/24", "eu-west-1a", "vpc-1", private),
        ),
        instances=(_instance(A), _instance(B)),
        enis=(
            _eni("a0", "subnet-a", A, 0, ("10.0.1.10", "10.0.1.80", "10.0.1.81"), ("10.0.1.32/28",)),
            _eni("a1", "subnet-a", A, 1, ("10.0.1.20", "10.0.1.70", "10.0.1.71"), ("10.0.1.48/28",)),
            _eni("b0", "subnet-b", B, 0, ("10.0.2.10", "10.0.2.80", "10.0.2.81"), ("10.0.2.32/28",)),
            _eni("b1", "subnet-a", B, 1, ("10.0.1.120", "10.0.1.170", "10.0.1.171"), ("10.0.1.144/28",)),
            replace(_eni("0f", "subnet-public", None, 0, ("10.0.0.5",), ()), source_check=False, public_address=EIP),
        ),
        nat=(("nat-1", "10.0.0.5"),),
    )


def _instance(instance_id: str) -> Instance:
    arn = f"arn:aws:ec2:eu-west-1:123456789012:instance/{instance_id}"
    return Instance(instance_id, arn, "running", "m5.large", "eu-west-1a", "ami-1", 1_700_000_000.0)


def _eni(n: str, subnet: str, node: str | None, index: int, own: tuple[str, ...], prefixes: tuple[str, ...]) -> Eni:
    return Eni(
        id=f"eni-0000000000000d{n}",
        mac=f"02:00:00:00:0d:{n}",
        subnet_id=subnet,
        addresses=own,
        prefixes=prefixes,
        instance_id=node,
        device_index=index,
    )


def layout_of(world: World, node: str, **changes: object) -> NodeLayout:
    """What the agent would tell the dataplane about a node."""
    interfaces = tuple(
        InterfaceLayout(
            mac=eni.mac,
            device_index=eni.device_index,
            network_card=eni.network_card,
            subnet_cidr=world.subnet(eni.subnet_id).cidr,
            gateway=world.subnet(eni.subnet_id).gateway,
            primary_address=eni.primary,
            blocks=(*eni.prefixes, *(f"{address}/32" for address in eni.addresses[1:])),
            ipv6_blocks=eni.ipv6_prefixes,
        )
        for eni in world.enis_of(node)
    )
    layout = NodeLayout(interfaces, ("10.0.0.0/16", "192.168.50.0/24"), ipv6=any(i.ipv6_blocks for i in interfaces))
    return replace(layout, **changes)  # type: ignore[arg-type]


def pods_of(world: World, node: str) -> dict[str, str]:
    """Name to address: on each interface a pod from the prefix and one with a single address."""
    found = {}
    for eni in world.enis_of(node):
        short = f"{node[-1]}{eni.device_index}"
        found[f"{short}-prefix"] = eni.prefixes[0].split("/")[0]
        found[f"{short}-single"] = eni.addresses[1]
    return found


def attachment(name: str, address: str, **changes: object) -> Attachment:
    made = Attachment(
        container_id=f"{name}-container",
        ifname="eth0",
        address=address,
        host_ifname=f"eni{name.replace('-', ''):>011}"[:15],
        namespace="default",
        name=name,
        uid=f"uid-{name}",
        attached_at=1_700_000_000.125,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def lent(name: str, address: str, *mappings: PortMapping) -> Attachment:
    """An attachment with host ports."""
    return attachment(name, address, ports=portmap.encode(mappings))


class Node:
    """A dataplane in the thread that lives in the node's namespace, as in the agent."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._descriptors: list[int] = []
        self._pods: list[str] = []
        self._executor = ThreadPoolExecutor(1)
        self.dataplane: Dataplane = self.call(KernelDataplane)

    def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Run in the node's thread and namespace."""

        def there() -> _T:
            with netns.inside(self.name):
                return function(*arguments)

        return self._executor.submit(there).result(60)

    def restart(self) -> None:
        """The agent dies and comes back: only the kernel remembers."""
        self.call(self.dataplane.close)
        self.dataplane = self.call(KernelDataplane)

    def pod(self, name: str) -> int:
        """A new namespace for a pod; returns its descriptor."""
        netns.create(name)
        self._pods.append(name)
        descriptor = os.open(netns_path(name), os.O_RDONLY | os.O_CLOEXEC)
        self._descriptors.append(descriptor)
        return descriptor

    def descriptor(self, name: str) -> int:
        """That of a pod made before."""
        return self._descriptors[self._pods.index(name)]

    def sh(self, *argv: str) -> str:
        """A command in the node's namespace: its output."""
        return netns.run(self.name, argv).stdout

    def close(self) -> None:
        self.call(self.dataplane.close)
        self._executor.shutdown()
        for descriptor in self._descriptors:
            os.close(descriptor)
        for name in self._pods:
            netns.delete(name)


@contextmanager
def nodes(*names: str) -> Iterator[dict[str, Node]]:
    made: dict[str, Node] = {}
    try:
        for name in names:
            made[name] = Node(name)
        yield made
    finally:
        for node in made.values():
            node.close()
