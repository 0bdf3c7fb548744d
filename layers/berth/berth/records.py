"""Builds the node record from what EC2 shows: which blocks are in it, which are marked releasing. Pure.

The revision grows exactly when something the node acts upon changed. Taking note of a report alone changes only
``accepted``, at the same revision: otherwise each report would cause a revision and each revision a report.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from berth.contract import Assignment, Interface, Order, PodGrant, Policy, Record, Report, address_count
from berth.model import LAG_SECONDS, InterfaceView, NodeView
from berth.own_interfaces import kept
from berth.publics import public_grants

__all__ = ["lent_from", "next_record", "pod_subnets", "tombstone", "usable_addresses"]


def next_record(
    view: NodeView,
    policy: Policy,
    subnet_cidrs: Mapping[str, str],
    no_snat: Callable[[tuple[str, ...]], Sequence[str]],
    grants: Sequence[PodGrant] = (),
) -> tuple[Record, tuple[tuple[str, int], ...]]:
    """The record ``view`` calls for, and the revision at which each releasing assignment was marked.

    ``subnet_cidrs`` maps subnet ids to CIDRs; an interface in a subnet that is missing there waits for the next look.
    ``no_snat`` gives the destinations that see the own address of pods in these subnets. Blocks in ``view.leaving`` are
    left out. New assignments get ids that no earlier one of this node had. Interfaces that the record began to list a
    moment ago stay in it although EC2 does not show them (:data:`LAG_SECONDS`).
    One that is a pod's own is in it for as long as the newest report lists the pod's request, and without blocks; also
    a young one: its pod may ask again under the same id, and must not be given what is about to be deleted.
    """
    old = view.record or Record(instance_arn=view.instance.arn, revision=0)
    known = {(i.id, a.cidr): a for i in old.interfaces for a in (*i.assignments, *i.ipv6_assignments)}
    revision = old.revision + 1
    marked = dict(view.marked)
    interfaces: list[Interface] = []
    young = old.interfaces if view.now - view.notes.listed_at < LAG_SECONDS else ()
    own = {i.id for i in kept(view).values()}
    for shown in sorted(view.managed, key=_position):
        if shown.attachment is None or shown.attachment.status not in ("attaching", "attached"):
            continue
        if shown.pod and shown.id not in own:
            continue
        if shown.subnet_id in subnet_cidrs:
            blocks = () if shown.pod else _assignments(view, shown, known, marked, revision)
            made = _interface(shown, subnet_cidrs[shown.subnet_id], blocks)
            ipv6 = () if shown.pod else _ipv6(shown, known, revision)
            interfaces.append(replace(made, ipv6_assignments=ipv6, pod=shown.pod))
    interfaces += _not_shown_any_more(view, young, marked)
    interfaces.sort(key=lambda i: (i.network_card, i.device_index, i.id))
    accepted = max(old.accepted, view.report.order) if view.report else old.accepted
    new = Record(
        instance_arn=view.instance.arn,
        revision=revision,
        policy=_in_force(policy, view),
        interfaces=tuple(interfaces),
        no_snat_cidrs=tuple(no_snat(pod_subnets(interfaces))),
        accepted=accepted,
        grants=_grants(view, old, grants),
    )
    if view.record is not None and replace(new, revision=old.revision, accepted=old.accepted) == old:
        return replace(old, accepted=accepted), view.marked
    releasing = {a.id for i in interfaces for a in i.assignments if a.releasing}
    return new, tuple(sorted((i, marked.get(i, revision)) for i in releasing))


def pod_subnets(interfaces: Sequence[Interface]) -> tuple[str, ...]:
    """Subnets whose route tables decide for a node's pods: those of its interfaces that have addresses for them, else
    of all that the record lists."""
    serving = [i for i in interfaces if i.assignments or i.ipv6_assignments or i.pod]
    return tuple(sorted({i.subnet_id for i in serving or interfaces}))


def tombstone(arn: str, record: Record | None) -> Record:
    """The record of a node that is gone: nothing in it, and a revision above all earlier ones."""
    revision = record.revision + 1 if record else 1
    accepted = record.accepted if record else Order()
    return Record(instance_arn=arn, revision=revision, accepted=accepted)


def usable_addresses(record: Record | None) -> int:
    """Addresses the node may lend, by the record alone."""
    if record is None:
        return 0
    return sum(address_count(a.cidr) for a in lent_from(record) if not a.releasing)


def lent_from(record: Record) -> list[Assignment]:
    """The assignments of interfaces that serve pods."""
    spared = record.policy.spare_primary
    return [a for i in record.interfaces for a in i.assignments if not (spared and i.primary)]


def _grants(view: NodeView, old: Record, own: Sequence[PodGrant]) -> tuple[PodGrant, ...]:
    """The answers to what pods ask for: of public addresses as they were, while it is not known what there is; and
    ``own``, of interfaces. A pod may ask for both."""
    if view.publics is not None:
        publics = public_grants(view)
    else:
        asked = {r.id for r in view.report.requests if r.public} if view.report else set()
        publics = tuple(g for g in old.grants if g.public_address or g.id in asked)
    found = {g.id: g if g.public_address or not g.interface_id else replace(g, interface_id="") for g in publics}
    for g in own:
        other = found.get(g.id, g)
        found[g.id] = replace(other, interface_id=g.interface_id, problem=other.problem or g.problem)
    return tuple(found[i] for i in sorted(found))


def _in_force(policy: Policy, view: NodeView) -> Policy:
    """The node must know what was asked for ahead of need, or it would give it back as surplus."""
    return replace(policy, minimum_addresses=view.notes.minimum(policy.minimum_addresses, view.now))


def _position(interface: InterfaceView) -> tuple[int, int, str]:
    at = interface.attachment
    return (at.network_card, at.device_index, interface.id) if at else (0, 0, interface.id)


@lru_cache(maxsize=256)
def _router(subnet_cidr: str) -> str:
    """The VPC router answers on the subnet's first host address (VPC User Guide, "Subnet CIDR blocks")."""
    return str(ipaddress.ip_network(subnet_cidr)[1])


