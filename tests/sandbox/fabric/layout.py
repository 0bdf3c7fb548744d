"""What the VPC's kernel state should be, as values: the pure half of the fabric.

:func:`lay_out` turns a :class:`~tests.sandbox.world.World` into a :class:`Layout`; ``changes.py`` turns the difference
of two layouts into commands.

The router namespace routes as a VPC does:

* the *mapping table* is consulted first: one route for each assigned address or prefix, to the port of the interface
  that owns it, and a blackhole for the rest of the VPC. So the VPC's local route beats every other one, and an
  unassigned address is silence. (A VPC's local route cannot be overridden by a less specific one: VPC user guide,
  "Route priority".)
* then the route table of the subnet that the packet came from, chosen by a mark that stands for the ingress port.

A mapping route's next hop is the interface's primary address, whose neighbour entry is permanent: so the fabric sends
every frame to the owning interface's MAC and never asks by ARP for an address that only a pod holds.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.sandbox.fabric import ipv6
from tests.sandbox.fabric.filters import filter_chains
from tests.sandbox.fabric.vpcs import PEER_HOP, PeerLink, mapping_table, peer_links, space_rules
from tests.sandbox.world import Eni, Route, Subnet, World

__all__ = [
    "IGW_PEER",
    "MAPPING_TABLE",
    "NETWORKED_STATES",
    "ONPREM_CIDRS",
    "VGW_PEER",
    "Layout",
    "Port",
    "lay_out",
    "port_name",
]

MAPPING_TABLE: Final = 100
ONPREM_CIDRS: Final = ("192.168.50.0/24", "172.30.9.0/24")
"""Networks behind the VPN gateway; each has a host at its tenth address. World.onprem_cidrs adds to them."""
IGW_PEER: Final = "169.254.201.2"
VGW_PEER: Final = "169.254.202.2"
NETWORKED_STATES: Final = frozenset({"pending", "running", "stopping", "shutting-down"})
"""States in which an instance's machine exists. Stopping one ends its kernel, and with it the namespace."""


@dataclass(frozen=True, slots=True)
class Port:
    """One attached interface: a veth whose router end is ``name`` and whose other end is ``ifname`` in ``netns``."""

    name: str
    eni: str
    netns: str
    ifname: str
    mac: str
    gateway_mac: str
    primary: str
    prefix_length: int
    gateway: str
    role: str
    """``instance`` or ``nat``."""
    ipv6_addresses: tuple[str, ...] = field(default=(), compare=False)
    """What DHCPv6 gives at boot; an address that comes later is no reason to make the link anew."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Desired kernel state. Every field is keyed, so that two layouts can be compared entry by entry.

    ``routes`` (table, destination) -> the rest of the route; ``neighbours`` (device, address) -> MAC; ``tables`` are
    subnet route tables, each chosen by a mark of the same number; ``elements`` (nft set, key) -> value or ``""``;
    ``gateways`` are the routers' addresses of subnets in use, ``onprem_hosts`` those of on-premises servers; ``rules``
    are routing rules, ``peer_links`` by the name of one end, ``filters`` chains of ``filters.py``.
    ``links`` (by port) and ``owners`` ((subnet, block) -> MAC) say what is answered to solicitations.
    """

    namespaces: frozenset[str] = frozenset()
    ports: dict[str, Port] = field(default_factory=dict)
    gateways: frozenset[str] = frozenset()
    tables: frozenset[int] = frozenset()
    routes: dict[tuple[int, str], str] = field(default_factory=dict)
    neighbours: dict[tuple[str, str], str] = field(default_factory=dict)
    elements: dict[tuple[str, str], str] = field(default_factory=dict)
    onprem_hosts: frozenset[str] = frozenset()
    rules: frozenset[str] = frozenset()
    peer_links: dict[str, PeerLink] = field(default_factory=dict)
    filters: dict[str, str] = field(default_factory=dict)
    links: dict[str, ipv6.Link] = field(default_factory=dict)
    owners: dict[tuple[str, str], str] = field(default_factory=dict)


def port_name(eni_id: str) -> str:
    """The router's end of an interface. Device names hold 15 bytes, ids 21 characters."""
    return f"e-{eni_id.removeprefix('eni-')[-12:]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _table_of(subnet_id: str) -> int:
    return 10_000 + int(_digest(subnet_id)[:7], 16)


