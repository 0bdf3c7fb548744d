"""A node as EC2 shows it and as we remember it: frozen values, no I/O.

Addresses are IPv4. A *block* is a CIDR as in :mod:`berth.contract`: a prefix (``10.0.1.16/28``) or one address
(``10.0.1.5/32``). Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

from berth.calls import Call
from berth.contract import Policy, Record, Report, address_count

__all__ = [
    "CLUSTER_TAG",
    "CREATED_TAG",
    "INSTANCE_TAG",
    "LAG_SECONDS",
    "NODE_TAG_PREFIX",
    "PREFIX_SIZE",
    "STANDBY_TAG",
    "Attachment",
    "Instance",
    "Intent",
    "InterfaceView",
    "Limits",
    "NodePolicy",
    "NodeView",
    "Notes",
    "Outcome",
    "PolicyProblem",
    "Setbacks",
    "SubnetView",
]

NODE_TAG_PREFIX: Final = "kubernetes.io/cluster/"
CLUSTER_TAG: Final = "berth:cluster"
INSTANCE_TAG: Final = "berth:instance"
CREATED_TAG: Final = "berth:created-at"
STANDBY_TAG: Final = "berth:standby"
LAG_SECONDS: Final = 60.0
"""One describe may show a moment before that of another (EC2 developer guide, "Eventual consistency"), by less than
this. What a record has listed for longer and EC2 does not show is gone; what it has listed for less is there, and
pods may use it."""
PREFIX_SIZE: Final = 16
"""Addresses in a prefix: EC2 assigns IPv4 prefixes as /28 alone (EC2 User Guide, "Prefix delegation")."""


# --------------------------------------------------------------------------------------------- what EC2 shows


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


# --------------------------------------------------------------------------------------------- policy and state


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """A tag (or an instance type) that cannot be used, and what to do about it."""

    key: str
    value: str
    message: str


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """The policy in force, from the stack's defaults and the instance's tags.

    ``subnets`` selects by tag (key, value; None means any value). ``groups`` None means the primary interface's;
    ``hold_groups`` that interfaces which are there keep the groups they have.
    """

    policy: Policy = field(default_factory=Policy)
    subnets: tuple[str, str | None] | None = None
    groups: tuple[str, ...] | None = None
    unmanaged: bool = False
    hold_groups: bool = False
    problems: tuple[PolicyProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class Notes:
    """What EC2 does not tell and so is kept beside the record.

    ``requested`` addresses are wanted until ``requested_until``; warm growth is off until ``draining_until``;
    ``absent_since`` is when describes first left the node out; ``next_look`` is when a delayed message is due.
    ``unwanted`` are (interface, since when) of unattached ones that the plan has no use for. The instance has waited
    in the launch hook ``hook_name`` of the group ``hook_group`` since ``hook_at``. ``wanted_since`` is when the
    addresses that are still missing began to be. ``listed_at`` is when the record last listed something new.
    """

    requested: int = 0
    requested_until: float = 0.0
    draining_until: float = 0.0
    absent_since: float = 0.0
    next_look: float = 0.0
    looks: int = 0
    unmet: int = 0
    problems: str = ""
    unwanted: tuple[tuple[str, float], ...] = ()
    hook_group: str = ""
    hook_name: str = ""
    hook_at: float = 0.0
    wanted_since: float = 0.0
    listed_at: float = 0.0

    def minimum(self, usual: int, now: float) -> int:
        """Addresses to be assigned at the least: the policy's, or more while somebody has asked for more."""
        return max(usual, self.requested) if now < self.requested_until else usual


@dataclass(frozen=True, slots=True)
class Setbacks:
    """What EC2 refused during this reconcile, so that the next plan goes around it. Never stored.

    Subnets: ``fragmented`` have no free prefix, ``exhausted`` no free address, ``no_ipv6`` no free IPv6 prefix.
    Interfaces: ``refused`` are in a state that allows no call for now, ``full`` take no more blocks.
    """

    fragmented: frozenset[str] = frozenset()
    exhausted: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    full: frozenset[str] = frozenset()
    no_create: bool = False
    no_ipv6: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeView:
    """Everything the planner may look at.

    ``interfaces`` are all that are attached to the instance, foreign ones too, or tagged for it. ``marked`` gives the
    revision at which an assignment was marked releasing. ``leaving`` are (interface, block) pairs that left the record
    and are still to be unassigned. ``allowed_groups`` are the security groups tagged as usable.
    """

    instance: Instance
    cluster: str
    interfaces: tuple[InterfaceView, ...] = ()
    record: Record | None = None
    marked: tuple[tuple[str, int], ...] = ()
    report: Report | None = None
    leaving: frozenset[tuple[str, str]] = frozenset()
    notes: Notes = field(default_factory=Notes)
    allowed_groups: frozenset[str] = frozenset()
    setbacks: Setbacks = field(default_factory=Setbacks)
    now: float = 0.0
    waits: tuple[tuple[str, float], ...] = ()
    """Seconds until EC2 actions may be called (:meth:`berth.budget.Budget.waits`); one that is missing may be now."""
    standby: tuple[InterfaceView, ...] = ()
    """Standby interfaces that this node may claim."""
    claimed: frozenset[str] = frozenset()
    """Ids of those it has claimed and that carry no instance tag yet; in ``interfaces`` they look as if they did."""
    settling: frozenset[str] = frozenset()
    """Ids of those that have been tagged, which EC2 does not show yet: their claims end when it does."""
    served: frozenset[str] = frozenset()
    """All clusters that the stack serves; ``cluster`` is always one."""

    @property
    def primary(self) -> InterfaceView | None:
        return next((i for i in self.interfaces if i.is_primary_of(self.instance.id)), None)

    @property
    def ours(self) -> tuple[InterfaceView, ...]:
        """Our secondary interfaces, attached to this node or to nothing, sorted by id."""
        clusters = self.served | {self.cluster}
        mine = (i for i in self.interfaces if i.is_ours(clusters, self.instance.id))
        return tuple(sorted((i for i in mine if not i.is_primary_of(self.instance.id)), key=lambda i: i.id))

    @property
    def managed(self) -> tuple[InterfaceView, ...]:
        """The primary interface and ours."""
        primary = self.primary
        return (primary, *self.ours) if primary is not None else self.ours

    def assigned(self) -> int:
        """Addresses for pods on managed interfaces, without those that leave."""
        return sum(address_count(b) for i in self.managed for b in i.blocks if (i.id, b) not in self.leaving)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What EC2 answered: the new interface, the attachment's id, or the blocks it assigned."""

    interface: InterfaceView | None = None
    attachment_id: str = ""
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Intent:
    """A call that was about to be made at ``at``, and its outcome once it was. ``token`` is EC2's ClientToken."""

    token: str
    call: Call
    at: float
    outcome: Outcome | None = None
    done_at: float = 0.0
