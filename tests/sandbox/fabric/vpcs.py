"""Several VPCs on one router: each has a mapping table of its own, and a peering is a link between two of them.

A packet that goes into one end of the link comes out of the other, where it is looked up in that VPC's mapping table
alone: so it needs a route there, and finds only addresses of the peer (VPC peering guide, "How VPC peering works").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.sandbox.world import World

__all__ = ["PEER_HOP", "PeerLink", "mapping_table", "peer_links", "space_rules"]

PEER_HOP: Final = "169.254.203.2"
"""The next hop at every link's other end: only its neighbour entry matters."""


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:7], 16)


def mapping_table(vpc_id: str) -> int:
    return 300_000_000 + _number(vpc_id)


@dataclass(frozen=True, slots=True)
class PeerLink:
    """``ends`` are device names, the first in the first VPC. What arrives at an end is for that end's VPC."""

    peering: str
    vpcs: tuple[str, str]
    ends: tuple[str, str]
    macs: tuple[str, str]

    def end_of(self, vpc: str) -> str:
        return self.ends[self.vpcs.index(vpc)]

    def marks(self) -> tuple[int, int]:
        """The mark of what comes out of each end."""
        return 600_000_000 + _number(self.ends[0]), 600_000_000 + _number(self.ends[1])

    def elements(self) -> Iterator[tuple[tuple[str, str], str]]:
        for end, mark in zip(self.ends, self.marks(), strict=True):
            yield ("ip unchecked", f'"{end}"'), ""
            yield ("ip subnet_of", f'"{end}"'), hex(mark)


def peer_links(world: World) -> dict[str, PeerLink]:
    """The link of each peering, by its id."""
    found = {}
    for peering in world.peerings:
        digest = hashlib.sha256(peering.id.encode()).hexdigest()
        macs = [":".join(["0a", n, *(digest[i : i + 2] for i in range(0, 8, 2))]) for n in ("01", "02")]
        ends = (f"p-{digest[:10]}a", f"p-{digest[:10]}b")
        found[peering.id] = PeerLink(peering.id, peering.vpcs, ends, (macs[0], macs[1]))
    return found


def space_rules(tables: Mapping[int, str], links: Mapping[str, PeerLink]) -> Iterator[str]:
    """Routing rules, by mark: first the VPC's own addresses, then the subnet's table, then nothing.

    ``tables`` maps a subnet's table to its VPC; without any, all VPCs share one space.
    """
    for table, vpc in tables.items():
        yield f"priority 40 fwmark {table} lookup {mapping_table(vpc)}"
        yield f"priority 41 fwmark {table} lookup {table}"
        yield f"priority 42 fwmark {table} blackhole"
    for link in links.values():
        for vpc, mark in zip(link.vpcs, link.marks(), strict=True):
            yield f"priority 40 fwmark {mark} lookup {mapping_table(vpc)}"
            yield f"priority 42 fwmark {mark} blackhole"
