"""The whole agent with the real data plane, in a namespace that has what an instance has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.netns.agent.conftest import MAC, PREFIX, Site, node
from tests.sandbox import netns

__all__ = ["NODE", "real_node"]

NODE = "agent-node"


@contextmanager
def real_node(plugin: Path, folder: Path, *, start: bool = True) -> Iterator[Site]:
    """A namespace with one interface, whose far end answers for nothing, and (with ``start``) a ready agent in it."""
    netns.create(NODE)
    try:
        netns.ip_batch(
            NODE,
            [
                f"link add eth0 address {MAC} type veth peer name far",
                "addr add 10.0.1.5/24 dev eth0",
                "link set eth0 up",
                "link set far up",
                "route add default via 10.0.1.1",
            ],
        )
        with node(plugin, folder, NODE) as made:
            made.serve(PREFIX)
            if start:
                made.start()
                made.ready()
            yield made
    finally:
        netns.delete(NODE)