def _gateway_mac(subnet_id: str) -> str:
    digest = _digest(subnet_id)
    return ":".join(["0a", *(digest[i : i + 2] for i in range(0, 10, 2))])


def _ifname(eni: Eni) -> str:
    """``eth<device index>``; further network cards continue after 16 numbers each (no card holds more)."""
    return f"eth{16 * eni.network_card + eni.device_index}"


def _alive(world: World) -> frozenset[str]:
    return frozenset(i.id for i in world.instances if i.state in NETWORKED_STATES)


def _attached(world: World) -> Iterator[tuple[Eni, str, str, str]]:
    """Each interface that has a link now, with its namespace, its name there and its role."""
    alive = _alive(world)
    nat_order = {address: gateway for gateway, address in sorted(world.nat)}
    nat_names = {address: "nat" if n == 0 else gateway for n, (address, gateway) in enumerate(nat_order.items())}
    for eni in world.enis:
        if eni.instance_id in alive:
            yield eni, str(eni.instance_id), _ifname(eni), "instance"
        elif eni.instance_id is None and eni.primary in nat_names:
            yield eni, nat_names[eni.primary], "eth0", "nat"


def _port(eni: Eni, subnet: Subnet, netns: str, ifname: str, role: str) -> Port:
    return Port(
        name=port_name(eni.id),
        eni=eni.id,
        netns=netns,
        ifname=ifname,
        mac=eni.mac,
        gateway_mac=_gateway_mac(subnet.id),
        primary=eni.primary,
        prefix_length=ipaddress.ip_network(subnet.cidr).prefixlen,
        gateway=subnet.gateway,
        role=role,
        ipv6_addresses=eni.ipv6_addresses,
    )


def _owned(eni: Eni) -> Iterator[str]:
    """Every single address that the interface may use."""
    yield from eni.addresses
    for prefix in eni.prefixes:
        yield from (str(address) for address in ipaddress.ip_network(prefix))


def _element_entries(eni: Eni, port: Port, table: int) -> Iterator[tuple[tuple[str, str], str]]:
    quoted = f'"{port.name}"'
    checked = port.role != "nat" and eni.source_check
    yield from ipv6.elements(eni, port.name, table, checked=checked)
    yield ("ip subnet_of", quoted), hex(table)
    if not checked:
        yield ("ip unchecked", quoted), ""
    for address in _owned(eni):
        yield ("ip assigned", f"{quoted} . {address}"), ""
        yield ("netdev owners", f"{eni.mac} . {address}"), ""
        yield ("arp owner", address), eni.mac
    for private, public in eni.associations:
        yield ("ip public", private), _public(eni, public)
        yield ("ip private", _public(eni, public)), private


def _public(eni: Eni, public: str) -> str:
    address = ipaddress.ip_address(public)
    if address.is_loopback or address.is_link_local or address.is_multicast:
        msg = f"{eni.id}: public address {address} cannot be routed; give it one of a documentation or public range"
        raise ValueError(msg)
    return str(address)


def _next_hop(route: Route, targets: dict[str, Port], links: dict[str, str]) -> str | None:
    """The route's kernel form, or None for the VPC's local route, which the mapping table is.

    ``targets`` are ports by NAT gateway or interface id, ``links`` this VPC's ends of its peerings.
    """
    if ipv6.is_ipv6(route.destination):
        return ipv6.target_of(route.destination, route.target)
    if route.target == "local":
        return None
    if route.target.startswith("igw-"):
        return f"via {IGW_PEER} dev igw onlink"
    if route.target in links:
        return f"via {PEER_HOP} dev {links[route.target]} onlink"
    if route.target.startswith(("vgw-", "tgw-")):
        return f"via {VGW_PEER} dev vgw onlink"
    if port := targets.get(route.target):
        return f"via {port.primary} dev {port.name} onlink"
    return "blackhole"


