"""Two nodes in a fabric, each as its layout says, and servers wherever somebody lives: for pods with an interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from berth_node.seams import Attachment, NodeLayout

from tests.netns.dataplane.site import A, B, Node, nodes
from tests.sandbox import netns
from tests.sandbox.echo import EchoServers
from tests.sandbox.fabric import Fabric
from tests.sandbox.waiting import eventually
from tests.sandbox.world import World

__all__ = ["Place", "standing"]


@dataclass
class Place:
    fabric: Fabric
    a: Node
    b: Node


@contextmanager
def standing(
    world: World, layout: Callable[[str], NodeLayout], pods: Iterable[tuple[str, str, Attachment]]
) -> Iterator[Place]:
    """``pods`` are name, node and what is attached; a server tells each one's name, and "internet" has one too."""
    with Fabric() as fabric, EchoServers() as servers:
        fabric.apply(world)
        with nodes(A, B) as made:
            for node in made.values():
                assert node.call(node.dataplane.configure, layout(node.name)) == ()
                servers.add(node.name, name=f"node-{node.name[-1]}")
            for name, where, wanted in pods:
                node = made[where]
                node.call(node.dataplane.attach, replace(wanted, netns_fd=node.pod(name)))
                servers.add(name, name=name)
            servers.add("internet", name="internet")
            assert eventually(lambda: netns.settled(*netns.names()))
            yield Place(fabric, made[A], made[B])
