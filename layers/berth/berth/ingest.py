"""Takes in a node's report.

Identity is the message's SQS ``SenderId`` (``ROLEID:i-…``), which SQS fills in, never the body. The queue's policy
refuses senders whose credentials were not made by an EC2 instance, since whoever calls AssumeRole may choose the part
after the colon.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from berth.absent import NoLedger
from berth.calls import GROWING_ACTIONS
from berth.contract import (
    HOLD_SECONDS,
    ContractError,
    PodRequest,
    Policy,
    Record,
    Report,
    Told,
    address_count,
    decode_report,
)
from berth.events import Signal
from berth.leases import Kept, Telling, is_of_an_earlier_life, keep, told_until
from berth.ledger import Ledger
from berth.node_items import Heard
from berth.records import lent_from
from berth.store import NodeState, Store
from berth.unmet import asks_anew

__all__ = [
    "MAX_REPORT_BYTES",
    "Intake",
    "ReportRefusedError",
    "SentReport",
    "believe",
    "ingest",
    "needs_look",
    "read_report",
]

MAX_REPORT_BYTES: Final = 262_144
"""Three times what the largest node has to say, and well below a DynamoDB item's 400 KB: one sender's message must not
be able to fail the others of its batch."""
_MAX_COUNTER: Final = 2**63 - 1  # DynamoDB's numbers have 38 digits
_ENDED_SECONDS: Final = 600.0
"""For so long after it has ended, requested capacity is worth a look: many reports, of which one will do."""
_SENDER: Final = re.compile(r"[A-Z0-9]{4,128}:(i-[0-9a-f]{8}(?:[0-9a-f]{9})?)")


class ReportRefusedError(ValueError):
    """A report that is not believed. Trying again cannot help."""


@dataclass(frozen=True, slots=True)
class SentReport:
    """A report and the instance that SQS says has sent it. ``sent_at`` is SQS's, in Unix seconds, for metrics alone."""

    instance_id: str
    report: Report
    sent_at: float = 0.0


def read_report(sender: str, body: str) -> SentReport:
    """Read one message. Raises :class:`ReportRefusedError`."""
    if len(body.encode("utf-8", "surrogatepass")) > MAX_REPORT_BYTES:
        raise ReportRefusedError(f"{sender!r:.80}: a report of more than {MAX_REPORT_BYTES} bytes")
    match = _SENDER.fullmatch(sender)
    if match is None:
        raise ReportRefusedError(f"sender {sender!r:.80} is no instance: expected ROLEID:i-… from instance credentials")
    try:
        report = decode_report(body)
    except ContractError as error:
        raise ReportRefusedError(f"{match[1]}: {error}") from None
    if max(report.order.boot, report.order.sequence) > _MAX_COUNTER:
        raise ReportRefusedError(f"{match[1]}: report.order: expected at most {_MAX_COUNTER}")
    return SentReport(match[1], report)


@dataclass(frozen=True, slots=True)
class Intake:
    """What came of a batch of reports: nodes to look at, and why some reports were refused or too old.

    ``quiet`` reports were kept and ask for nothing. ``leases`` is what came of what they told for the ledger.
    """

    signals: tuple[Signal, ...] = ()
    refused: tuple[str, ...] = ()
    older: tuple[str, ...] = ()
    quiet: int = 0
    leases: Kept = field(default_factory=Kept)

    @property
    def counts(self) -> dict[str, int]:
        """For metrics."""
        return {
            "ReportsQuiet": self.quiet,
            "ReportsRefused": len(self.refused),
            "ReportsOlder": len(self.older),
            "LeasesWritten": self.leases.written,
            "LeasesRefused": self.leases.refused,
            "LedgerErrors": int(bool(self.leases.failed)),
        }


