"""What the looks at the nodes of one batch share: the edges, the time there is, what is to be counted and told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from berth.brake import Level
from berth.bus import Event, policy_invalid
from berth.contract import Record
from berth.converge import Convergence
from berth.decision import Recorder, Rules
from berth.ec2_wire import Network
from berth.edges import Edges
from berth.events import Signal
from berth.ingest import believe
from berth.looks import MAX_DELAY_SECONDS, backoff, delay_until, longest
from berth.model import Instance, InterfaceView, NodeView, Notes, PolicyProblem, PublicAddress
from berth.plan import Plan
from berth.pod_interfaces import grants
from berth.policy import fingerprint
from berth.public_claims import has_publics
from berth.records import next_record
from berth.settings import Settings
from berth.store import NodeState

__all__ = ["Visit"]

_TOLD_SECONDS: Final = 3600
_TOLD_MAX: Final = 1000
"""An instance without a record is told of once an hour by each execution environment, which remembers so many."""
_SKEW_SECONDS: Final = 2.0
"""Clocks of two Lambda hosts may differ: a look that is due this soon counts as due now."""


@dataclass(slots=True)
class Visit:
    """``deadline`` is Unix time; ``signals`` are why the nodes are looked at; ``ran`` is the present node's run.

    ``hooked`` are the nodes whose launch hook has been completed; ``claimed``, ``at`` and ``publics`` as in
    :class:`berth.world.World`.
    """

    edges: Edges
    deadline: float
    signals: Sequence[Signal] = ()
    counts: Counter[str] = field(default_factory=Counter)
    events: list[Event] = field(default_factory=list)
    hooked: set[str] = field(default_factory=set)
    ran: Convergence | None = None
    level: Level = Level.NORMAL
    claimed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    at: float = 0.0
    publics: tuple[PublicAddress, ...] | None = None

    def view(
        self, instance: Instance, cluster: str, interfaces: tuple[InterfaceView, ...], state: NodeState
    ) -> NodeView:
        return NodeView(
            instance=instance,
            cluster=cluster,
            interfaces=interfaces,
            record=state.record,
            marked=state.marked,
            report=believe(state.report, state.record),
            notes=state.notes,
            now=self.at,
            served=frozenset(self.edges.settings.clusters),
            claimed=self.claimed.get(instance.id, frozenset()),
            publics=self.publics if has_publics(instance.id, interfaces, state) else None,
        )

    def convergence(
        self,
        view: NodeView,
        state: NodeState,
        planner: Callable[[NodeView], Plan],
        network: Network | None = None,
        rules: Rules | None = None,
    ) -> Convergence:
        """Without ``network`` the record stays as it is. ``rules`` are what ``planner`` plans by, for the log and the
        record."""
        return Convergence(
            edges=self.edges,
            view=view,
            state=state,
            planner=Recorder(planner, rules),
            recorder=_recorder(self.edges.settings, view.instance.vpc_id, network or Network(), rules),
            deadline=self.deadline,
            keeps_record=network is not None,
            level=self.level,
        )

    def run(self, convergence: Convergence) -> Plan:
        """Bring the node to its plan; what it counted and has to tell is kept, however it ends."""
        self.ran = convergence
        try:
            return convergence.run()
        finally:
            self.counts.update(convergence.counts)
            self.events.extend(convergence.events)

    def look_again(
        self, instance_id: str, notes: Notes, reason: str, due: float = 0.0, *, restless: bool = True
    ) -> Notes:
        """Ask for another look, unless one is already on its way. Returns the notes that say so.

        ``due`` is when a token is there, if that is what is waited for; ``restless``: for something else too. A look
        that is noted for later than that does not stand in for this one.
        """
        if not reason:
            return replace(notes, next_look=0.0, looks=0)
        now, waits = self.edges.clock(), restless or not due
        latest = min(now + longest(self.edges.settings.delay, notes.looks) if waits else math.inf, due or math.inf)
        if now + _SKEW_SECONDS < notes.next_look <= latest + _SKEW_SECONDS:
            return notes
        delay = min(
            backoff(self.edges.settings.delay, notes.looks) if waits else MAX_DELAY_SECONDS,
            delay_until(due, now) if due else MAX_DELAY_SECONDS,
        )
        self.edges.looks.ask([instance_id], reason, delay, due=now + delay)
        return replace(notes, next_look=now + delay, looks=notes.looks + waits)

    def tell(self) -> None:
        """Send the events there are now, not at the end of the batch."""
        self.counts["EventsNotSent"] += self.edges.bus.send(self.events)
        self.events.clear()

    def tell_now_and_then(self, instance: Instance, problems: Sequence[PolicyProblem]) -> None:
        """Tell of an instance without a record to note it in: its agent's reports would have it told twice a minute."""
        now, told = self.edges.clock(), self.edges.told
        key = f"{instance.id} {fingerprint(problems)}"
        if now - told.get(key, 0.0) >= _TOLD_SECONDS:
            if len(told) >= _TOLD_MAX:
                told.clear()
            told[key] = now
            self.events.append(policy_invalid(instance.arn, instance.id, problems))


def _recorder(
    settings: Settings, vpc_id: str, network: Network, rules: Rules | None
) -> Callable[[NodeView], tuple[Record, tuple[tuple[str, int], ...]]]:
    """What :func:`berth.records.next_record` makes of a node in that VPC, which is planned by ``rules``."""
    policy = rules.policy.policy if rules else settings.defaults
    cidrs = {s.id: s.cidr for s in network.subnets if s.cidr}
    routing = network.routing(vpc_id)

    def recorded(view: NodeView) -> tuple[Record, tuple[tuple[str, int], ...]]:
        own = grants(view, rules.policy, rules.limits, rules.subnets) if rules else ()
        before = view.record.no_snat_cidrs if view.record else ()
        no_snat = partial(routing.no_snat, add=settings.no_snat_cidrs, never=settings.snat_cidrs, before=before)
        return next_record(view, policy, cidrs, no_snat, own)

    return recorded
