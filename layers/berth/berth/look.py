"""One look at a batch of nodes whose leases are held: describe all, then bring each to its plan."""

from __future__ import annotations

import hashlib
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
from berth.ingest import believe
from berth.looks import backoff
from berth.model import Instance, InterfaceView, Limits, NodePolicy, NodeView, Notes, PolicyProblem
from berth.plan import Plan, plan, plan_absence, plan_death
from berth.policy import cluster_of, parse_policy
from berth.records import tombstone, usable_addresses
from berth.store import NodeState

__all__ = ["ABSENCE_SECONDS", "Look"]

logger = logging.getLogger(__name__)

ABSENCE_SECONDS: Final = 600
"""An instance that two describes this far apart leave out is gone; one may be a describe that lags."""
TOMBSTONE_SECONDS: Final = 7 * 86_400
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
    """The results of looking. ``deadline`` is Unix time; ``failed`` says which nodes' messages must come again."""

    edges: Edges
    deadline: float
    failed: dict[str, Exception] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    events: list[Event] = field(default_factory=list)

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
            return
        for instance_id in ids:
            try:
                self._node(instance_id, world)
            except Exception as error:  # one node's defect or permission must not stop the others
                logger.exception("node failed", extra={"node": instance_id})
                self.failed[instance_id] = error

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

    def _node(self, instance_id: str, world: _World) -> None:
        broken = world.states[instance_id].broken
        if broken:
            raise ValueError(f"{instance_id}: the table's items cannot be read: {broken}")
        instance = world.instances.get(instance_id)
        interfaces = world.interfaces.get(instance_id, ())
        cluster = self._cluster(instance) if instance else None
        if instance is None or instance.dead:
            self._gone(instance_id, instance, cluster, interfaces, world.states[instance_id])
        elif cluster is None:
            self.counts["NotANode"] += 1
        else:
            self._living(instance, cluster, interfaces, world)

    # ------------------------------------------------------------------------------------------- nodes that live

    def _living(self, instance: Instance, cluster: str, interfaces: tuple[InterfaceView, ...], world: _World) -> None:
        state = world.states[instance.id]
        policy = parse_policy(dict(instance.tags), self.edges.settings.defaults)
        if policy.unmanaged:
            self.counts["Unmanaged"] += 1
            return
        limits = world.limits.get(instance.type)
        if limits is None:
            self._skip(instance, policy)
            return
        policy = _fit(policy, instance, limits)
        convergence = self._convergence(
            replace(self._view(instance, cluster, interfaces, state), allowed_groups=world.network.allowed_groups),
            state,
            lambda view: plan(view, policy, limits, world.network.subnets),
            world.network,
            policy.policy,
        )
        last = self._run(convergence)
        self._note(convergence, state, last, policy)

    def _skip(self, instance: Instance, policy: NodePolicy) -> None:
        message = "EC2 knows no such instance type in this region; the node is skipped"
        problem = PolicyProblem("instance-type", instance.type, message)
        self.counts["UnknownInstanceType"] += 1
        self.events.append(policy_invalid(instance.arn, instance.id, [*policy.problems, problem]))

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
        problems = _fingerprint(policy.problems)
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
    ) -> None:
        known = state.record is not None and not state.buried
        tagged = (i.cluster for i in interfaces if i.node == instance_id and i.cluster in self.edges.settings.clusters)
        cluster = cluster or next(tagged, None)
        if cluster is None and not known:
            self.counts["NotANode"] += 1
            return
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
        waiting = convergence.again or last.waiting
        if confirmed and not waiting:
            if known:
                self._bury(instance.arn, state)
        elif known or waiting:
            self._wait_for_death(convergence.view, state, waiting, known)

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


def _fit(policy: NodePolicy, instance: Instance, limits: Limits) -> NodePolicy:
    """The policy as far as the instance type can follow it."""
    if policy.policy.mode == "addresses" or limits.prefixes:
        return policy
    message = "only instance types on Nitro can have prefixes; using addresses"
    problem = PolicyProblem("berth:mode", "prefixes", f"{instance.type}: {message}")
    fitted = replace(policy.policy, mode="addresses")
    return replace(policy, policy=fitted, problems=(*policy.problems, problem))


def _fingerprint(problems: Sequence[PolicyProblem]) -> str:
    """Short text that changes when the problems do, so that each is told once."""
    if not problems:
        return ""
    text = "\n".join(sorted(f"{p.key}={p.value}: {p.message}" for p in problems))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
