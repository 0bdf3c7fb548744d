"""A node as EC2 shows it and as we remember it: frozen values, no I/O.

Addresses are IPv4. A *block* is a CIDR as in :mod:`berth.contract`: a prefix (``10.0.1.16/28``) or one address
(``10.0.1.5/32``). Times are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from berth.calls import Call
from berth.contract import Policy, Record, Report, address_count
from berth.described import (
    CLUSTER_TAG,
    CREATED_TAG,
    INSTANCE_TAG,
    LAG_SECONDS,
    NAMESPACES_TAG,
    NODE_TAG_PREFIX,
    POD_ASKS_TAG,
    POD_TAG,
    POOL_TAG,
    PREFIX_SIZE,
    STANDBY_TAG,
    Attachment,
    Instance,
    InterfaceView,
    Limits,
    PublicAddress,
    SubnetView,
)

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
    "Intent",
    "InterfaceView",
    "Limits",
    "NodePolicy",
    "NodeView",
    "Notes",
    "Outcome",
    "PodGroups",
    "PolicyProblem",
    "PublicAddress",
    "Setbacks",
    "SubnetView",
    "Unmet",
]


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """A tag (or an instance type) that cannot be used, and what to do about it."""

    key: str
    value: str
    message: str


@dataclass(frozen=True, slots=True)
class PodGroups:
    """Which security groups pods may ask for, by the stack's parameters; nobody any, where there are none.

    ``profiles`` are names with their groups; ``namespaces`` are namespaces (``*``: every one) with the profiles and
    groups that their pods may name (``*``: all).
    """

    profiles: tuple[tuple[str, tuple[str, ...]], ...] = ()
    namespaces: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """The policy in force, from the stack's defaults and the instance's tags.

    ``subnets`` selects by tag (key, value; None means any value). ``groups`` None means the primary interface's;
    ``hold_groups`` that interfaces which are there keep the groups they have. ``pod_interfaces`` are kept free for pods
    that ask for one of their own: the pool does not grow into them.
    """

    policy: Policy = field(default_factory=Policy)
    subnets: tuple[str, str | None] | None = None
    groups: tuple[str, ...] | None = None
    unmanaged: bool = False
    hold_groups: bool = False
    problems: tuple[PolicyProblem, ...] = ()
    pod_groups: PodGroups = field(default_factory=PodGroups)
    pod_interfaces: int = 0


@dataclass(frozen=True, slots=True)
class Unmet:
    """A pod's request that ``looks`` looks in vain have put off until then (:mod:`berth.unmet`)."""

    key: str
    looks: int
    until: float


@dataclass(frozen=True, slots=True)
class Notes:
    """What EC2 does not tell and so is kept beside the record.

    ``requested`` addresses are wanted until ``requested_until``; warm growth is off until ``draining_until``;
    ``absent_since`` is when describes first left the node out; ``next_look`` is when a delayed message is due.
    ``unwanted`` are (interface, since when) of unattached ones that the plan has no use for. The instance has waited
    in the launch hook ``hook_name`` of the group ``hook_group`` since ``hook_at``. ``wanted_since`` is when the
    addresses that are still missing began to be. ``listed_at`` is when the record last listed something new.
    ``unmet_requests`` are pods' requests that were answered with a problem.
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
    unmet_requests: tuple[Unmet, ...] = ()

    def minimum(self, usual: int, now: float) -> int:
        """Addresses to be assigned at the least: the policy's, or more while somebody has asked for more."""
        return max(usual, self.requested) if now < self.requested_until else usual


@dataclass(frozen=True, slots=True)
class Setbacks:
    """What EC2 refused during this reconcile, so that the next plan goes around it. Never stored.

    Subnets: ``fragmented`` have no free prefix, ``exhausted`` no free address, ``no_ipv6`` no free IPv6 prefix.
    Interfaces: ``refused`` are in a state that allows no call for now, ``full`` take no more blocks. ``pods``: requests
    of pods for an interface that EC2 refused, with what it said.
    """

    fragmented: frozenset[str] = frozenset()
    exhausted: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    full: frozenset[str] = frozenset()
    no_create: bool = False
    no_ipv6: frozenset[str] = frozenset()
    pods: tuple[tuple[str, str], ...] = ()
    no_public: tuple[tuple[str, str], ...] = ()
    """(Elastic IP address, EC2's words): what could not be associated or disassociated now."""
    unsure: frozenset[str] = frozenset()
    """Elastic IP addresses that may have been associated a moment ago, which EC2 need not show yet."""


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
    publics: tuple[PublicAddress, ...] | None = None
    """Every Elastic IP address that the stack may use or has claimed; None if they were not looked at."""
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
        """Addresses for pods on managed interfaces, without those that leave and those that are one pod's own."""
        pool = (i for i in self.managed if not i.pod)
        return sum(address_count(b) for i in pool for b in i.blocks if (i.id, b) not in self.leaving)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What EC2 answered: the new interface, the attachment's id, or the blocks it assigned."""

    interface: InterfaceView | None = None
    attachment_id: str = ""
    blocks: tuple[str, ...] = ()

    @property
    def brief(self) -> str:
        """For the log: what came of it, in one line."""
        made = [self.interface.id] if self.interface else []
        return " ".join([*made, *([self.attachment_id] if self.attachment_id else []), *self.blocks]) or "done"


@dataclass(frozen=True, slots=True)
class Intent:
    """A call that was about to be made at ``at``, and its outcome once it was. ``token`` is EC2's ClientToken."""

    token: str
    call: Call
    at: float
    outcome: Outcome | None = None
    done_at: float = 0.0