def lay_out(world: World) -> Layout:
    """The kernel state that ``world`` asks for. Raises ValueError (naming the interface) for what cannot be routed."""
    subnets = {s.id: s for s in world.subnets}
    attached = [(eni, _port(eni, subnets[eni.subnet_id], *rest)) for eni, *rest in _attached(world)]
    ports = {port.name: port for _, port in attached}
    by_address = {port.primary: port for port in ports.values() if port.role == "nat"}
    targets = {gateway: by_address[address] for gateway, address in world.nat if address in by_address}
    targets |= {port.eni: port for port in ports.values()}
    links = peer_links(world)
    used = {eni.subnet_id for eni, _ in attached}
    # A whole default route behind the VPN has no "tenth address" that would make sense as a server.
    onprem = {*ONPREM_CIDRS, *(c for c in world.onprem_cidrs if 8 <= ipaddress.ip_network(c).prefixlen <= 28)}

    routes = {(MAPPING_TABLE, cidr): "blackhole" for cidr in (*world.vpc_cidrs, *world.vpc_ipv6_cidrs)}
    routes |= {
        (mapping_table(vpc.id), c): "blackhole" for vpc in world.vpcs for c in (*vpc.cidrs, *world.vpc_ipv6_cidrs)
    }
    elements: dict[tuple[str, str], str] = {}
    for eni, port in attached:
        hop = f"via {port.primary} dev {port.name} onlink"
        hop6 = f"via {ipv6.link_local(eni.mac)} dev {port.name} onlink"
        spaces = [MAPPING_TABLE, *([mapping_table(subnets[eni.subnet_id].vpc_id)] if world.vpcs else [])]
        routes |= {(table, to): hop for table in spaces for to in (*eni.addresses, *eni.prefixes)}
        routes |= {(table, to): hop6 for table in spaces for to in ipv6.owned(eni)}
        elements |= _element_entries(eni, port, _table_of(eni.subnet_id))
    for subnet in (subnets[s] for s in used):
        ends = {link.peering: link.end_of(subnet.vpc_id) for link in links.values() if subnet.vpc_id in link.vpcs}
        hops = {r.destination: _next_hop(r, targets, ends) for r in subnet.routes}
        routes |= {(_table_of(subnet.id), to): hop for to, hop in hops.items() if hop is not None}
    return Layout(
        namespaces=_alive(world) | {p.netns for p in ports.values() if p.role == "nat"},
        ports=ports,
        gateways=frozenset(g for s in used for g in (subnets[s].gateway, *subnets[s].ipv6_gateways)),
        tables=frozenset(map(_table_of, used)),
        routes=routes,
        neighbours={(p.name, hop): p.mac for p in ports.values() for hop in (p.primary, ipv6.link_local(p.mac))},
        elements=elements
        | {(f"{family} vpc", cidr): "" for family in ("ip", "arp") for cidr in world.vpc_cidrs}
        | {("ip6 vpc", cidr): "" for cidr in world.vpc_ipv6_cidrs}
        | {("ip6 egress_only", cidr): "" for cidr in ipv6.egress_only(world.subnets)}
        | {element: value for link in links.values() for element, value in link.elements()}
        | {("ip onprem", cidr): "" for cidr in onprem},
        onprem_hosts=frozenset(str(ipaddress.ip_network(cidr)[10]) for cidr in onprem),
        rules=frozenset(space_rules({_table_of(s): subnets[s].vpc_id for s in used} if world.vpcs else {}, links)),
        peer_links={link.ends[0]: link for link in links.values()},
        filters=filter_chains(world, {port.eni: port.name for port in ports.values()}),
        links=dict(_links(attached, subnets)),
        owners=dict(_owners(attached, subnets)),
    )


def _links(attached: Iterable[tuple[Eni, Port]], subnets: Mapping[str, Subnet]) -> Iterator[tuple[str, ipv6.Link]]:
    for eni, port in attached:
        if cidrs := subnets[eni.subnet_id].ipv6_cidrs:
            yield port.name, ipv6.Link(eni.subnet_id, port.gateway_mac, cidrs)


def _owners(
    attached: Iterable[tuple[Eni, Port]], subnets: Mapping[str, Subnet]
) -> Iterator[tuple[tuple[str, str], str]]:
    for eni, port in attached:
        yield from ipv6.owners(eni)
        for gateway in subnets[eni.subnet_id].ipv6_gateways:
            yield (eni.subnet_id, f"{gateway}/128"), port.gateway_mac
