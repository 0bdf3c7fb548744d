"""The router's state depends on the world alone, not on the way there."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from tests.netns.fabric.vpc import ENI_NAT, NODE_A, NODE_B, eni, instance, two_nodes
from tests.netns.fabric.vpc6 import dual_stack
from tests.sandbox import netns
from tests.sandbox.fabric import Fabric
from tests.sandbox.world import Eni, World

_OF_LINKS = r"^(local fe80|anycast fe80|multicast|fe80::/64).*$"
_STATES = ("pending", "running", "running", "running", "stopped", "terminated")


def _random_world(rng: random.Random) -> World:
    """Up to twelve interfaces, on instances in any state or on none, with any of the addresses of a small pool."""
    instances = tuple(instance(i, rng.choice(_STATES)) for i in (NODE_A, NODE_B, "i-c"))
    singles = [f"10.0.1.{n}" for n in rng.sample(range(10, 100), 40)]
    blocks = [f"10.0.1.{n}/28" for n in range(112, 240, 16)]
    ipv6_blocks = [f"2001:db8:1:1:{n:x}::/80" for n in range(1, 20)]
    rng.shuffle(blocks)
    rng.shuffle(ipv6_blocks)
    enis: list[Eni] = []
    for number in range(rng.randrange(12)):
        addresses = [singles.pop() for _ in range(rng.randint(1, 3))]
        prefixes = tuple(blocks.pop() for _ in range(rng.randrange(3)) if blocks)
        owner = rng.choice((NODE_A, NODE_B, "i-c", None))
        public = f"203.0.113.{number}" if rng.random() < 0.3 else None
        checked = rng.random() < 0.8
        made = eni(f"eni-{number:012x}", "subnet-a", *addresses, instance=owner, index=number, prefixes=prefixes)
        ipv6 = (f"2001:db8:1:1::{number + 1:x}",) if rng.random() < 0.3 else ()
        ipv6_prefixes = tuple(ipv6_blocks.pop() for _ in range(rng.randrange(3)) if ipv6_blocks)
        made = replace(made, ipv6_addresses=ipv6, ipv6_prefixes=ipv6_prefixes)
        enis.append(replace(made, source_check=checked, public_address=public))
    gateway = rng.random() < 0.8
    nat = eni(ENI_NAT, "subnet-public", "10.0.0.5", public_address="203.0.113.99")
    return World(
        vpc_cidrs=("10.0.0.0/16", "10.7.0.0/16")[: rng.randint(1, 2)],
        subnets=rng.choice((two_nodes(), dual_stack())).subnets,
        vpc_ipv6_cidrs=("2001:db8:1::/56",)[: rng.randint(0, 1)],
        instances=instances,
        enis=(*enis, nat) if gateway else tuple(enis),
        nat=(("nat-1", "10.0.0.5"),) if gateway else (),
    )


def _router_state() -> tuple[frozenset[str], list[list[str]]]:
    """Names of all namespaces, and the router's configuration without order, counters and indexes."""
    commands = (
        ["ip", "-o", "addr", "show", "lo"],
        ["ip", "rule"],
        ["ip", "-6", "rule"],
        ["ip", "-4", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show", "table", "all"],
        ["ip", "neigh", "show", "nud", "permanent"],
        ["nft", "-s", "list", "ruleset"],
    )
    texts = [netns.run("vpc", argv).stdout for argv in commands]
    for number in (3, 4):  # the carrier of a new link is noticed some time later, and with it the link's own routes
        texts[number] = re.sub(_OF_LINKS, "", texts[number].replace(" linkdown", ""), flags=re.MULTILINE)
    texts[-1] = re.sub(r"set source_check_ports \{.*?\n\t\}", "", texts[-1], flags=re.DOTALL)
    return netns.names(), [sorted(filter(None, map(str.strip, re.split(r"[,\n{}=]", text)))) for text in texts]


@pytest.mark.parametrize("seed", range(6))
def test_any_way_to_a_world_ends_in_the_same_state(seed: int) -> None:
    rng = random.Random(seed)
    worlds = [_random_world(rng) for _ in range(6)]
    with Fabric() as fabric:
        for world in worlds:
            fabric.apply(world)
        by_steps = _router_state()
    with Fabric() as fabric:
        fabric.apply(worlds[-1])
        assert _router_state() == by_steps


def test_an_empty_world_leaves_only_the_fixed_namespaces() -> None:
    with Fabric() as fabric:
        before = _router_state()
        fabric.apply(two_nodes())
        fabric.apply(World())
        names, state = _router_state()
        assert names == before[0] == {"vpc", "internet", "onprem"}
        assert state[1:-1] == before[1][1:-1]
