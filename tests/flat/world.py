"""A design as the fabric's world."""

from __future__ import annotations

from tests.flat.design import Design, Net, Way
from tests.sandbox.world import (
    Eni,
    GroupRule,
    Instance,
    NetworkAcl,
    Peering,
    Route,
    SecurityGroup,
    Subnet,
    Vpc,
    World,
)

__all__ = ["world_of"]


def world_of(design: Design) -> World:
    outside = {v for v in design.cidrs if v in design.vpn or v in design.transit}
    return World(
        vpc_cidrs=tuple(c for cidrs in design.cidrs.values() for c in cidrs),
        subnets=tuple(_subnet(design, net) for net in design.nets),
        instances=tuple(
            Instance(
                h.id, f"arn:aws:ec2:eu-west-1:1:instance/{h.id}", "running", "m5.large", "eu-west-1a", "ami-1", 0.0
            )
            for h in design.hosts
        ),
        enis=tuple(_enis(design)),
        nat=tuple((g.id, g.address) for g in design.gates if g.available),
        onprem_cidrs=design.onprem,
        acls=tuple(NetworkAcl(name, rules) for name, rules in design.acls.items()),
        groups=tuple(SecurityGroup(name, tuple(_rules(design, name))) for name in design.groups),
        vpcs=tuple(Vpc(name, cidrs, name in outside) for name, cidrs in design.cidrs.items()),
        peerings=(Peering("pcx-1", ("vpc-1", "vpc-2")),) if design.peering == "active" else (),
    )


def _mac(number: int) -> str:
    return f"02:00:00:00:01:{number:02x}"


def _enis(design: Design) -> list[Eni]:
    links = [(host.id, link) for host in design.hosts for link in host.links]
    made = [
        Eni(
            id=link.id,
            mac=_mac(number),
            subnet_id=link.net,
            addresses=(link.primary, *link.secondaries),
            prefixes=(link.prefix,) if link.prefix else (),
            instance_id=host,
            device_index=link.index,
            source_check=link.check,
            security_groups=link.groups,
            public_address=link.public or None,
        )
        for number, (host, link) in enumerate(links)
    ]
    gates = [g for g in design.gates if g.available]
    return made + [
        Eni(f"eni-{g.id}", _mac(100 + n), g.net, (g.address,), source_check=False, public_address=g.public or None)
        for n, g in enumerate(gates)
    ]


def _subnet(design: Design, net: Net) -> Subnet:
    ways = design.table(net.table).ways
    routes = [r for way in ways for r in _routes(design, net, way)]
    # kernel routes have no second place for one destination: the static one wins, then the list's, then the VPN's
    best: dict[str, tuple[int, Route]] = {}
    for rank, route in routes:
        if route.destination not in best or rank < best[route.destination][0]:
            best[route.destination] = (rank, route)
    return Subnet(net.id, net.cidr, net.zone, net.vpc, tuple(r for _, r in best.values()), net.acl)


def _routes(design: Design, net: Net, way: Way) -> list[tuple[int, Route]]:
    target = way.target if _works(design, net, way) else "gone"
    if way.to.startswith("pl-"):
        return [(1, Route(cidr, target)) for cidr in design.prefix_lists[way.to]]
    return [(2 if way.propagated else 0, Route(way.to, target))]


def _works(design: Design, net: Net, way: Way) -> bool:
    """Whether the gateway exists for this subnet. What the gateway then does is the fabric's business."""
    if way.state != "active":
        return False
    kind = way.target.split("-")[0]
    if kind == "igw":
        return net.vpc in design.internet
    if kind == "vgw":
        return net.vpc in design.vpn
    if kind == "tgw":
        return net.zone in {design.net(s).zone for s in design.transit.get(net.vpc, ())}
    return True


def _rules(design: Design, group: str) -> list[GroupRule]:
    return [
        GroupRule(line.egress, line.protocol, peer, line.ports, line.icmp)
        for line in design.groups[group]
        for peer in design.prefix_lists.get(line.peer, (line.peer,))
    ]
