"""The VPC of ``site.py`` with IPv6: a /80 on every interface of both nodes, an address of each node's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from berth_node.ipv6 import beside, prefix_of

from tests.netns.dataplane.site import A, B, Node, attachment, layout_of, nodes, pods_of, two_nodes
from tests.sandbox import netns
from tests.sandbox.echo import EchoServers
from tests.sandbox.fabric import INTERNET_ADDRESS6, Fabric
from tests.sandbox.waiting import eventually
from tests.sandbox.world import Eni, Route, Subnet, World

__all__ = ["A0", "B0", "Site", "alone", "dual_nodes", "dual_pods", "dual_site"]

VPC6: Final = "2001:db8:1::/56"
A0, B0 = "2001:db8:1:1::a0", "2001:db8:1:2::b0"
"""The nodes' own addresses, on their primary interfaces."""
_BLOCKS: Final = {"subnet-a": "2001:db8:1:1::/64", "subnet-b": "2001:db8:1:2::/64"}
_PREFIXES: Final = {"a0": "2001:db8:1:1:a::/80", "a1": "2001:db8:1:1:b::/80"} | {
    "b0": "2001:db8:1:2:a::/80",
    "b1": "2001:db8:1:1:c::/80",  # in node A's subnet, as in IPv4
}
_OWN: Final = {"a0": (A0,), "b0": (B0,)}


def dual_nodes() -> World:
    """As :func:`tests.netns.dataplane.site.two_nodes`; private subnets lead to an egress-only gateway."""
    world = two_nodes()
    return replace(
        world,
        vpc_ipv6_cidrs=(VPC6,),
        subnets=tuple(_subnet(s) for s in world.subnets),
        enis=tuple(_eni(e) for e in world.enis),
    )


def _subnet(subnet: Subnet) -> Subnet:
    if subnet.id not in _BLOCKS:
        return subnet
    routes = (*subnet.routes, Route(VPC6, "local"), Route("::/0", "eigw-1"))
    return replace(subnet, ipv6_cidrs=(_BLOCKS[subnet.id],), routes=routes)


def _eni(eni: Eni) -> Eni:
    name = eni.id[-2:]
    if name not in _PREFIXES:
        return eni
    return replace(eni, ipv6_prefixes=(_PREFIXES[name],), ipv6_addresses=_OWN.get(name, ()))


def dual_pods(node: str) -> dict[str, tuple[str, str]]:
    """Name to both addresses of the pods that ``site.pods_of`` names, out of the same interface's prefix."""
    four = pods_of(two_nodes(), node)
    return {name: (address, beside(prefix_of(_prefix(name)), address)) for name, address in four.items()}


def alone(place: str, number: int) -> str:
    """An address of a pod of IPv6 alone, on an interface (``a0``)."""
    return _prefix(place).replace("::", f":8000:1:{number:x}")


def _prefix(name: str) -> str:
    return _PREFIXES[name[:2]].partition("/")[0]


@dataclass
class Site:
    """``pods`` maps names (``a1-prefix``: node A, device index 1) to IPv6 addresses."""

    fabric: Fabric
    a: Node
    pods: dict[str, str]


@contextmanager
def dual_site() -> Iterator[Site]:
    """Both nodes configured, on each interface two pods of both families and one of IPv6 alone, servers everywhere."""
    world, pods = dual_nodes(), {}
    with Fabric() as fabric, EchoServers() as servers:
        fabric.apply(world)
        assert eventually(lambda: all("default" in netns.run(n, ["ip", "-6", "route"]).stdout for n in (A, B)))
        with nodes(A, B) as made:
            for node in made.values():
                netns.sysctl(node.name, {"ipv6/icmp/ratelimit": 0})
                assert node.call(node.dataplane.configure, layout_of(world, node.name)) == ()
                wanted = [attachment(n, four, address6=six) for n, (four, six) in dual_pods(node.name).items()]
                for place in (f"{node.name[-1]}0", f"{node.name[-1]}1"):
                    wanted.append(attachment(f"{place}-alone", alone(place, 7)))
                for pod in wanted:
                    node.call(
                        node.dataplane.attach,
                        attachment(pod.name, pod.address, address6=pod.address6, netns_fd=node.pod(pod.name)),
                    )
                    pods[pod.name] = pod.addresses[-1]
                    servers.add(pod.name, address="::", name=pod.name)
                servers.add(node.name, address="::", name=f"node-{node.name[-1]}")
            servers.add("internet", address=INTERNET_ADDRESS6, name="internet")
            assert eventually(lambda: netns.settled(*netns.names()))
            yield Site(fabric, made[A], pods)
