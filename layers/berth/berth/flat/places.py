"""The rows and columns of the matrix, and the addresses that stand for each.

Two addresses behave alike if no rule, route or list tells them apart, so each endpoint is cut at the bounds of every
CIDR that the snapshot names, and one address stands for each piece. Pods count with every address of their subnet: the
next pod may get it. At most :data:`PIECES` pieces of an endpoint are judged; ``left_out`` says how many are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from berth.flat.index import Index
from berth.flat.numbers import number, span, text, within
from berth.flat.snapshot import Interface, Subnet
from berth.flat.trace import Place

__all__ = ["PIECES", "Endpoint", "bounds", "endpoints"]

PIECES: Final = 12
_RESERVED: Final = 4
"""First addresses of a subnet that nobody gets, and the last (VPC user guide, "Subnet sizing for IPv4")."""
_NOT_GLOBAL: Final = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "224.0.0.0/3",
)  # fmt: skip

Kind = Literal["pods", "nodes", "internet", "network"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``name`` is unique; ``where`` says what it is; ``members`` are the interfaces that it stands for. ``supposed``:
    no interface is there yet, and its groups are assumed."""

    kind: Kind
    name: str
    where: str
    places: tuple[Place, ...]
    members: tuple[str, ...] = ()
    left_out: int = 0
    supposed: bool = False


def bounds(index: Index) -> tuple[int, ...]:
    """Where a new piece begins: the ends of every CIDR and address that a rule, a route or a list names."""
    snapshot = index.snapshot
    cidrs = {c for v in snapshot.vpcs for c in v.cidrs} | {c for p in snapshot.prefix_lists for c in p.cidrs}
    cidrs |= {r.destination for t in snapshot.tables for r in t.routes if not r.destination.startswith("pl-")}
    cidrs |= {e.cidr for a in snapshot.acls for e in a.entries} | {*snapshot.no_snat, *snapshot.snat}
    cidrs |= {c for g in snapshot.groups for rule in (*g.ingress, *g.egress) for c in rule.cidrs}
    ends = {end for cidr in cidrs for first, last in [span(cidr)] for end in (first, last + 1)}
    return tuple(sorted(ends))


def endpoints(index: Index, networks: Sequence[str] = ()) -> tuple[Endpoint, ...]:
    """Pods and nodes by subnet and groups, the internet, and the networks: those of ``networks`` and of peerings and
    routes out of the VPC."""
    cuts = bounds(index)
    nodes = [i for i in index.snapshot.interfaces if i.instance in index.nodes and i.subnet in index.subnets]
    found = [*_pods(index, nodes, cuts), *_nodes(index, nodes, cuts)]
    vpcs = {index.subnets[p.interface.subnet].vpc for e in found for p in e.places if p.interface}
    found.append(_internet(cuts))
    found += (_network(index, cidr, cuts, vpcs) for cidr in _networks(index, vpcs, networks))
    return tuple(found)


def _pieces(cidr: str, cuts: Iterable[int]) -> Iterator[tuple[int, int]]:
    first, last = span(cidr)
    starts = [first, *(c for c in cuts if first < c <= last)]
    for start, following in zip(starts, [*starts[1:], last + 1], strict=True):
        yield start, following - 1


def _label(index: Index, subnet: Subnet, groups: tuple[str, ...]) -> str:
    names = [index.groups[g].name or g if g in index.groups else g for g in groups]
    return f"{subnet.name or subnet.id} [{', '.join(names)}]"


def _pods(index: Index, nodes: Sequence[Interface], cuts: Sequence[int]) -> Iterator[Endpoint]:
    """One for each subnet, groups, check, and kind of primary interface behind them."""
    classes: dict[tuple[object, ...], list[Interface]] = {}
    for interface in nodes:
        if not interface.primary or interface.prefixes or len(interface.addresses) > 1:
            primary = index.primaries.get(str(interface.instance), interface)
            behind = (primary.subnet, primary.groups, bool(primary.public))
            key = (interface.subnet, interface.groups, interface.source_check, behind)
            classes.setdefault(key, []).append(interface)
    used = {members[0].subnet for members in classes.values()}
    for supposed in _supposed(index, nodes, used):
        classes.setdefault((supposed.subnet, supposed.groups), [supposed])
    names: Counter[str] = Counter()
    labels = [f"pods {_label(index, index.subnets[m[0].subnet], m[0].groups or ())}" for m in classes.values()]
    for members, label in zip(classes.values(), labels, strict=True):
        subnet = index.subnets[members[0].subnet]
        name = _unique(names, label + (_behind(index, members[0]) if labels.count(label) > 1 else ""))
        places = list(_subnet_places(index, members, subnet, cuts))
        supposed_one = members[0].id.startswith("supposed")
        listed = [] if supposed_one else members
        where = f"{subnet.id} {subnet.cidr} {subnet.zone}".strip()
        yield _endpoint("pods", name, where, places, listed, supposed_one)


def _behind(index: Index, interface: Interface) -> str:
    """Where the node is, of pods that differ by nothing else."""
    primary = index.primaries.get(str(interface.instance), interface)
    subnet = index.subnets.get(primary.subnet)
    return f" of nodes in {subnet.name or subnet.id}" if subnet else ""


def _unique(names: Counter[str], label: str) -> str:
    names[label] += 1
    return label if names[label] == 1 else f"{label} ({names[label]})"


