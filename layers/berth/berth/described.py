"""What EC2 shows of a node: frozen values as it describes them, and the tags by which we know our own. No I/O.

Everybody imports them from :mod:`berth.model`, where what we remember of a node is added.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

__all__ = [
    "CLUSTER_TAG",
    "CREATED_TAG",
    "INSTANCE_TAG",
    "LAG_SECONDS",
    "NAMESPACES_TAG",
    "NODE_TAG_PREFIX",
    "POD_ASKS_TAG",
    "POD_TAG",
    "POOL_TAG",
    "PREFIX_SIZE",
    "STANDBY_TAG",
    "Attachment",
    "Instance",
    "InterfaceView",
    "Limits",
    "PublicAddress",
    "SubnetView",
]

NODE_TAG_PREFIX: Final = "kubernetes.io/cluster/"
CLUSTER_TAG: Final = "berth:cluster"
INSTANCE_TAG: Final = "berth:instance"
CREATED_TAG: Final = "berth:created-at"
STANDBY_TAG: Final = "berth:standby"
POD_TAG: Final = "berth:pod"
POD_ASKS_TAG: Final = "berth:pod-asks"
POOL_TAG: Final = "berth:public-pool"
NAMESPACES_TAG: Final = "berth:namespaces"
LAG_SECONDS: Final = 60.0
"""One describe may show a moment before that of another (EC2 developer guide, "Eventual consistency"), by less than
this. What a record has listed for longer and EC2 does not show is gone; what it has listed for less is there, and
pods may use it."""
PREFIX_SIZE: Final = 16
"""Addresses in a prefix: EC2 assigns IPv4 prefixes as /28 alone (EC2 User Guide, "Prefix delegation")."""


@dataclass(frozen=True, slots=True)
class Instance:
    """``state`` is EC2's. ``tags`` are pairs sorted by key."""

    id: str
    arn: str
    state: str
    type: str
    subnet_id: str
    vpc_id: str
    zone: str
    launched_at: float
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def dead(self) -> bool:
        """Nothing will run on it again (stopped and hibernated nodes keep everything)."""
        return self.state in ("shutting-down", "terminated")


@dataclass(frozen=True, slots=True)
class Attachment:
    """``status`` is attaching, attached, detaching or detached. ``device_index`` counts within one network card."""

    id: str
    instance_id: str
    device_index: int
    network_card: int = 0
    status: str = "attached"
    delete_on_termination: bool = False


@dataclass(frozen=True, slots=True)
class InterfaceView:
    """A network interface as EC2 describes it. ``addresses`` are the secondary ones, without the primary.

    ``ipv6_prefixes`` (/80) stay apart from ``blocks``: each takes a slot of the IPv6 limit and is never released.

    ``cluster``, ``node`` and ``created_at`` are our tags, None where there is none.
    """

    id: str
    mac: str
    subnet_id: str
    vpc_id: str
    zone: str
    primary_address: str
    addresses: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    attachment: Attachment | None = None
    cluster: str | None = None
    node: str | None = None
    created_at: float | None = None
    standby: str | None = None
    """The key of the standby pool that it was made for, also once it is a node's."""
    ipv6_prefixes: tuple[str, ...] = ()
    pod: str = ""
    """The pod's request (:class:`berth.contract.PodRequest`) that has it for itself: it is no supply of the pool."""
    pod_asks: str = ""
    """What that request asked for: its namespace, ``/``, and the groups or the profile that it named."""
    public: tuple[str, ...] = ()
    """Those of its private addresses that a public one is associated with."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """Every block on it, prefixes first, sorted."""
        return (*sorted(self.prefixes), *sorted(f"{a}/32" for a in self.addresses))

    @property
    def slots(self) -> int:
        """Address slots used: each prefix takes one, as the primary address does."""
        return 1 + len(self.addresses) + len(self.prefixes)

    def is_primary_of(self, instance_id: str) -> bool:
        at = self.attachment
        return at is not None and (at.instance_id, at.device_index, at.network_card) == (instance_id, 0, 0)

    def is_ours(self, clusters: str | Container[str], instance_id: str) -> bool:
        """Tagged for this node *and* attached to it or to nothing. Attached elsewhere is foreign.

        ``clusters`` is one cluster, or all that the stack serves: an instance whose cluster tag changes from one of
        them to another keeps the interfaces that were made for it, since pods may use them. One that is tagged for
        somebody else's cluster is foreign, whatever instance it names.
        """
        named = self.cluster == clusters if isinstance(clusters, str) else self.cluster in clusters
        tagged = named and self.node == instance_id
        return tagged and (self.attachment is None or self.attachment.instance_id == instance_id)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an instance type allows, from DescribeInstanceTypes.

    ``interfaces`` are those of all network cards together, ``cards`` (index, interfaces) pairs; left empty, there is
    one card. ``network_card`` is the default one, on which new interfaces go first. ``prefixes`` is false for types
    that are not on Nitro. ``ipv6`` says that its interfaces can have IPv6 prefixes.
    """

    interfaces: int
    addresses_per_interface: int
    network_card: int = 0
    prefixes: bool = True
    cards: tuple[tuple[int, int], ...] = ()
    ipv6: bool = False

    @property
    def by_card(self) -> tuple[tuple[int, int], ...]:
        """(card, interfaces) pairs, the default card first."""
        pairs = self.cards or ((self.network_card, self.interfaces),)
        return tuple(sorted(pairs, key=lambda pair: (pair[0] != self.network_card, pair[0])))


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """An Elastic IP address whose pool the stack may use, and who has claimed it in the table.

    ``namespaces`` may have it, all of them if there are none. ``association_id``, ``interface_id``, ``instance_id`` and
    ``private_address`` say what it is associated with. ``claimed_by`` is an instance id, ``request`` that node's
    request, ``claimed_for`` the private address that it is to be associated with. What is only claimed, since EC2 does
    not show it (any more) with such a tag, is not ``shown``; what it is associated with is known all the same.
    """

    id: str
    address: str = ""
    pool: str = ""
    namespaces: tuple[str, ...] = ()
    association_id: str = ""
    interface_id: str = ""
    instance_id: str = ""
    private_address: str = ""
    claimed_by: str = ""
    request: str = ""
    claimed_for: str = ""
    shown: bool = True


@dataclass(frozen=True, slots=True)
class SubnetView:
    """``free`` is EC2's AvailableIpAddressCount; ranges reserved for prefixes are already taken off it.

    ``routed``: it is available and lies within its VPC's IPv4 CIDRs, so that the local route of every other subnet of
    that VPC leads to it. ``ipv6``: it has an IPv6 CIDR. ``cidr`` is "" for a subnet without IPv4.
    """

    id: str
    cidr: str
    vpc_id: str
    zone: str
    free: int
    allowed: bool
    tags: tuple[tuple[str, str], ...] = ()
    routed: bool = True
    ipv6: bool = False
