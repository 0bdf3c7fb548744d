"""Brings one node to where its plan says it should be: plan, make the first call, note the outcome, plan again.

Killed between any two steps, the next look finishes the work:

* before each call its intent is stored, so that a CreateNetworkInterface is repeated with the same ClientToken;
* a block leaves the record before it is unassigned, and a block that left but is still there is unassigned;
* everything else is planned again from what EC2 shows.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from berth.bus import Event, interface_reclaimed
from berth.calls import (
    AssignAddresses,
    AssignPrefixes,
    Attach,
    Call,
    CreateInterface,
    DeleteInterface,
    Detach,
    Unassign,
)
from berth.contract import Policy, Record
from berth.ec2_wire import Ec2Error, Trouble
from berth.edges import Edges
from berth.model import Intent, InterfaceView, NodeView, Outcome, Setbacks
from berth.overlay import OVERLAY_SECONDS, apply, fresh_blocks, overlay
from berth.plan import Plan
from berth.records import next_record
from berth.store import NodeState

__all__ = ["REPLAY_SECONDS", "Convergence", "leaving_blocks"]

logger = logging.getLogger(__name__)

REPLAY_SECONDS = 600
"""After this long an interface that was made is certain to be described, so its creation is not repeated."""

_STEPS = 200
_SPARE_SECONDS = 15.0
"""Time that a call and the writes after it may take; none is begun with less left."""


def leaving_blocks(state: NodeState, interfaces: tuple[InterfaceView, ...]) -> frozenset[tuple[str, str]]:
    """(interface, block) pairs that left the record to be unassigned and that EC2 still shows."""
    listed = {(i.id, a.cidr) for i in state.record.interfaces for a in i.assignments} if state.record else set()
    shown = {(i.id, b) for i in interfaces for b in i.blocks}
    begun = {
        (intent.call.interface_id, block)
        for intent in state.intents
        if isinstance(intent.call, Unassign) and intent.outcome is None
        for block in intent.call.blocks
    }
    return frozenset((begun & shown) - listed)


@dataclass(slots=True)
class Convergence:
    """One node's run. ``planner`` gives the plan for a view; ``deadline`` is Unix time.

    After :meth:`run`, ``view`` is what the node has come to, ``again`` says why it must be looked at again ("" if it
    need not), and ``events`` are to be sent.
    """

    edges: Edges
    view: NodeView
    state: NodeState
    planner: Callable[[NodeView], Plan]
    policy: Policy
    subnet_cidrs: dict[str, str]
    no_snat_cidrs: tuple[str, ...]
    deadline: float
    keeps_record: bool = True
    again: str = ""
    events: list[Event] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    intents: list[Intent] = field(default_factory=list)

    def run(self) -> Plan:
        """Work until the plan is empty, time is up or EC2 wants to be left alone. Returns the last plan.

        Raises :class:`Ec2Error` for what only a person can put right (permissions, a wrong request).
        """
        arn, now = self.view.instance.arn, self.edges.clock()
        known = self.state.intents
        if self.view.instance.dead:
            # what was created a moment ago may not be described yet, and EC2 may have deleted it already: asking for
            # its deletion tells. Whether it is attached is EC2's to say.
            known = tuple(i for i in known if isinstance(i.call, CreateInterface | Detach | DeleteInterface))
        shown = overlay(self.view.interfaces, known, self.view.instance.id, now)
        self.view = replace(self.view, interfaces=shown, leaving=leaving_blocks(self.state, shown), now=now)
        if self.view.report is not None:
            unusable = set(self.view.report.unusable) - fresh_blocks(shown, self.state.intents, now)
            self.view = replace(self.view, report=replace(self.view.report, unusable=tuple(sorted(unusable))))
        self.intents = [i for i in self.state.intents if self._is_current(i)]
        self._resume()
        for _ in range(_STEPS):
            self._sync_record()
            plan = self.planner(self.view)
            if not plan.calls or self.again:
                return plan
            if self.edges.clock() > self.deadline - _SPARE_SECONDS:
                self.again = "the function's time is up"
                return plan
            self._make(plan.calls[0])
        raise RuntimeError(f"{arn}: no end after {_STEPS} calls; this is a defect in the planner")

    # ------------------------------------------------------------------------------------------- intents

    def _is_current(self, intent: Intent) -> bool:
        """Whether an intent still says something that EC2 does not."""
        if intent.outcome is not None:
            return self.view.now - intent.done_at < OVERLAY_SECONDS
        if isinstance(intent.call, CreateInterface):
            return self.view.now - intent.at < REPLAY_SECONDS and not self.view.instance.dead
        if isinstance(intent.call, Unassign):
            return any((intent.call.interface_id, b) in self.view.leaving for b in intent.call.blocks)
        return False

    def _resume(self) -> None:
        """Finish creations whose outcome nobody noted: the same token and parameters give the same interface."""
        for intent in [i for i in self.intents if isinstance(i.call, CreateInterface) and i.outcome is None]:
            visible = any(i.created_at == float(int(intent.at)) for i in self.view.ours)
            if visible:
                self.intents.remove(intent)
            elif not self.again:
                self.counts["CallsRepeated"] += 1
                self._send(intent)

    def _make(self, call: Call) -> None:
        intent = Intent(token=self.edges.token(), call=call, at=self.edges.clock())
        if isinstance(call, Unassign):
            # an earlier, unfinished intent for the same blocks is replaced, not kept beside this one
            self.intents = [i for i in self.intents if i.outcome is not None or not _same_blocks(i, call)]
        self.intents.append(intent)
        self.edges.store.save_intents(self.view.instance.arn, self.intents)
        if isinstance(call, Unassign):
            gone = {(call.interface_id, b) for b in call.blocks}
            self.view = replace(self.view, leaving=self.view.leaving | gone)
            self._sync_record()
        self._send(intent)

    def _send(self, intent: Intent) -> None:
        """The one place where a mutating call is made."""
        call, name = intent.call, type(intent.call).__name__
        try:
            outcome = self.edges.ec2.mutate(intent, self.view.instance.id, self.view.cluster)
        except Ec2Error as error:
            self.counts[f"{name}Failed"] += 1
            logger.info("EC2 refused", extra={"node": self.view.instance.id, "call": name, "error": str(error)})
            settled = error.trouble is Trouble.GONE and isinstance(call, Detach | DeleteInterface | Unassign)
            if not settled:
                self._setback(intent, error)
                return
            outcome = Outcome()  # it is not there any more: just what was wanted
        else:
            self.counts[name] += 1
            if isinstance(call, DeleteInterface):
                reason = "the instance is gone" if self.view.instance.dead else "nobody wants it"
                self.events.append(interface_reclaimed(self.view.instance.id, call.interface_id, reason))
        self._done(intent, outcome)

    def _done(self, intent: Intent, outcome: Outcome) -> None:
        call, now = intent.call, self.edges.clock()
        self.intents = [replace(i, outcome=outcome, done_at=now) if i is intent else i for i in self.intents]
        self.edges.store.save_intents(self.view.instance.arn, self.intents)
        interfaces = apply(self.view.interfaces, call, outcome, self.view.instance.id)
        gone = {(call.interface_id, b) for b in call.blocks} if isinstance(call, Unassign) else set()
        self.view = replace(self.view, interfaces=interfaces, leaving=self.view.leaving - gone, now=now)

    # ------------------------------------------------------------------------------------------- refusals

    def _setback(self, intent: Intent, error: Ec2Error) -> None:
        """Remember what EC2 refused, so that the next plan goes around it."""
        call = intent.call
        keep = error.trouble is Trouble.IN_DOUBT or isinstance(call, Unassign)
        if not keep:
            self.intents.remove(intent)
            self.edges.store.save_intents(self.view.instance.arn, self.intents)
        match error.trouble:
            case Trouble.REFUSED:
                raise error
            case Trouble.THROTTLED | Trouble.IN_DOUBT:
                self.again = f"EC2: {error.code}"
            case Trouble.FRAGMENTED | Trouble.EXHAUSTED:
                self._subnet_setback(call)
            case _:
                self._interface_setback(call, error.trouble)

    def _subnet_setback(self, call: Call) -> None:
        subnet = self._subnet_of(call)
        back = self.view.setbacks
        asked_prefixes = isinstance(call, AssignPrefixes) or (isinstance(call, CreateInterface) and call.prefixes > 0)
        if asked_prefixes and subnet not in back.fragmented:
            # also when no address is said to be free: a single one may be, outside the ranges reserved for prefixes
            back = replace(back, fragmented=back.fragmented | {subnet})
            self.counts["PrefixesUnavailable"] += 1
        else:
            back = replace(back, exhausted=back.exhausted | {subnet})
            self.counts["SubnetExhausted"] += 1
        self.view = replace(self.view, setbacks=back)

    def _interface_setback(self, call: Call, trouble: Trouble) -> None:
        back: Setbacks = self.view.setbacks
        if isinstance(call, CreateInterface):
            back = replace(back, no_create=True)
        elif isinstance(call, AssignPrefixes | AssignAddresses) and trouble is not Trouble.STATE:
            back = replace(back, full=back.full | {call.interface_id})
        else:
            back = replace(back, refused=back.refused | {call.interface_id})
        if isinstance(call, Attach) and trouble is Trouble.LIMIT:
            back = replace(back, no_create=True)
        self.view = replace(self.view, setbacks=back)

    def _subnet_of(self, call: Call) -> str:
        if isinstance(call, CreateInterface):
            return call.subnet_id
        return next((i.subnet_id for i in self.view.interfaces if i.id == call.interface_id), "")

    # ------------------------------------------------------------------------------------------- the record

    def _sync_record(self) -> None:
        """Write the record if anything the node acts upon has changed."""
        if not self.keeps_record:
            return
        record, marked = self.next_record()
        if self.view.record is None or record.revision != self.view.record.revision:
            self.edges.store.save(self.view.instance.arn, record, marked, self.view.notes)
            self.view = replace(self.view, record=record, marked=marked)
            self.counts["RecordsWritten"] += 1

    def next_record(self) -> tuple[Record, tuple[tuple[str, int], ...]]:
        """The record that the view calls for now."""
        return next_record(self.view, self.policy, self.subnet_cidrs, self.no_snat_cidrs)


def _same_blocks(intent: Intent, call: Unassign) -> bool:
    old = intent.call
    return isinstance(old, Unassign) and old.interface_id == call.interface_id and bool({*old.blocks} & {*call.blocks})
