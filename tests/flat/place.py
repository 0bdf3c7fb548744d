"""Builds a design in the fabric: its nodes with the routing that Berth's agent gives them, at its shortest.

Pods are addresses in the node's own namespace: where a pod's namespace ends changes nothing for the VPC. A pod's
packets leave by its own interface when its address is kept (the node's VPC, the no-SNAT list, answers), else by the
primary interface in the primary address's name (docs/architecture.md, "The interface is chosen by source address").
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from berth.routes import Route, RouteTable, Routing

from tests.flat.design import Design, Host, Link, Table
from tests.flat.world import world_of
from tests.sandbox import netns
from tests.sandbox.fabric import INTERNET_ADDRESS, Fabric
from tests.sandbox.waiting import eventually

__all__ = ["Spot", "built", "spots_of"]


@dataclass(frozen=True, slots=True)
class Spot:
    """An address that probes start from or go to. ``link`` is "" outside of the VPCs."""

    name: str
    netns: str
    address: str
    kind: str
    link: str = ""
    host: str = ""


def spots_of(design: Design) -> tuple[Spot, ...]:
    found = []
    for host in design.hosts:
        for link in host.links:
            if link.index == 0:
                found.append(Spot(host.id, host.id, link.primary, "node", link.id, host.id))
            found += [Spot(f"pod {p}", host.id, p, "pod", link.id, host.id) for p in link.pods if host.node]
    found += [Spot(f"onprem {c}", "onprem", str(ipaddress.ip_network(c)[10]), "network") for c in design.onprem]
    return (*found, Spot("internet", "internet", INTERNET_ADDRESS, "internet"))


@contextmanager
def built(design: Design) -> Iterator[Fabric]:
    with Fabric() as fabric:
        fabric.apply(world_of(design))
        for host in design.hosts:
            _set_up(design, host)
        assert eventually(lambda: netns.settled(*netns.names()))
        yield fabric


def _set_up(design: Design, host: Host) -> None:
    kept = _kept(design, host)
    netns.sysctl(host.id, {"ipv4/conf/all/rp_filter": 0, "ipv4/conf/default/rp_filter": 0})
    pods = [(p, link) for link in host.links for p in link.pods if host.node]
    lines = [f"addr add {pod}/32 dev lo" for pod, _ in pods]
    for link in host.links[1:]:
        lines += _secondary(design, link, kept)
    netns.ip_batch(host.id, lines)
    if pods:
        netns.nft(host.id, _rules(host, [p for p, _ in pods], kept))


def _kept(design: Design, host: Host) -> list[str]:
    """Where the node leaves pods' addresses alone: what Berth's functions put into its record."""
    tables = tuple(
        RouteTable(t.id, t.main, tuple(n.id for n in design.nets if n.table == t.id), tuple(_ways(design, t)))
        for t in design.tables
    )
    routing = Routing(design.cidrs[design.net(host.links[0].net).vpc], tables)
    subnets = {link.net for link in host.links if link.prefix or link.secondaries}
    return [*routing.no_snat(subnets or {link.net for link in host.links}, design.no_snat, design.snat)]


def _ways(design: Design, table: Table) -> Iterator[Route]:
    for way in table.ways:
        listed = way.to.startswith("pl-")
        to = design.prefix_lists[way.to] if listed else (way.to,)
        yield Route(to, way.target, 2 if way.propagated else int(listed), way.state == "blackhole")


def _secondary(design: Design, link: Link, kept: list[str]) -> Iterator[str]:
    gateway = ipaddress.ip_network(design.net(link.net).cidr)[1]
    yield f"link set eth{link.index} up"
    yield f"route add default via {gateway} dev eth{link.index} onlink table 77"
    yield "rule add priority 90 fwmark 1 lookup 77"
    for pod in link.pods:
        yield from (f"rule add priority 100 from {pod} to {cidr} lookup 77" for cidr in kept)


def _rules(host: Host, pods: list[str], kept: list[str]) -> str:
    secondary = [p for link in host.links[1:] for p in link.pods]
    answers = f"ct direction reply ip saddr {{ {', '.join(secondary)} }} meta mark set 1" if secondary else ""
    return f"""
table ip node {{
  set kept {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {", ".join(sorted(set(kept)))} }} }}
  chain answers {{ type route hook output priority mangle; {answers}
  }}
  chain rewrite {{
    type nat hook postrouting priority srcnat;
    oifname "eth0" ip saddr {{ {", ".join(pods)} }} ip daddr != @kept snat to {host.links[0].primary}
  }}
}}
"""
