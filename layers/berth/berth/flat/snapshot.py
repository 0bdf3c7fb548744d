"""What EC2 describes of a network, as frozen values: all that the check is made from.

Ids are EC2's, CIDRs and addresses text. A port range of None means all; ``icmp`` is (type, code), -1 for any.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from berth.flat.numbers import number, within

__all__ = [
    "ANY",
    "Acl",
    "AclEntry",
    "Group",
    "GroupRule",
    "Interface",
    "InternetGateway",
    "NatGateway",
    "Peering",
    "PrefixList",
    "Route",
    "RouteTable",
    "Snapshot",
    "Subnet",
    "TransitAttachment",
    "Vpc",
    "VpnGateway",
]

ANY: Final = "any"
"""A rule's protocol that matches all. Others are ``tcp``, ``udp``, ``icmp``, or a protocol's number."""


@dataclass(frozen=True, slots=True)
class Vpc:
    id: str
    cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subnet:
    """``for_pods``: tagged as usable for pods (``berth:allowed``)."""

    id: str
    vpc: str
    cidr: str
    zone: str = ""
    name: str = ""
    for_pods: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """``destination`` is a CIDR or a prefix list's id; ``target`` an id, or ``local``."""

    destination: str
    target: str
    black_hole: bool = False
    propagated: bool = False


@dataclass(frozen=True, slots=True)
class RouteTable:
    """``subnets`` are those associated by name; the main table serves all others of its VPC."""

    id: str
    vpc: str
    main: bool
    subnets: tuple[str, ...]
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class AclEntry:
    number: int
    egress: bool
    allow: bool
    protocol: str
    cidr: str
    ports: tuple[int, int] | None = None
    icmp: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Acl:
    id: str
    vpc: str
    subnets: tuple[str, ...]
    entries: tuple[AclEntry, ...]


@dataclass(frozen=True, slots=True)
class GroupRule:
    """One permission: the other end is in one of the CIDRs, prefix lists or groups."""

    protocol: str
    ports: tuple[int, int] | None = None
    icmp: tuple[int, int] | None = None
    cidrs: tuple[str, ...] = ()
    prefix_lists: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    id: str
    vpc: str
    name: str = ""
    allowed: bool = False
    ingress: tuple[GroupRule, ...] = ()
    egress: tuple[GroupRule, ...] = ()


@dataclass(frozen=True, slots=True)
class PrefixList:
    id: str
    name: str
    cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interface:
    """``addresses`` has the primary first; ``public`` pairs a private address with its public one.

    ``groups`` of None means that they are not judged: it stands for any host of a network.
    """

    id: str
    subnet: str
    addresses: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = ()
    source_check: bool = True
    instance: str | None = None
    device: int = 0
    card: int = 0
    kind: str = "interface"
    public: tuple[tuple[str, str], ...] = ()

    @property
    def primary(self) -> bool:
        return self.instance is not None and (self.card, self.device) == (0, 0)

    def holds(self, address: int) -> bool:
        """Whether the address is one of its own, or in one of its prefixes."""
        return any(number(a) == address for a in self.addresses) or any(within(address, p) for p in self.prefixes)


@dataclass(frozen=True, slots=True)
class NatGateway:
    """``address`` is the private one; ``available`` that it works now; ``public`` that it has a public address."""

    id: str
    subnet: str
    address: str
    available: bool = True
    public: bool = True


@dataclass(frozen=True, slots=True)
class InternetGateway:
    id: str
    vpcs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peering:
    """Two VPCs, each with its CIDRs as the peering knows them; either may be another account's, and not described."""

    id: str
    vpcs: tuple[str, str]
    cidrs: tuple[tuple[str, ...], tuple[str, ...]]
    active: bool = True


@dataclass(frozen=True, slots=True)
class VpnGateway:
    id: str
    vpcs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TransitAttachment:
    gateway: str
    vpc: str
    subnets: tuple[str, ...]
    available: bool = True


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``nodes`` are the instances of the cluster. ``no_snat`` are destinations that see a pod's own address, beside a
    node's VPC and those that its route tables lead to privately, less ``snat``: for all others the node writes its own
    primary address over the pod's (docs/routes.md)."""

    vpcs: tuple[Vpc, ...] = ()
    subnets: tuple[Subnet, ...] = ()
    tables: tuple[RouteTable, ...] = ()
    acls: tuple[Acl, ...] = ()
    groups: tuple[Group, ...] = ()
    prefix_lists: tuple[PrefixList, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    nat_gateways: tuple[NatGateway, ...] = ()
    internet_gateways: tuple[InternetGateway, ...] = ()
    peerings: tuple[Peering, ...] = ()
    vpn_gateways: tuple[VpnGateway, ...] = ()
    transit_attachments: tuple[TransitAttachment, ...] = ()
    nodes: tuple[str, ...] = ()
    no_snat: tuple[str, ...] = ()
    snat: tuple[str, ...] = ()
    taken_at: str = field(default="", compare=False)
