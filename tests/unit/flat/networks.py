"""A small network where everything passes, for tests to break in one place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from berth.flat.index import Index
from berth.flat.numbers import ALL_PORTS, EPHEMERAL, Ports, number
from berth.flat.packets import Protocol
from berth.flat.snapshot import (
    Acl,
    AclEntry,
    Group,
    GroupRule,
    Interface,
    InternetGateway,
    NatGateway,
    Peering,
    Route,
    RouteTable,
    Snapshot,
    Subnet,
    Vpc,
    VpnGateway,
)
from berth.flat.trace import Place, Trace, trace

__all__ = ["INTERNET", "NODE_A", "NODE_B", "OFFICE", "OPEN", "POD_A", "POD_B", "acl", "codes", "go", "with_routes"]

OPEN = (GroupRule("any", cidrs=("0.0.0.0/0",)),)
OFFICE_CIDR = "192.168.50.0/24"


def acl(name: str, *subnets: str, entries: tuple[AclEntry, ...] = ()) -> Acl:
    """``entries`` come before rule 100, which allows everything both ways."""
    everything = tuple(AclEntry(100, way, True, "any", "0.0.0.0/0") for way in (False, True))
    return Acl(name, "vpc-1", subnets, (*entries, *everything))


def network() -> Snapshot:
    """Node A in subnet a with a secondary interface in subnet b; node B in subnet b; NAT gateway, VPN, all open."""
    local = Route("10.0.0.0/16", "local")
    private = (local, Route("0.0.0.0/0", "nat-1"), Route(OFFICE_CIDR, "vgw-1"))
    return Snapshot(
        vpcs=(Vpc("vpc-1", ("10.0.0.0/16",)),),
        subnets=(
            Subnet("subnet-p", "vpc-1", "10.0.0.0/24", "a", "public"),
            Subnet("subnet-a", "vpc-1", "10.0.1.0/24", "a", "private-a", for_pods=True),
            Subnet("subnet-b", "vpc-1", "10.0.2.0/24", "b", "private-b", for_pods=True),
        ),
        tables=(
            RouteTable("rtb-p", "vpc-1", False, ("subnet-p",), (local, Route("0.0.0.0/0", "igw-1"))),
            RouteTable("rtb-a", "vpc-1", False, ("subnet-a",), private),
            RouteTable("rtb-b", "vpc-1", True, (), private),
        ),
        acls=(acl("acl-p", "subnet-p"), acl("acl-a", "subnet-a"), acl("acl-b", "subnet-b")),
        groups=(
            Group("sg-a", "vpc-1", "nodes", ingress=OPEN, egress=OPEN),
            Group("sg-b", "vpc-1", "pods", ingress=OPEN, egress=OPEN),
        ),
        interfaces=(
            Interface("eni-a0", "subnet-a", ("10.0.1.10",), ("10.0.1.32/28",), ("sg-a",), instance="i-a"),
            Interface("eni-a1", "subnet-b", ("10.0.2.20",), ("10.0.2.48/28",), ("sg-b",), instance="i-a", device=1),
            Interface("eni-b0", "subnet-b", ("10.0.2.10",), ("10.0.2.32/28",), ("sg-b",), instance="i-b"),
            Interface("eni-nat", "subnet-p", ("10.0.0.5",), kind="nat_gateway", source_check=False),
        ),
        nat_gateways=(NatGateway("nat-1", "subnet-p", "10.0.0.5"),),
        internet_gateways=(InternetGateway("igw-1", ("vpc-1",)),),
        vpn_gateways=(VpnGateway("vgw-1", ("vpc-1",)),),
        nodes=("i-a", "i-b"),
        no_snat=(OFFICE_CIDR,),
    )


NODE_A, NODE_B = ("eni-a0", "10.0.1.10"), ("eni-b0", "10.0.2.10")
POD_A, POD_B, POD_A1 = ("eni-a0", "10.0.1.33"), ("eni-b0", "10.0.2.33"), ("eni-a1", "10.0.2.49")
OFFICE, PARTNER, INTERNET = ("", "192.168.50.10"), ("", "172.30.9.10"), ("internet", "198.51.100.10")


def go(
    snapshot: Snapshot,
    source: tuple[str, str],
    target: tuple[str, str],
    protocol: Protocol = "tcp",
    ports: Ports = ALL_PORTS,
    client_ports: Ports = EPHEMERAL,
    **options: Any,
) -> Trace:
    """One flow between two of the places above."""
    index = Index(snapshot)
    return trace(index, _place(index, source), _place(index, target), protocol, ports, client_ports, **options)


def _place(index: Index, place: tuple[str, str]) -> Place:
    name, address = place
    if name.startswith("eni-"):
        interface = index.interfaces[name]
        return Place(number(address), interface, pod=address != interface.addresses[0])
    return Place(number(address), None, "internet" if name else "network")


def codes(found: Trace) -> list[tuple[str, bool]]:
    """(code, whether on the way back) of each finding."""
    return [(f.code, f.answer) for f in found.findings]


def with_routes(snapshot: Snapshot, table: str, *routes: Route) -> Snapshot:
    """These routes added to a table, in place of those of the same destination; a target of "" takes one away."""
    changed = {r.destination for r in routes}
    tables = tuple(
        replace(t, routes=(*(r for r in t.routes if r.destination not in changed), *(r for r in routes if r.target)))
        if t.id == table
        else t
        for t in snapshot.tables
    )
    return replace(snapshot, tables=tables)


def with_peer(snapshot: Snapshot, *, active: bool = True, described: bool = True, back: bool = True) -> Snapshot:
    """A peered VPC 10.1.0.0/16 with one subnet and one host, eni-p at 10.1.5.10 in sg-p."""
    peering = Peering("pcx-1", ("vpc-1", "vpc-2"), (("10.0.0.0/16",), ("10.1.0.0/16",)), active)
    routes = (Route("10.1.0.0/16", "local"), *((Route("10.0.0.0/16", "pcx-1"),) if back else ()))
    snapshot = replace(snapshot, peerings=(peering,), no_snat=(*snapshot.no_snat, "10.1.0.0/16"))
    for table in ("rtb-a", "rtb-b"):
        snapshot = with_routes(snapshot, table, Route("10.1.0.0/16", "pcx-1"))
    if not described:
        return snapshot
    return replace(
        snapshot,
        vpcs=(*snapshot.vpcs, Vpc("vpc-2", ("10.1.0.0/16",))),
        subnets=(*snapshot.subnets, Subnet("subnet-x", "vpc-2", "10.1.5.0/24", "a")),
        tables=(*snapshot.tables, RouteTable("rtb-x", "vpc-2", True, (), routes)),
        groups=(*snapshot.groups, Group("sg-p", "vpc-2", ingress=OPEN, egress=OPEN)),
        interfaces=(
            *snapshot.interfaces,
            Interface("eni-p", "subnet-x", ("10.1.5.10",), (), ("sg-p",), instance="i-p"),
        ),
    )


PEER = ("eni-p", "10.1.5.10")
