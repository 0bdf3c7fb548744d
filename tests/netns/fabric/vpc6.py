"""The VPC of ``vpc.py`` with IPv6: a block for each subnet, /80s on the nodes, both kinds of internet gateway."""

from __future__ import annotations

from dataclasses import replace

from tests.netns.fabric.vpc import (
    EIP,
    ENI_A0,
    ENI_A1,
    ENI_B0,
    ENI_NAT,
    NODE_A,
    NODE_B,
    eni,
    instance,
    two_nodes,
    with_eni,
)
from tests.sandbox import netns
from tests.sandbox.fabric.ipv6 import ROUTER
from tests.sandbox.waiting import eventually
from tests.sandbox.world import Route, Subnet, World

VPC6 = "2001:db8:1::/56"
A0, B0, PUBLIC = "2001:db8:1:1::a0", "2001:db8:1:2::b0", "2001:db8:1::20"
PREFIX_A0, PREFIX_A1, PREFIX_B0 = "2001:db8:1:1:a::/80", "2001:db8:1:1:b::/80", "2001:db8:1:2:a::/80"
POD_A0, POD_A1, POD_B0 = "2001:db8:1:1:a::7", "2001:db8:1:1:b::7", "2001:db8:1:2:a::7"
_BLOCKS = {"subnet-public": "2001:db8:1::/64", "subnet-a": "2001:db8:1:1::/64", "subnet-b": "2001:db8:1:2::/64"}


def _with_ipv6(subnet: Subnet, gateway: str) -> Subnet:
    routes = (*subnet.routes, Route(VPC6, "local"), Route("::/0", gateway))
    return replace(subnet, ipv6_cidrs=(_BLOCKS[subnet.id],), routes=routes)


def dual_stack() -> World:
    """Node A in subnet a and node B in subnet b behind an egress-only gateway; node A has a secondary interface."""
    world = two_nodes()
    gateways = {"subnet-public": "igw-1", "subnet-a": "eigw-1", "subnet-b": "eigw-1"}
    return replace(
        world,
        vpc_ipv6_cidrs=(VPC6,),
        subnets=tuple(_with_ipv6(s, gateways[s.id]) for s in world.subnets),
        enis=(
            eni(ENI_A0, "subnet-a", "10.0.1.10", instance=NODE_A, ipv6_addresses=(A0,), ipv6_prefixes=(PREFIX_A0,)),
            eni(ENI_A1, "subnet-a", "10.0.1.20", instance=NODE_A, index=1, ipv6_prefixes=(PREFIX_A1,)),
            eni(ENI_B0, "subnet-b", "10.0.2.10", instance=NODE_B, ipv6_addresses=(B0,), ipv6_prefixes=(PREFIX_B0,)),
            eni(ENI_NAT, "subnet-public", "10.0.0.5", source_check=False, public_address=EIP),
        ),
    )


def hold(node: str, *addresses: str) -> None:
    """What an agent does for pods, at its shortest: the node itself has addresses of its prefixes."""
    netns.ip_batch(node, [f"addr add {address}/128 dev lo nodad" for address in addresses])
    assert eventually(lambda: netns.delivers(node, *addresses))


def route_secondary6(node: str, device: str, *addresses: str) -> None:
    """As ``route_secondary``, for IPv6: by the router's address that is the same everywhere."""
    lines = [f"link set {device} up", f"route add ::/0 via {ROUTER} dev {device} onlink table 77"]
    lines += [f"addr add {address}/128 dev {device} nodad" for address in addresses]
    netns.ip_batch(node, lines)
    netns.ip_batch(node, [f"rule add from {address} lookup 77" for address in addresses], family="-6")
    assert eventually(lambda: netns.delivers(node, *addresses))


def with_public_instance(world: World) -> World:
    """An instance in the public subnet, with one address."""
    public = eni("eni-c0", "subnet-public", "10.0.0.20", instance="i-c", ipv6_addresses=(PUBLIC,))
    return replace(with_eni(world, public), instances=(*world.instances, instance("i-c")))
