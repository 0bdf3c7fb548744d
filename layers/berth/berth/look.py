"""One look at a batch of nodes whose leases are held: describe all, then bring each to its plan."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from berth.bus import Event, addresses_ready, demand_unmet, policy_invalid
from berth.contract import Policy
from berth.converge import Convergence
from berth.ec2_wire import Ec2Error, Network, Trouble
from berth.edges import Edges
from berth.events import Signal
from berth.ingest import believe
from berth.looks import backoff
from berth.model import Instance, InterfaceView, Limits, NodePolicy, NodeView, Notes, PolicyProblem
from berth.plan import Plan, plan_absence, plan_death, planner
from berth.policy import cluster_of, cluster_problem, fingerprint, fit_policy, parse_policy
from berth.records import tombstone, usable_addresses
from berth.store import NodeState
from berth.trail import log_look

__all__ = ["ABSENCE_SECONDS", "Look"]

logger = logging.getLogger(__name__)

ABSENCE_SECONDS: Final = 600
"""An instance that two describes this far apart leave out is gone; one may be a describe that lags."""
TOMBSTONE_SECONDS: Final = 7 * 86_400
_TOLD_SECONDS: Final = 3600
_TOLD_MAX: Final = 1000
"""An instance without a record is told of once an hour by each execution environment, which remembers so many."""
_SKEW_SECONDS: Final = 2.0
"""Clocks of two Lambda hosts may differ: a look that is due this soon counts as due now."""
_LATER: Final = (Trouble.THROTTLED, Trouble.IN_DOUBT)


@dataclass(frozen=True, slots=True)
class _World:
    """What EC2 and the table say about a batch. Interfaces and states are by instance id."""

    instances: dict[str, Instance]
    interfaces: dict[str, tuple[InterfaceView, ...]]
    states: dict[str, NodeState]
    limits: dict[str, Limits]
    network: Network


@dataclass(slots=True)
class Look:
    """The results of looking. ``deadline`` is Unix time; ``failed`` says which nodes' messages must come again.

    ``signals`` are why the nodes are looked at.
    """

    edges: Edges
    deadline: float
    signals: Sequence[Signal] = ()
    failed: dict[str, Exception] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    events: list[Event] = field(default_factory=list)
    _ran: Convergence | None = None

    def at(self, ids: Sequence[str]) -> None:
        """Look at these nodes. Never raises for one node's trouble; the others go on."""
        try:
            world = self._describe(ids)
        except Ec2Error as error:
            if error.trouble not in _LATER:
                raise
            # out of tokens: a new message, so that it never counts towards the dead-letter queue
            self.counts["DescribesDelayed"] += 1
            self.edges.looks.ask(ids, str(error.code), backoff(self.edges.settings.delay, 0))
            for instance_id in ids:
                log_look(instance_id, self.signals, f"looked at again later: {error}")
            return
        for instance_id in ids:
            self._ran = None
            try:
                outcome = self._node(instance_id, world)
            except Exception as error:  # one node's defect or permission must not stop the others
                logger.exception("node failed", extra={"node": instance_id})
                self.failed[instance_id] = error
                outcome = f"failed: {error}"
            log_look(instance_id, self.signals, outcome, self._ran)

    def _describe(self, ids: Sequence[str]) -> _World:
        """Everything about the nodes among ``ids``. Most instances of an account are none: they cost one describe."""
        edges, settings = self.edges, self.edges.settings
        instances = edges.ec2.instances(ids)
        by_arn = edges.store.load([settings.arn(i) for i in ids])
        states = {i: by_arn[settings.arn(i)] for i in ids}
        ours = [i for i in ids if i not in instances or states[i].record or self._cluster(instances[i])]
        living = [i for i in (instances[n] for n in ours if n in instances) if not i.dead]
        return _World(
            instances=instances,
            interfaces=edges.ec2.interfaces(ours) if ours else {},
            states=states,
            limits=edges.ec2.limits({i.type for i in living}) if living else {},
            network=edges.ec2.network({i.vpc_id for i in living}) if living else Network(),
        )

    def _cluster(self, instance: Instance) -> str | None:
        return cluster_of(dict(instance.tags), self.edges.settings.clusters)

    def _node(self, instance_id: str, world: _World) -> str:
        """Bring one node to its plan. Returns what came of it, in words."""
        broken = world.states[instance_id].broken
        if broken:
            raise ValueError(f"{instance_id}: the table's items cannot be read: {broken}")
        instance = world.instances.get(instance_id)
        interfaces = world.interfaces.get(instance_id, ())
        cluster = self._cluster(instance) if instance else None
        if instance is None or instance.dead:
            return self._gone(instance_id, instance, cluster, interfaces, world.states[instance_id])
        if cluster is None:
            return self._no_node(instance)
        return self._living(instance, cluster, interfaces, world)

    def _no_node(self, instance: Instance) -> str:
        self.counts["NotANode"] += 1
        reports = any(s.reports for s in self.signals if s.instance_id == instance.id)
        problem = cluster_problem(dict(instance.tags), self.edges.settings.clusters, reports=reports)
        if problem is not None:
            self._tell_now_and_then(instance, [problem])
        return f"not a node: {problem.key}: {problem.message}" if problem else "not a node"

    def _tell_now_and_then(self, instance: Instance, problems: Sequence[PolicyProblem]) -> None:
        """Tell of an instance without a record to note it in: its agent's reports would have it told twice a minute."""
        now, told = self.edges.clock(), self.edges.told
        key = f"{instance.id} {fingerprint(problems)}"
        if now - told.get(key, 0.0) >= _TOLD_SECONDS:
            if len(told) >= _TOLD_MAX:
                told.clear()
            told[key] = now
            self.events.append(policy_invalid(instance.arn, instance.id, problems))

    # ------------------------------------------------------------------------------------------- nodes that live

    def _living(self, instance: Instance, cluster: str, interfaces: tuple[InterfaceView, ...], world: _World) -> str:
        state = world.states[instance.id]
        policy = parse_policy(dict(instance.tags), self.edges.settings.defaults)
        if policy.unmanaged:
            self.counts["Unmanaged"] += 1
            return "unmanaged, by its tag"
        limits = world.limits.get(instance.type)
        if limits is None:
            return self._skip(instance, policy)
        policy = fit_policy(policy, instance.type, limits)
        convergence = self._convergence(
            replace(self._view(instance, cluster, interfaces, state), allowed_groups=world.network.allowed_groups),
            state,
            planner(policy, limits, world.network.subnets),
            world.network,
            policy.policy,
        )
        last = self._run(convergence)
        self._note(convergence, state, last, policy)
        unmet = f"{last.unmet} addresses unmet: {last.reason}" if last.unmet else ""
        later = convergence.again or last.waiting
        return "; ".join(filter(None, (unmet, later and f"looking again: {later}"))) or "as planned"

    def _skip(self, instance: Instance, policy: NodePolicy) -> str:
        message = "EC2 knows no such instance type in this region; the node is skipped"
        problem = PolicyProblem("instance-type", instance.type, message)
        self.counts["UnknownInstanceType"] += 1
        self._tell_now_and_then(instance, [*policy.problems, problem])
        return f"skipped: {instance.type}: {message}"

    def _view(
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
            now=self.edges.clock(),
        )

    def _convergence(
        self,
        view: NodeView,
        state: NodeState,
        planner: Callable[[NodeView], Plan],
        network: Network | None = None,
        policy: Policy | None = None,
    ) -> Convergence:
        """Without ``network`` the record stays as it is."""
        cidrs = dict(network.vpc_cidrs).get(view.instance.vpc_id, ()) if network else ()
        return Convergence(
            edges=self.edges,
            view=view,
            state=state,
            planner=planner,
            policy=policy or self.edges.settings.defaults,
            subnet_cidrs={s.id: s.cidr for s in network.subnets} if network else {},
            no_snat_cidrs=(*cidrs, *self.edges.settings.no_snat_cidrs),
            deadline=self.deadline,
            keeps_record=network is not None,
        )

    def _run(self, convergence: Convergence) -> Plan:
        self._ran = convergence
        try:
            return convergence.run()
        finally:
            self.counts.update(convergence.counts)
            self.events.extend(convergence.events)

    def _note(self, done: Convergence, state: NodeState, last: Plan, policy: NodePolicy) -> None:
        """Write what changed beside EC2, tell what is worth telling, and see to the next look."""
        arn, instance_id, notes = done.view.instance.arn, done.view.instance.id, done.view.notes
        record, marked = done.next_record()
        ready = usable_addresses(record)
        if ready and not usable_addresses(state.record):
            self.events.append(addresses_ready(arn, instance_id, ready, record.revision))
        if last.unmet and not notes.unmet and not done.again:
            self.events.append(demand_unmet(arn, instance_id, last.unmet, last.reason))
        if last.unmet:
            self.counts["AddressesUnmet"] += last.unmet
        problems = fingerprint(policy.problems)
        if problems != notes.problems and policy.problems:
            self.events.append(policy_invalid(arn, instance_id, policy.problems))
        unmet = notes.unmet if done.again else last.unmet
        new = replace(notes, unmet=unmet, problems=problems, absent_since=0.0)
        new = self._look_again(instance_id, new, done.again or last.waiting)
        if (record, new) != (done.view.record, notes):
            self.edges.store.save(arn, record, marked, new)

    def _look_again(self, instance_id: str, notes: Notes, reason: str) -> Notes:
        """Ask for another look, unless one is already on its way."""
        if not reason:
            return replace(notes, next_look=0.0, looks=0)
        now = self.edges.clock()
        if notes.next_look > now + _SKEW_SECONDS:
            return notes
        delay = backoff(self.edges.settings.delay, notes.looks)
        self.edges.looks.ask([instance_id], reason, delay)
        return replace(notes, next_look=now + delay, looks=notes.looks + 1)

    # ------------------------------------------------------------------------------------------- nodes that died

    def _gone(
        self,
        instance_id: str,
        instance: Instance | None,
        cluster: str | None,
        interfaces: tuple[InterfaceView, ...],
        state: NodeState,
    ) -> str:
        known = state.record is not None and not state.buried
        tagged = (i.cluster for i in interfaces if i.node == instance_id and i.cluster in self.edges.settings.clusters)
        cluster = cluster or next(tagged, None)
        leftovers = bool(state.report or state.intents)
        if cluster is None and not known and not leftovers:
            self.counts["NotANode"] += 1
            return "gone, and never a node"
        seen_dead = instance is not None
        confirmed = seen_dead or 0 < state.notes.absent_since <= self.edges.clock() - ABSENCE_SECONDS
        if instance is None:
            arn = self.edges.settings.arn(instance_id)
            instance = Instance(instance_id, arn, "terminated", "", "", "", "", 0.0)
        view = self._view(instance, cluster or "", interfaces, state)
        # a node without a record was never given anything; what is tagged for it is cleaned up by age
        planner = plan_death if confirmed else plan_absence
        convergence = self._convergence(view, state, planner)
        last = self._run(convergence)
        waiting = convergence.again or last.waiting or convergence.unborn
        if confirmed and not waiting:
            # also what a look or a late report has left beside a tombstone: nothing else would ever delete it
            if known or leftovers or convergence.intents:
                self._bury(instance.arn, state)
            return "gone, and nothing is left"
        if known or waiting:
            self._wait_for_death(convergence.view, state, waiting, known)
        return f"gone; looking again: {waiting}" if waiting else "not shown; not believed yet"

    def _bury(self, arn: str, state: NodeState) -> None:
        self.edges.store.bury(arn, tombstone(arn, state.record), self.edges.clock() + TOMBSTONE_SECONDS)
        self.counts["NodesBuried"] += 1

    def _wait_for_death(self, view: NodeView, state: NodeState, waiting: str, known: bool) -> None:
        if not waiting:
            waiting = "EC2 does not show the instance; looking again before believing it"
        if not known or state.record is None:
            self._look_again(view.instance.id, Notes(), waiting)
            return
        notes = view.notes
        if notes.absent_since == 0.0 and not view.instance.type:
            notes = replace(notes, absent_since=self.edges.clock())
        new = self._look_again(view.instance.id, notes, waiting)
        if new != view.notes:
            self.edges.store.save(view.instance.arn, state.record, state.marked, new)