def _interface(shown: InterfaceView, subnet_cidr: str, assignments: tuple[Assignment, ...]) -> Interface:
    if shown.attachment is None:
        raise ValueError(f"{shown.id}: only attached interfaces go into the record")
    return Interface(
        id=shown.id,
        mac=shown.mac.lower(),
        device_index=shown.attachment.device_index,
        network_card=shown.attachment.network_card,
        subnet_id=shown.subnet_id,
        subnet_cidr=subnet_cidr,
        gateway=_router(subnet_cidr),
        primary_address=shown.primary_address,
        assignments=assignments,
    )


def _assignments(
    view: NodeView,
    shown: InterfaceView,
    known: Mapping[tuple[str, str], Assignment],
    marked: dict[str, int],
    revision: int,
) -> tuple[Assignment, ...]:
    found: list[Assignment] = []
    for cidr in shown.blocks:
        if (shown.id, cidr) in view.leaving:
            continue
        old = known.get((shown.id, cidr))
        if old is None:
            # unique among all of the node's assignments, since a revision is never used twice
            found.append(Assignment(cidr=cidr, id=f"{revision}:{cidr}"))
        else:
            found.append(replace(old, releasing=_releasing(old, shown.mac.lower(), view.report, marked)))
    return tuple(found)


def _not_shown_any_more(view: NodeView, young: Sequence[Interface], marked: Mapping[str, int]) -> list[Interface]:
    """Listed interfaces that EC2 does not show, or shows attached to nothing: as before they were attached."""
    shown = {i.id for i in view.interfaces if i.attachment is not None}
    asked = {"", *(r.id for r in (view.report.requests if view.report else ()))}
    return [
        replace(
            i,
            assignments=tuple(
                replace(a, releasing=_releasing(a, i.mac, view.report, marked))
                for a in i.assignments
                if (i.id, a.cidr) not in view.leaving
            ),
        )
        for i in young
        if i.id not in shown and i.pod in asked
    ]


def _ipv6(shown: InterfaceView, known: Mapping[tuple[str, str], Assignment], revision: int) -> tuple[Assignment, ...]:
    blocks = sorted(shown.ipv6_prefixes)
    return tuple(known.get((shown.id, b)) or Assignment(cidr=b, id=f"{revision}:{b}") for b in blocks)


def _releasing(a: Assignment, mac: str, report: Report | None, marked: Mapping[str, int]) -> bool:
    """Two-phase release, first phase: mark what is surrendered; unmark what an acknowledging report lists no more."""
    if report is None:
        return a.releasing
    if any((s.mac, s.cidr, s.assignment) == (mac, a.cidr, a.id) for s in report.surrendered):
        return True
    taken_back = report.acknowledged_revision >= marked.get(a.id, 0)
    return a.releasing and not taken_back