def ingest(
    store: Store, arns: Mapping[str, str], reports: Sequence[SentReport], ledger: Ledger | None = None
) -> Intake:
    """Keep what is new. ``arns`` maps the senders' instance ids to ARNs.

    A sender without a record is no node of ours, or one that nobody has looked at yet: its report is refused, and it is
    looked at. If it is a node, its next report finds a record. A node whose report asks for nothing is not looked at
    (:func:`needs_look`): thousands of nodes report twice a minute, and each look costs describes.

    Leases count of older reports too. They are in the ledger before the report that tells them is kept, and with it the
    acknowledgement: killed in between, they come again and are the same.
    """
    known = store.load(sorted({arns[r.instance_id] for r in reports})) if reports else {}
    signals: dict[str, Signal] = {}
    refused: list[str] = []
    older: list[str] = []
    quiet = 0
    tellings = [Telling(r.instance_id, r.report, known[arns[r.instance_id]], r.sent_at) for r in reports]
    kept = keep(ledger or NoLedger(), [t for t in tellings if t.state.record is not None])
    lasts = {instance_id: known[arn].report for instance_id, arn in arns.items() if arn in known}
    for sent in sorted(reports, key=lambda r: (r.instance_id, r.report.order)):
        state = known[arns[sent.instance_id]]
        late = is_of_an_earlier_life(sent.report, lasts.get(sent.instance_id))
        if state.record is None or state.buried:
            refused.append(f"{sent.instance_id}: no record says that it is a node of ours")
            signals.setdefault(sent.instance_id, Signal(sent.instance_id, "report without a record", reports=True))
        elif not late and store.accept_report(arns[sent.instance_id], *_noted(sent, state, kept)):
            lasts[sent.instance_id] = sent.report
            if not needs_look(sent.report, state, sent.sent_at):
                quiet += 1
                continue
            order = sent.report.order
            signals[sent.instance_id] = Signal(
                sent.instance_id,
                f"report ({order.boot}, {order.sequence})",
                at=sent.sent_at,
                boot=not needs_look(sent.report, _with_boot(state, sent.report), sent.sent_at),
            )
        else:
            if state.report is not None and needs_look(state.report, state):
                # it may have come again because a function died, and the last report's look with it
                signals.setdefault(sent.instance_id, Signal(sent.instance_id, "the last report still asks"))
            order = sent.report.order
            older.append(f"{sent.instance_id}: report ({order.boot}, {order.sequence}) is older than the last")
    return Intake(tuple(signals.values()), tuple(refused), tuple(older), quiet, kept)


def _noted(sent: SentReport, state: NodeState, kept: Kept) -> tuple[Report, Heard]:
    """The report as it is kept, and what is noted beside it.

    What once was told in full stays so: a report with a backlog says less than one before it. Of one whose leases are
    not in the ledger nothing is acknowledged, and nothing taken back: leases are believed of what the record lists.
    After :data:`HOLD_SECONDS` of that it is: addresses matter more than a full ledger. It stays of the last report's
    epoch too: the next one is to close that, since this one could not.
    """
    report, last = replace(sent.report, leases=()), state.report
    known = last.leases_until if last is not None and last.epoch == report.epoch else 0.0
    if sent.instance_id in kept.failed:
        if last is not None and last.epoch and last.epoch != report.epoch:
            names = ("epoch", "epoch_since", "leases_told", "leases_until")
            report = replace(report, **{name: getattr(last, name) for name in names})
        else:
            report = replace(report, leases_until=known)
        since = state.heard.failing_since or sent.sent_at
        if sent.sent_at - since < HOLD_SECONDS:
            report = replace(report, surrendered=())
        return report, Heard(sent.sent_at, state.heard.told, since)
    report = replace(report, leases_until=max(told_until(report, sent.sent_at), known))
    return report, Heard(sent.sent_at, Told(report.epoch, report.leases_told))


def needs_look(report: Report, state: NodeState, now: float = 0.0) -> bool:
    """Whether ``report``, sent at ``now``, says anything that a look at its node could act upon. Pure.

    By the table alone, without EC2: addresses are missing, or were told to be; a release or any other call is under
    way; a launch hook or an unwanted interface waits; requested capacity has just ended; or the agent's boot is new,
    which the record has to say. What EC2 and the record disagree about is for events and the sweep to find. In doubt it
    is true: a look costs describes and nothing else.

    What pods ask for and cannot have is looked for ever less often (:mod:`berth.unmet`).

    A node that lacks addresses and holds a slot for them is looked at when it comes up; before that there is no token
    for what it lacks. A slot for anything else, or one that its addresses have come without, says nothing about those.
    """
    record, notes = state.record, state.notes
    if record is not None and now and _has_its_turn(state, now) and not _asks_beside_tokens(report, state):
        return False
    if record is None or report.order.boot > record.accepted.boot:
        return True
    if report.waiting or report.surrendered or notes.unmet or notes.wanted_since or notes.hook_name or notes.unwanted:
        return True
    if 0 < notes.requested <= record.policy.minimum_addresses and 0 <= now - notes.requested_until < _ENDED_SECONDS:
        return True
    if any(i.outcome is None for i in state.intents):
        return True  # a function was killed: the message that it died of may be an older report, which starts no look
    if asks_anew(report, record, notes.unmet_requests, now) or state.publics != {
        g.allocation_id for g in record.grants if g.allocation_id
    }:
        return True
    if any(a.releasing for i in record.interfaces for a in i.assignments) or _lacks_ipv6(record):
        return True
    blocks, unusable = lent_from(record), {*report.unusable}
    supply = sum(address_count(a.cidr) for a in blocks if a.cidr not in unusable) - report.cooling
    assigned = sum(address_count(a.cidr) for a in blocks)
    warm, minimum = _kept_ready(record.policy)
    return min(record.policy.max_pods, report.in_use + warm) > supply or min(record.policy.max_pods, minimum) > assigned