def _supposed(index: Index, nodes: Sequence[Interface], used: set[str]) -> Iterator[Interface]:
    """Stand-ins for subnets that pods may use and do not yet: with the groups that nodes of the VPC have, else with
    each that is tagged as allowed."""
    for subnet in index.snapshot.subnets:
        if not subnet.for_pods or subnet.id in used:
            continue
        here = [i for i in nodes if i.primary and index.subnets[i.subnet].vpc == subnet.vpc]
        allowed = [(g.id,) for g in index.snapshot.groups if g.vpc == subnet.vpc and g.allowed]
        for number_, groups in enumerate(dict.fromkeys([i.groups or () for i in here] or allowed)):
            behind = next((i.instance for i in here if i.groups == groups), None)
            yield Interface(f"supposed-{number_}-{subnet.id}", subnet.id, (text(span(subnet.cidr)[0] + _RESERVED),),
                            groups=groups, instance=behind, device=1)  # fmt: skip


def _subnet_places(index: Index, members: Sequence[Interface], subnet: Subnet, cuts: Sequence[int]) -> Iterator[Place]:
    lowest, highest = span(subnet.cidr)
    known = {m.id: m for m in members}
    for first, last in _pieces(subnet.cidr, cuts):
        first, last = max(first, lowest + _RESERVED), min(last, highest - 1)
        if first > last:
            continue
        holder = index.holder(subnet.vpc, first)
        if holder is not None and holder.id not in known and first == last:
            continue  # a piece of one address, and somebody else has it
        interface = known.get(holder.id, members[0]) if holder else members[0]
        held = (
            interface if interface.holds(first) else replace(interface, addresses=(*interface.addresses, text(first)))
        )
        yield Place(first, held, pod=True)


def _nodes(index: Index, nodes: Sequence[Interface], cuts: Sequence[int]) -> Iterator[Endpoint]:
    classes: dict[tuple[object, ...], list[Interface]] = {}
    for interface in nodes:
        if interface.primary:
            key = (interface.subnet, interface.groups, interface.source_check, bool(interface.public))
            classes.setdefault(key, []).append(interface)
    names: Counter[str] = Counter()
    for (_, _, _, public), members in classes.items():
        subnet = index.subnets[members[0].subnet]
        label = f"nodes {_label(index, subnet, members[0].groups or ())}" + (", public" if public else "")
        pieces: dict[int, Place] = {}
        for member in members:
            address = number(member.addresses[0])
            pieces.setdefault(sum(c <= address for c in cuts), Place(address, member))
        yield _endpoint(
            "nodes", _unique(names, label), f"{len(members)} in {subnet.id}", list(pieces.values()), members
        )


def _internet(cuts: Sequence[int]) -> Endpoint:
    """Stood for by an address in the widest public range that no rule names: rules about some public hosts say nothing
    of the internet as a whole."""
    private = {end for cidr in _NOT_GLOBAL for first, last in [span(cidr)] for end in (first, last + 1)}
    pieces = _pieces("0.0.0.0/0", sorted({*cuts, *private}))
    public = [p for p in pieces if not any(within(p[0], cidr) for cidr in _NOT_GLOBAL)]
    first, last = max(public, key=lambda p: p[1] - p[0])
    place = Place((first + last) // 2, None, "internet")
    return Endpoint("internet", "internet", "public addresses that no rule names", (place,))


def _networks(index: Index, vpcs: set[str], asked: Sequence[str]) -> Iterator[str]:
    """CIDRs: those asked for, those of peers, and destinations of routes to VPN and transit gateways."""
    found = dict.fromkeys(asked)
    for peering in index.snapshot.peerings:
        for here, there in ((0, 1), (1, 0)):
            if peering.vpcs[here] in vpcs and peering.vpcs[there] not in vpcs:
                found |= dict.fromkeys(peering.cidrs[there])
    for table in index.snapshot.tables:
        for route in table.routes if table.vpc in vpcs else ():
            if route.target.startswith(("vgw-", "tgw-")):
                found |= dict.fromkeys(c for c in index.cidrs(route.destination) if c != "0.0.0.0/0")
    yield from found


def _network(index: Index, cidr: str, cuts: Sequence[int], own: set[str]) -> Endpoint:
    """A peer's described subnets are judged with their routes and ACLs; any other network only on this side of it.
    ``own`` are the VPCs of pods and nodes: what overlaps them is another network all the same."""
    subnets = [s for s in index.snapshot.subnets if s.vpc not in own and within(span(s.cidr)[0], cidr)]
    places = []
    for part in [s.cidr for s in subnets] or [cidr]:
        for first, last in _pieces(part, cuts):
            address = min(first + 10, last)
            subnet = next((s for s in subnets if within(address, s.cidr)), None)
            places.append(_host(subnet, address) if subnet else Place(address, None, "network"))
    return _endpoint("network", cidr, "a described VPC" if subnets else "beyond a gateway", places)


def _host(subnet: Subnet, address: int) -> Place:
    """Any host of a described subnet, its groups not judged."""
    return Place(address, Interface(f"any host of {subnet.id}", subnet.id, (text(address),), groups=None))


def _endpoint(
    kind: Kind, name: str, where: str, places: list[Place], members: Sequence[Interface] = (), supposed: bool = False
) -> Endpoint:
    listed = tuple(m.id for m in members)
    return Endpoint(kind, name, where, tuple(places[:PIECES]), listed, max(0, len(places) - PIECES), supposed)
