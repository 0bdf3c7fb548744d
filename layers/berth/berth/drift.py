"""Finds the nodes behind changes that others made to interfaces by hand, and asks for looks. It changes nothing.

CloudTrail tells of such calls where there is a trail; without one the sweep finds what they changed, a little later. A
batch costs a few describes, whatever its size, and the table is read only for interfaces that are gone: then nothing
but the record that lists one says whose it was. So it is with Elastic IP addresses that were taken off: a call names an
association that is over, and the claim says which pod's node it was at.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from berth.absent import NoPublics, Unlimited
from berth.budget import Budget, OutOfTokensError, paying
from berth.chunks import chunks
from berth.drift_records import LISTING_IDS
from berth.ec2_wire import Ec2Error, Trouble, ec2_name
from berth.events.network_interface_call import InterfaceCall
from berth.looks import Looks
from berth.model import Instance, InterfaceView, PublicAddress
from berth.policy import cluster_of
from berth.settings import Settings
from berth.survey import Page, every

__all__ = ["DriftEdges", "DriftRecords", "DriftSurvey", "find_drift"]

T = TypeVar("T")
_INTERFACES: Final = "DescribeNetworkInterfaces"
_INSTANCES: Final = "DescribeInstances"
_OF_ADDRESSES: Final = frozenset({"AssociateAddress", "DisassociateAddress"})


class DriftSurvey(Protocol):
    """What is read of EC2, at most :data:`~berth.survey.PAGE_IDS` ids at a time; each method is one call."""

    def instances_among(self, ids: Sequence[str], token: str) -> Page[Instance]:
        """Those of ``ids`` that EC2 shows."""

    def interfaces_among(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        """Those of ``ids`` (interface ids) that EC2 shows."""

    def interfaces_by_attachment(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        """Those that one of these attachments holds, still or again."""

    def unattached(self, token: str) -> Page[InterfaceView]:
        """Interfaces tagged for some node and attached to nothing."""


class DriftRecords(Protocol):
    """What is read of the table."""

    def listing(self, interface_ids: Sequence[str], token: str) -> tuple[tuple[str, ...], str]:
        """ARNs of nodes on one page of the table whose records list one of these, and the next page's token."""


class DriftPublics(Protocol):
    """Elastic IP addresses: :class:`berth.public_store.Publics` as far as it is needed here."""

    def load(self) -> tuple[PublicAddress, ...]:
        """All that the stack may use and all that are claimed, as EC2 shows them; takes the tokens itself."""


@dataclass(frozen=True, slots=True)
class DriftEdges:
    survey: DriftSurvey
    records: DriftRecords
    looks: Looks
    settings: Settings
    publics: DriftPublics = field(default_factory=NoPublics)
    budget: Budget = field(default_factory=Unlimited)
    clock: Callable[[], float] = time.time


def find_drift(edges: DriftEdges, calls: Iterable[InterfaceCall]) -> Counter[str]:
    """Ask for a look at every node that one of ``calls`` may concern. Returns counts for metrics.

    Where the token budget has nothing to spare the batch is left to the sweep, which finds the same a little later:
    nobody's pod waits for it, and a storm of other people's calls comes just when tokens are short.

    Raises :class:`~berth.ec2_wire.Ec2Error`; nothing is lost then but time.
    """
    seen = list(calls)
    counts = Counter({"ChangesByOthers": len(seen), "NodesChangedByOthers": 0, "ChangesLeftToSweep": 0})
    try:
        nodes = _concerned(edges, seen)
    except OutOfTokensError:
        counts["ChangesLeftToSweep"] = len(seen)
        return counts
    except Ec2Error as error:
        if error.trouble is Trouble.THROTTLED:
            edges.budget.throttled(ec2_name(error.action), edges.clock())
        raise
    if nodes:
        edges.looks.ask(sorted(nodes), "an interface was changed by hand")
    counts["NodesChangedByOthers"] = len(nodes)
    return counts


def _concerned(edges: DriftEdges, seen: Sequence[InterfaceCall]) -> set[str]:
    """A detached interface is found by its tag: it is attached to nothing, and EC2 does not say any more to whom an
    attachment that is over belonged."""
    survey = edges.survey
    suspects = {i for call in seen for i in call.instances}
    named = {i for call in seen for i in call.interfaces}
    shown = list(_among(edges, _INTERFACES, survey.interfaces_among, named))
    attachments = {a for call in seen for a in call.attachments}
    shown += _among(edges, _INTERFACES, survey.interfaces_by_attachment, attachments)
    if any(call.action == "DetachNetworkInterface" for call in seen):
        shown += _pages(edges, _INTERFACES, survey.unattached)
    if any(call.action in _OF_ADDRESSES for call in seen):
        suspects |= _displaced(edges)
    suspects.update(o for i in shown for o in (i.node, i.attachment.instance_id if i.attachment else None) if o)
    instances = _among(edges, _INSTANCES, survey.instances_among, suspects)
    nodes = {i.id for i in instances if _is_node(i, edges.settings)}
    return nodes | _losers(edges, named - {i.id for i in shown})


def _displaced(edges: DriftEdges) -> set[str]:
    """Instances whose pods have claimed an Elastic IP address that EC2 does not show where it was claimed for."""
    claimed = [p for p in edges.publics.load() if p.claimed_by]
    return {p.claimed_by for p in claimed if not p.association_id or p.private_address != p.claimed_for}


def _is_node(instance: Instance, settings: Settings) -> bool:
    return cluster_of(dict(instance.tags), settings.clusters) is not None


def _losers(edges: DriftEdges, gone: set[str]) -> set[str]:
    """Nodes whose records list interfaces that EC2 shows no longer."""
    found: set[str] = set()
    for ids in chunks(sorted(gone), LISTING_IDS):
        token = ""
        while True:
            arns, token = edges.records.listing(ids, token)
            found.update(arn.rpartition("/")[2] for arn in arns)
            if not token:
                break
    return found


def _among(
    edges: DriftEdges, action: str, method: Callable[[Sequence[str], str], Page[T]], ids: set[str]
) -> Iterator[T]:
    for chunk in chunks(sorted(ids)):
        yield from _pages(edges, action, lambda token, those=chunk: method(those, token))  # type: ignore[misc]


def _pages(edges: DriftEdges, action: str, method: Callable[[str], Page[T]]) -> Iterator[T]:
    pay = paying(edges.budget, edges.clock)

    def page(token: str) -> Page[T]:
        pay(action)
        return method(token)

    return every(page)