def _with_boot(state: NodeState, report: Report) -> NodeState:
    """``state`` as if the record said already which boot ``report`` is of."""
    return replace(state, record=replace(state.record, accepted=report.order)) if state.record else state


def _lacks_ipv6(record: Record) -> bool:
    """Its policy has IPv6 and it has no prefix: the subnet had none to give when it asked."""
    return record.policy.ip_families != "ipv4" and not any(i.ipv6_assignments for i in record.interfaces)


def _has_its_turn(state: NodeState, now: float) -> bool:
    ahead = {s.action for s in state.slots if s.at > now}
    return state.notes.wanted_since > 0 and not ahead.isdisjoint(GROWING_ACTIONS)


def _asks_beside_tokens(report: Report, state: NodeState) -> bool:
    return bool(report.surrendered or state.notes.hook_name or any(i.outcome is None for i in state.intents))


def _kept_ready(policy: Policy) -> tuple[int, int]:
    """(warm, minimum) of IPv4 addresses. Where IPv6 serves the pods, one is kept (docs/decisions/0003, 0005)."""
    return (0, 1) if policy.ip_families == "ipv6" else (policy.warm_addresses, max(policy.minimum_addresses, 1))


_MOST_OWN: Final = 64
"""Requests for interfaces that are believed of one node. More than the pods of any type can have."""


def believe(report: Report | None, record: Record | None) -> Report | None:
    """What of ``report`` concerns what its own sender's ``record`` lists; the rest is left out.

    Surrenders must name the interface's MAC, the block and this very assignment, so a stale or invented one matches
    nothing. Counts above what the record holds would only ask for more than max-pods, which the planner clamps;
    ``cooling`` is clamped here, as it would lower the supply without bound.
    """
    if report is None:
        return None
    interfaces = record.interfaces if record else ()
    listed = {(i.mac, a.cidr, a.id) for i in interfaces for a in i.assignments}
    blocks = {cidr for _, cidr, _ in listed}
    assigned = sum(map(address_count, blocks))
    surrendered = {(s.mac, s.cidr, s.assignment): s for s in report.surrendered}
    return replace(
        report,
        surrendered=tuple(s for key, s in sorted(surrendered.items()) if key in listed),
        unusable=tuple(sorted(set(report.unusable) & blocks)),
        waiting=tuple(sorted(set(report.waiting))),
        cooling=min(report.cooling, assigned),
        in_use=min(report.in_use, assigned),
        requests=_believed(report.requests, record),
        singles_taken=min(report.singles_taken, sum(cidr.endswith("/32") for cidr in blocks)),
    )


def _believed(requests: Sequence[PodRequest], record: Record | None) -> tuple[PodRequest, ...]:
    """Requests with addresses that the record lists, one for each. Of those for public addresses alone no more than the
    node may have pods; one whose interface the record lists is believed in any case: nobody may take that of a pod that
    is there. Others for interfaces have a bound of their own.

    One with another address is still made, since its pod may only be ahead of a record that was lost.
    """
    interfaces = record.interfaces if record else ()
    listed = {a.cidr.removesuffix("/32") for i in interfaces for a in i.assignments if a.cidr.endswith("/32")}
    listed |= {i.primary_address for i in interfaces if i.pod}
    found: dict[str, PodRequest] = {}
    for r in sorted(requests, key=lambda r: r.id):
        found.setdefault(r.id, r if r.address in listed else replace(r, address=""))
        listed.discard(r.address)
    # with neither, an agent knows no more what its pod asked for
    own = _own([r for r in found.values() if r.groups or not r.public], {i.pod for i in interfaces if i.pod})
    most = record.policy.max_pods if record else len(found)
    return (*own, *[r for r in found.values() if r.public and not r.groups][:most])


def _own(requests: Sequence[PodRequest], there: set[str]) -> tuple[PodRequest, ...]:
    """Those whose interface is ``there``, and others up to the bound, in their order."""
    new = {r.id for r in [r for r in requests if r.id not in there][: max(_MOST_OWN - len(there), 0)]}
    return tuple(r for r in requests if r.id in there or r.id in new)
