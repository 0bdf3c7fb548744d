"""Brings one node to where its plan says it should be: plan, make the first call, note the outcome, plan again.

Each call needs a token of its action's bucket. One whose token is for later is left out, and the others go on; then the
node is looked at again at that time. Calls that the kill switch forbids are left out too.

Killed between any two steps, the next look finishes the work:

* before each call its intent is stored, so that a CreateNetworkInterface is repeated with the same ClientToken;
* a block leaves the record before it is unassigned, and a block that left but is still there is unassigned;
* everything else is planned again from what EC2 shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from berth.brake import Level
from berth.bus import Event, interface_reclaimed
from berth.calls import (
    AssociatePublic,
    Attach,
    Call,
    ClaimPublic,
    ClaimStandby,
    CreateInterface,
    DeleteInterface,
    Detach,
    DisassociatePublic,
    SetGroups,
    TagForNode,
    Unassign,
    UnclaimPublic,
    action_of,
)
from berth.claims import claim, end_claim
from berth.contract import Record
from berth.ec2_errors import brief
from berth.ec2_wire import Ec2Error, Trouble
from berth.edges import Edges
from berth.gate import Gate
from berth.model import Intent, NodeView, Outcome
from berth.overlay import apply, listed_blocks, overlay_view
from berth.plan import Plan
from berth.public_claims import write_claim
from berth.publics import apply_public
from berth.purse import Purse, priority_of
from berth.setbacks import PUBLIC_TROUBLES, set_back, without_public
from berth.store import NodeState
from berth.unfinished import answered, assigns, may_have_made, take_up, unanswered, without_earlier

__all__ = ["SPARE_SECONDS", "Convergence"]

_STEPS = 200
SPARE_SECONDS = 15.0
"""Time that a call and the writes after it may take; none is begun with less left."""


@dataclass(slots=True)
class Convergence:
    """One node's run. ``planner`` gives the plan for a view, ``recorder`` what :func:`berth.records.next_record` does;
    ``keeps_record``: it is written. ``deadline`` is Unix time.

    After :meth:`run`, ``view`` is what the node has come to, ``again`` says why it must be looked at again ("" if it
    need not) and ``due`` when (Unix time; 0 if nobody can tell; ``restless``: something else than a token is waited for
    too), and ``events`` are to be sent. ``planned`` is the first plan and ``made`` each call with its outcome.
    """

    edges: Edges
    view: NodeView
    state: NodeState
    planner: Callable[[NodeView], Plan]
    recorder: Callable[[NodeView], tuple[Record, tuple[tuple[str, int], ...]]]
    deadline: float
    keeps_record: bool = True
    level: Level = Level.NORMAL
    again: str = ""
    due: float = 0.0
    restless: bool = False
    events: list[Event] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    intents: list[Intent] = field(default_factory=list)
    planned: tuple[Call, ...] | None = None
    made: list[str] = field(default_factory=list)
    purse: Purse = field(init=False)
    gate: Gate = field(init=False)

    def __post_init__(self) -> None:
        self.purse = Purse(self.edges.budget, self.edges.meters, self.edges.clock)
        self.purse.fill(self.state.slots)
        self.gate = Gate(self.purse, self.level)

    def run(self) -> Plan:
        """Work until the plan is empty, time is up or EC2 wants to be left alone. Returns the last plan.

        Raises :class:`Ec2Error` for what only a person can put right (permissions, a wrong request).
        """
        listed = listed_blocks(self.state.record)
        self.view = overlay_view(self.view, self.state.intents, self.state.record, listed)
        self._take_up(listed)
        try:
            return self._work()
        finally:
            if self.purse.kept() != self.purse.stored:
                self._save_intents()
            self._say_what_waits()

    def _work(self) -> Plan:
        self._resume()
        for _ in range(_STEPS):
            self._sync_record()
            plan = self.planner(self.view)
            self.planned = plan.calls if self.planned is None else self.planned
            if not plan.calls or self.again or self._time_is_up():
                return plan
            call = self.gate.possible(plan.calls, self.view)
            if call is None:
                return plan
            self._make(call)
        raise RuntimeError(f"{self.view.instance.arn}: no end after {_STEPS} calls; this is a defect in the planner")

    @property
    def unborn(self) -> str:
        """Why a dead node must be waited for: once it is buried nobody would expect an interface. Else ""."""
        unborn = any(isinstance(i.call, CreateInterface) for i in unanswered(self.intents))
        return "an interface may still come of a call that was not answered" if unborn else ""

    def _say_what_waits(self) -> None:
        """Be looked at again when the first of the tokens is there, or when the brake may have been let go."""
        reasons = [self.again] if self.again else []
        self.restless = bool(reasons or self.gate.held)
        self.due = self.gate.due()
        self.again = "; ".join([*reasons, *self.gate.account(self.counts)])

    # ------------------------------------------------------------------------------------------- intents

    def _save_intents(self) -> None:
        self._hurry("what it meant to do is not noted")
        self.purse.stored = self.purse.kept()
        self.edges.store.save_intents(self.view.instance.arn, self.intents, self.purse.stored)

    def _hurry(self, what: str) -> None:
        """Raise TimeoutError if the function was held up past its deadline: somebody else may soon hold the lease."""
        if self.edges.clock() > self.deadline:
            raise TimeoutError(f"{self.view.instance.id}: held up past the function's deadline; {what}")

    def _time_is_up(self) -> bool:
        if self.edges.clock() > self.deadline - SPARE_SECONDS:
            self.again = "the function's time is up"
        return bool(self.again)

    def _take_up(self, listed: frozenset[tuple[str, str]]) -> None:
        """Keep the intents that still say something EC2 does not show. ``listed`` is what the record lists."""
        self.intents = take_up(self.state.intents, self.view, listed)
        doubtful = {i.call.interface_id for i in unanswered(self.intents) if assigns(i.call)}
        back = self.view.setbacks
        tried = (i.call for i in unanswered(self.intents))
        unsure = frozenset(call.allocation_id for call in tried if isinstance(call, AssociatePublic))
        self.view = replace(self.view, setbacks=replace(back, refused=back.refused | doubtful, unsure=unsure))
        if unanswered(self.intents) != unanswered(self.state.intents):
            # an unfinished release that is over must not be found again when its block is back in use
            self._save_intents()

    def _resume(self) -> None:
        """Finish creations whose outcome nobody noted: the same token and parameters give the same interface."""
        noted = {i.outcome.interface.id for i in self.intents if i.outcome and i.outcome.interface}
        for intent in [i for i in unanswered(self.intents) if isinstance(i.call, CreateInterface)]:
            visible = (i for i in self.view.ours if may_have_made(intent, i) and i.id not in noted)
            found = next(visible, None)
            if found is not None:
                noted.add(found.id)
                self.intents.remove(intent)
            elif not self.view.instance.dead and not self._time_is_up():
                self._repeat(intent)

    def _repeat(self, intent: Intent) -> None:
        if self.gate.possible([intent.call], self.view) is None:
            self.gate.not_repeated()
            # another creation would be one too many: this one may have been done
            self.view = replace(self.view, setbacks=replace(self.view.setbacks, no_create=True))
            return
        self.counts["CallsRepeated"] += 1
        self.purse.spend(action_of(intent.call))
        self._send(intent)

    def _make(self, call: Call) -> None:
        if isinstance(call, ClaimStandby):
            self.view, won = claim(self.edges, self.view, call.interface_id)
            self.counts["StandbyClaimed" if won else "StandbyRacesLost"] += 1
            self.made.append(f"{call}: {'done' if won else 'somebody else has it'}")
            return
        if isinstance(call, ClaimPublic | UnclaimPublic):
            self.view, won = write_claim(self.edges, self.view, call)
            self.counts[type(call).__name__ if won else "PublicRacesLost"] += 1
            self.made.append(f"{call}: {'done' if won else 'somebody else has it'}")
            return
        intent = Intent(token=self.edges.token(), call=call, at=self.edges.clock())
        self.intents = [*without_earlier(self.intents, call), intent]
        self.purse.spend(action_of(call))
        self._save_intents()
        if isinstance(call, Unassign):
            going = {(call.interface_id, b) for b in call.blocks}
            self.view = replace(self.view, leaving=self.view.leaving | going)
            self._sync_record()
        if isinstance(call, Detach) and not self.view.instance.dead:
            # as for blocks: what the interface holds leaves the record before the interface leaves the node
            self.view = replace(
                self.view, interfaces=apply(self.view.interfaces, call, Outcome(), self.view.instance.id)
            )
            self._sync_record()
        self._send(intent)

    def _send(self, intent: Intent) -> None:
        """The one place where a mutating call is made."""
        call, name = intent.call, type(intent.call).__name__
        self._hurry(f"{call} is not made")
        try:
            outcome = self.edges.ec2.mutate(intent, self.view.instance.id, self.view.cluster)
        except Ec2Error as error:
            self.counts[f"{name}Failed"] += 1
            self.made.append(f"{call}: {error}")
            taken = Detach | DeleteInterface | Unassign | DisassociatePublic
            settled = error.trouble is Trouble.GONE and isinstance(call, taken)
            if error.trouble is Trouble.GONE and isinstance(call, Attach | TagForNode):
                self.view = end_claim(self.edges, self.view, call.interface_id)
            if not settled:
                self._setback(intent, error)
                return
            outcome = Outcome()  # it is not there any more: just what was wanted
        else:
            self.counts[name] += 1
            self.made.append(f"{call}: {outcome.brief}")
            if isinstance(call, DeleteInterface):
                reason = "the instance is gone" if self.view.instance.dead else "nobody wants it"
                self.counts["InterfacesReclaimed"] += 1
                self.events.append(interface_reclaimed(self.view.instance.id, call.interface_id, reason))
        self._done(intent, outcome)

    def _done(self, intent: Intent, outcome: Outcome) -> None:
        call = intent.call
        self.intents, gone = answered(self.intents, intent, outcome, self.edges.clock(), self.view.leaving)
        self._save_intents()
        if isinstance(call, DeleteInterface):
            self.view = end_claim(self.edges, self.view, call.interface_id)
        if isinstance(call, TagForNode):
            # settled when EC2 shows the tag: until then no describe of ours need show the interface
            done = frozenset({call.interface_id})
            self.view = replace(self.view, claimed=self.view.claimed - done, settling=self.view.settling | done)
        if isinstance(call, AssociatePublic | DisassociatePublic) and self.view.publics is not None:
            publics = apply_public(self.view.publics, call, outcome, self.view.instance.id)
            unsure = self.view.setbacks.unsure - {call.allocation_id}
            self.view = replace(self.view, publics=publics, setbacks=replace(self.view.setbacks, unsure=unsure))
        interfaces = apply(self.view.interfaces, call, outcome, self.view.instance.id)
        self.view = replace(self.view, interfaces=interfaces, leaving=self.view.leaving - gone)

    # ------------------------------------------------------------------------------------------- refusals

    def _setback(self, intent: Intent, error: Ec2Error) -> None:
        """Remember what EC2 refused, so that the next plan goes around it."""
        call = intent.call
        keep = error.trouble is Trouble.IN_DOUBT or isinstance(call, Unassign)
        if not keep:
            self.intents.remove(intent)
            self._save_intents()
        if isinstance(call, AssociatePublic | DisassociatePublic) and error.trouble in PUBLIC_TROUBLES:
            self.view = replace(self.view, setbacks=without_public(self.view, call, brief(error)))
            return
        match error.trouble:
            case Trouble.REFUSED if not self._is_of_one_pod(call):
                raise error
            case Trouble.THROTTLED:
                self.purse.throttled(action_of(call), priority_of(call, self.view))
            case Trouble.IN_DOUBT:
                self.again = f"EC2: {error.code}"
            case _:
                back, counted = set_back(self.view, call, error.trouble, str(error.code))
                self.view = replace(self.view, setbacks=back)
                self.counts.update([counted] if counted else ())

    def _is_of_one_pod(self, call: Call) -> bool:
        """What is wrong with a pod's own interface must not keep the node's other pods waiting."""
        if isinstance(call, CreateInterface):
            return bool(call.pod)
        return isinstance(call, SetGroups) and any(i.id == call.interface_id and i.pod for i in self.view.ours)

    # ------------------------------------------------------------------------------------------- the record

    def _sync_record(self) -> None:
        """Write the record if anything the node acts upon has changed."""
        if not self.keeps_record:
            return
        record, marked = self.next_record()
        if self.view.record is None or record.revision != self.view.record.revision:
            self._hurry("the record is not written")
            notes = self.view.notes
            if listed_blocks(record) - listed_blocks(self.view.record):
                notes = replace(notes, listed_at=self.edges.clock())
            self.edges.store.save(self.view.instance.arn, record, marked, notes)
            self.view = replace(self.view, record=record, marked=marked, notes=notes)
            self.counts["RecordsWritten"] += 1

    def next_record(self) -> tuple[Record, tuple[tuple[str, int], ...]]:
        """The record that the view calls for now."""
        return self.recorder(self.view)
