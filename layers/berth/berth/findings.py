"""What the sweep finds wrong: the table and EC2 disagree, or a look that was to come never came. Pure.

Each kind is also the name of a metric; ``Kind.repair`` says that an event must have been missed.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from berth.contract import Record
from berth.model import Instance, InterfaceView, NodePolicy, Notes
from berth.own_interfaces import resolve
from berth.plan import ORPHAN_SECONDS

__all__ = ["HOOK_SECONDS", "LEASE_STUCK_SECONDS", "OVERDUE_SECONDS", "SOON_SECONDS", "Kind", "Shown", "judge"]

OVERDUE_SECONDS: Final = 120.0
"""A delayed look that is so late is lost: it had been received five times, or never sent."""
SOON_SECONDS: Final = 60.0
"""Somebody will look so soon anyway; and events of an instance so young may still be on their way."""
LEASE_STUCK_SECONDS: Final = 120.0
"""A lease that ran out so long ago has no holder: its message has come again by now, or never will."""
HOOK_SECONDS: Final = 48 * 3600.0
"""No instance waits longer in a lifecycle hook (Auto Scaling User Guide, "Lifecycle hooks": at most 48 hours)."""
_HELD: Final = ("attaching", "attached")


class Kind(Enum):
    """Why a look is asked for."""

    WITHOUT_RECORD = "NodesWithoutRecord"
    YOUNG = "NodesYoung"  # no record yet, but its events may be on their way
    DRIFTED = "NodesDrifted"
    UNPROTECTED = "NodesUnprotected"  # an interface would outlive its node: DeleteOnTermination was taken away
    GROUPS = "NodesGroupsDiffer"  # an interface of ours is in other security groups than the primary: no event tells
    NEGLECTED = "NodesNeglected"
    POLICY = "NodesPolicyChanged"  # a tag or the stack's defaults changed: no event tells
    UNMET = "NodesUnmet"  # wants addresses, of which there may be some by now
    IN_HOOK = "NodesInHook"
    WITHOUT_NODE = "RecordsWithoutNode"
    STUCK = "LeasesStuck"
    ORPHANS = "NodesWithOrphans"
    UNATTACHED = "NodesWithUnattached"
    PUBLIC = "NodesPublicDiffers"  # public addresses of its pods are others than the record grants
    TAGS = "PublicTagsDiffer"  # a public address has lost its tag or has it again, and its pod has not been told
    CLAIMED = "PublicClaimsUnused"  # claimed for a pod that the record knows nothing of

    @property
    def repair(self) -> bool:
        return self not in (Kind.YOUNG, Kind.UNMET, Kind.GROUPS, Kind.POLICY, Kind.PUBLIC, Kind.TAGS)


@dataclass(slots=True)
class Shown:
    """What EC2 shows on one node, gathered page by page: (interface, block) pairs and little else, for the memory.

    ``held`` are all interfaces attached to it; ``singles`` the subnets in which it has single addresses; ``claimed``
    blocks are on standby interfaces that the node must have claimed, since they are attached, and whose tag follows.
    ``own`` are single pods' own interfaces, with what was asked for and the groups that they have.
    """

    blocks: set[tuple[str, str]] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    unprotected: bool = False
    singles: set[str] = field(default_factory=set)
    primary_groups: tuple[str, ...] = ()
    other_groups: set[tuple[str, ...]] = field(default_factory=set)
    claimed: set[tuple[str, str]] = field(default_factory=set)
    own: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    public: set[str] = field(default_factory=set)
    """Addresses for pods that have a public one."""

    def add(self, interface: InterfaceView, node: str, clusters: Container[str]) -> None:
        """Take note of an interface that is attached to ``node``."""
        at = interface.attachment
        if at is None or at.status not in _HELD:
            return
        self.held.add(interface.id)
        primary = interface.is_primary_of(node)
        if not primary and not interface.is_ours(clusters, node):
            if interface.standby is not None and interface.node is None:
                self.claimed.update((interface.id, block) for block in interface.blocks)
            return
        if interface.pod:
            self.own[interface.id] = interface.pod_asks, tuple(sorted(interface.groups))
        else:
            self.blocks.update((interface.id, block) for block in (*interface.blocks, *interface.ipv6_prefixes))
        self.public |= set(interface.public) - ({interface.primary_address} if primary else set())
        self.unprotected |= not primary and at.status == "attached" and not at.delete_on_termination
        if interface.addresses:
            self.singles.add(interface.subnet_id)
        groups = tuple(sorted(interface.groups))
        if primary:
            self.primary_groups = groups
        elif not interface.pod:
            self.other_groups.add(groups)


def listed(record: Record) -> set[tuple[str, str]]:
    """The (interface, block) pairs of a record, IPv4 alone: those that EC2's must equal."""
    return {(i.id, a.cidr) for i in record.interfaces for a in i.assignments}


