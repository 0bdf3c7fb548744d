"""What the simulated EC2 knows, as frozen values: the seam between the cloud (moto) and the fabric, nodes and IMDS.

The cloud takes a :class:`World` after each change; the fabric makes the kernel match it (level-triggered), and IMDS
answers from it. Nothing here does I/O.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "ROOT",
    "AclRule",
    "Eni",
    "FlowLog",
    "GroupRule",
    "Instance",
    "NetworkAcl",
    "Peering",
    "Route",
    "SecurityGroup",
    "Subnet",
    "Vpc",
    "World",
    "netns_path",
    "node_dir",
]

ROOT: Final = Path("/run/berth-sandbox")
"""All of the sandbox's files. A tmpfs in a private mount namespace, so that nothing outlives the sandbox."""


def netns_path(name: str) -> Path:
    """A network namespace's bind mount. An instance's is named by its id; the others: vpc, internet, onprem, nat."""
    return Path("/run/netns") / name


def node_dir(instance_id: str) -> Path:
    """The files of one node: ``run``, ``lib``, ``net.d``, ``bin`` and ``log`` below it, and ``init.pid``."""
    return ROOT / "nodes" / instance_id


@dataclass(frozen=True, slots=True)
class Eni:
    """An elastic network interface. ``addresses`` has the primary first; ``prefixes`` are /28 blocks, ``ipv6_prefixes``
    /80 ones."""

    id: str
    mac: str
    subnet_id: str
    addresses: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    instance_id: str | None = None
    device_index: int = 0
    network_card: int = 0
    source_check: bool = True
    security_groups: tuple[str, ...] = ()
    public_address: str | None = None
    ipv6_addresses: tuple[str, ...] = ()
    ipv6_prefixes: tuple[str, ...] = ()
    public: tuple[tuple[str, str], ...] = ()
    """(Private, public) pairs of the other addresses."""

    @property
    def primary(self) -> str:
        return self.addresses[0]

    @property
    def associations(self) -> tuple[tuple[str, str], ...]:
        """All (private, public) pairs."""
        return (*([(self.primary, self.public_address)] if self.public_address else []), *self.public)


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance that has a network: ``state`` is EC2's (pending, running, stopping, ... terminated)."""

    id: str
    arn: str
    state: str
    type: str
    zone: str
    image: str
    launched_at: float
    profile_role: str | None = None
    hop_limit: int = 1


@dataclass(frozen=True, slots=True)
class Route:
    """One route of a route table. ``target`` is ``local``, ``igw-…``, ``eigw-…``, ``nat-…``, ``vgw-…``, ``tgw-…``,
    ``pcx-…`` or ``eni-…``; anything else is a black hole."""

    destination: str
    target: str


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet with the routes of the table it uses (its own association, else the VPC's main table)."""

    id: str
    cidr: str
    zone: str
    vpc_id: str
    routes: tuple[Route, ...] = ()
    acl: str | None = None
    """Of its network ACL; None lets everything pass."""
    ipv6_cidrs: tuple[str, ...] = ()

    @property
    def gateway(self) -> str:
        """The VPC router's address: the subnet's first host address."""
        return str(ipaddress.ip_network(self.cidr)[1])

    @property
    def ipv6_gateways(self) -> tuple[str, ...]:
        """The VPC router's global addresses: the first after the network's own, of each IPv6 block."""
        return tuple(str(ipaddress.ip_network(cidr)[1]) for cidr in self.ipv6_cidrs)


@dataclass(frozen=True, slots=True)
class AclRule:
    """``protocol`` is ``any``, ``tcp``, ``udp``, ``icmp`` or a number; ``ports`` None is all; ``icmp`` (type, code)."""

    number: int
    egress: bool
    allow: bool
    protocol: str
    cidr: str
    ports: tuple[int, int] | None = None
    icmp: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class NetworkAcl:
    id: str
    rules: tuple[AclRule, ...]


@dataclass(frozen=True, slots=True)
class GroupRule:
    """One permission; ``peer`` is a CIDR or a group's id. The rest is as in :class:`AclRule`."""

    egress: bool
    protocol: str
    peer: str
    ports: tuple[int, int] | None = None
    icmp: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    id: str
    rules: tuple[GroupRule, ...]


@dataclass(frozen=True, slots=True)
class Vpc:
    """``vpn``: a VPN or transit gateway is attached, so on-premises reaches it."""

    id: str
    cidrs: tuple[str, ...]
    vpn: bool = True


@dataclass(frozen=True, slots=True)
class Peering:
    """An active peering of two VPCs."""

    id: str
    vpcs: tuple[str, str]


@dataclass(frozen=True, slots=True)
class FlowLog:
    """A flow log to S3. ``resource_id`` is a VPC, a subnet or an interface; ``traffic`` ALL, ACCEPT or REJECT;
    ``fields`` are of its format, with dashes."""

    id: str
    resource_id: str
    traffic: str
    bucket: str
    prefix: str
    fields: tuple[str, ...]
    parquet: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """A consistent snapshot. ``nat`` maps a NAT gateway's id to its private address (its Eni is in ``enis``).

    Without ``groups`` no security group is enforced, without ``vpcs`` all subnets are of one VPC.
    """

    vpc_cidrs: tuple[str, ...] = ()
    subnets: tuple[Subnet, ...] = ()
    instances: tuple[Instance, ...] = ()
    enis: tuple[Eni, ...] = ()
    nat: tuple[tuple[str, str], ...] = ()
    onprem_cidrs: tuple[str, ...] = ()
    acls: tuple[NetworkAcl, ...] = ()
    groups: tuple[SecurityGroup, ...] = ()
    vpcs: tuple[Vpc, ...] = ()
    peerings: tuple[Peering, ...] = ()
    vpc_ipv6_cidrs: tuple[str, ...] = ()
    flow_logs: tuple[FlowLog, ...] = ()

    def subnet(self, subnet_id: str) -> Subnet:
        return next(s for s in self.subnets if s.id == subnet_id)

    def enis_of(self, instance_id: str) -> tuple[Eni, ...]:
        mine = (e for e in self.enis if e.instance_id == instance_id)
        return tuple(sorted(mine, key=lambda e: (e.network_card, e.device_index)))