def drifted(record: Record, shown: Shown) -> bool:
    """Whether EC2 shows other IPv4 blocks than the record, other interfaces that are pods' own, or lacks an IPv6 prefix
    that it lists.

    A claim that is not settled is the filler's to chase, so its blocks are no drift whether or not they are listed.
    """
    ipv4 = {(i, b) for i, b in shown.blocks if ":" not in b}
    ipv6 = {(i.id, a.cidr) for i in record.interfaces for a in i.ipv6_assignments}
    own = {i.id for i in record.interfaces if i.pod}
    return listed(record) - shown.claimed != ipv4 or own != shown.own.keys() or not ipv6 <= shown.blocks


def policy_changed(record: Record, notes: Notes, policy: NodePolicy, now: float) -> bool:
    """Whether ``policy``, as tags and defaults say it now, is another than the one in force.

    What only holds where the type and the network allow it (the mode, IP families) is compared where nothing is noted
    that stands against it.
    """
    rules, there = policy.policy, record.policy
    minimum = notes.minimum(rules.minimum_addresses, now)
    if notes.problems:
        rules = replace(rules, mode=there.mode, ip_families=there.ip_families)
    return replace(rules, minimum_addresses=minimum) != there or bool(policy.problems and not notes.problems)


def groups_differ(shown: Shown, notes: Notes, policy: NodePolicy) -> bool:
    """Whether an interface of ours has other security groups than the policy wants, or else the primary has.

    Groups that a tag names are only compared where no problem is noted: they may not be allowed. A pod's own interface
    has those that it asked for, as the stack's parameters have them now; whether they are allowed a look finds out.
    """
    for asked, groups in shown.own.values():
        wanted, _ = resolve(asked, policy.pod_groups, None)
        if wanted and wanted != groups:
            return True
    if policy.groups is None:
        return bool(shown.other_groups - {shown.primary_groups})
    return not notes.problems and bool(shown.other_groups - {tuple(sorted(policy.groups))})


def judge(
    instance: Instance, record: Record | None, notes: Notes, shown: Shown, now: float, policy: NodePolicy
) -> Kind | None:
    """What is wrong with a living node, the gravest first. ``policy`` is what its tags and the defaults say now."""
    if record is None:
        if now - instance.launched_at >= SOON_SECONDS:
            return Kind.WITHOUT_RECORD
        # a pending instance has its second event still to come
        return None if instance.state == "pending" else Kind.YOUNG
    if drifted(record, shown):
        return Kind.DRIFTED
    if shown.unprotected:
        return Kind.UNPROTECTED
    if shown.public != {g.address for g in record.grants if g.public_address}:
        return Kind.PUBLIC
    if 0 < notes.next_look < now - OVERDUE_SECONDS:
        return Kind.NEGLECTED
    if policy_changed(record, notes, policy, now):
        return Kind.POLICY
    if groups_differ(shown, notes, policy):
        return Kind.GROUPS
    return Kind.UNMET if notes.unmet and notes.next_look <= now else None


def is_old(interface: InterfaceView, now: float) -> bool:
    """Old enough to be deleted when nobody wants it, by the tag ``berth:created-at``; without the tag, it is."""
    return now - (interface.created_at or 0.0) > ORPHAN_SECONDS
