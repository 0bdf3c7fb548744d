"""One look at a batch of nodes whose leases are held: describe all, then bring each to its plan."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from berth.brake import Level
from berth.budget import OutOfTokensError
from berth.bus import Event
from berth.converge import SPARE_SECONDS
from berth.ec2_wire import Ec2Error, Trouble, ec2_name
from berth.edges import Edges
from berth.events import Signal
from berth.gone import clear
from berth.living import bring
from berth.looks import FRESH_SECONDS, ROUTES_CHANGED, backoff, delay_until
from berth.model import Instance
from berth.policy import cluster_of, cluster_problem
from berth.trail import log_look
from berth.visit import Visit
from berth.world import World, describe

__all__ = ["Look"]

logger = logging.getLogger(__name__)

_LATER: Final = (Trouble.THROTTLED, Trouble.IN_DOUBT)


@dataclass(slots=True)
class Look:
    """The results of looking. ``deadline`` is Unix time; ``failed`` says which nodes' messages must come again.

    ``signals`` are why the nodes are looked at. ``hooked`` are the nodes whose launch hook has been completed,
    ``postponed`` those that were not looked at: a new message says so.
    """

    edges: Edges
    deadline: float
    signals: Sequence[Signal] = ()
    failed: dict[str, Exception] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    events: list[Event] = field(default_factory=list)
    hooked: set[str] = field(default_factory=set)
    postponed: set[str] = field(default_factory=set)

    def at(self, ids: Sequence[str], done: Callable[[str], None]) -> None:
        """Look at these nodes. Never raises for one node's trouble; the others go on.

        ``done`` is called with each node that needs its lease no longer, as soon as that is so: calls take most of a
        batch's time, and who knocks at the last node's lease meanwhile would have it looked at twice.
        """
        visit = Visit(self.edges, self.deadline, self.signals, self.counts, self.events, self.hooked)
        world = self._describe(ids)
        if world is None:
            for instance_id in ids:
                done(instance_id)
            return
        visit.level, visit.claimed, visit.at = self.edges.brake.level(), world.claimed, world.at
        visit.publics = world.publics
        self.counts["BatchesBraked"] += visit.level is not Level.NORMAL
        for number, instance_id in enumerate(ids):
            if self.edges.clock() > self.deadline - SPARE_SECONDS:
                self.counts["TimeUp"] += 1
                self._postpone(ids[number:], "the function's time is up", 1)
                for late in ids[number:]:
                    done(late)
                return
            visit.ran = None
            try:
                outcome = self.node(visit, instance_id, world)
            except Exception as error:  # one node's defect or permission must not stop the others
                logger.exception("node failed", extra={"node": instance_id})
                self.failed[instance_id] = error
                outcome = f"failed: {error}"
            log_look(instance_id, self.signals, outcome, visit.ran)
            done(instance_id)

    def _describe(self, ids: Sequence[str]) -> World | None:
        """None: the nodes are looked at later."""
        now = self.edges.clock()
        if any(s.reason == ROUTES_CHANGED for s in self.signals):
            self.edges.ec2.forget_routes(FRESH_SECONDS)
        try:
            return describe(self.edges, ids)
        except OutOfTokensError as error:
            reason, delay = str(error), delay_until(error.at, now)
        except TimeoutError as error:
            reason, delay = str(error), backoff(self.edges.settings.delay, 0)
        except Ec2Error as error:
            if error.trouble not in _LATER:
                raise
            if error.trouble is Trouble.THROTTLED:
                self.edges.budget.throttled(ec2_name(error.action), now)
            reason, delay = str(error.code), backoff(self.edges.settings.delay, 0)
        self.counts["DescribesDelayed"] += 1
        self._postpone(ids, reason, delay)
        return None

    def _postpone(self, ids: Sequence[str], reason: str, delay: int) -> None:
        """Have these nodes looked at later, by a new message: it never counts towards the dead-letter queue.

        A launch hook goes along: there may be no record yet to note it in.
        """
        told = (s for s in self.signals if s.hook_name and s.instance_id not in self.hooked)
        hooks = {s.instance_id: (s.hook_group, s.hook_name, s.hook_at) for s in sorted(told, key=lambda s: s.hook_at)}
        self.edges.looks.ask([i for i in ids if i not in hooks], reason, delay)
        for instance_id in (i for i in ids if i in hooks):
            self.edges.looks.ask([instance_id], reason, delay, hooks[instance_id])
        self.postponed.update(ids)
        for instance_id in ids:
            log_look(instance_id, self.signals, f"looked at again later: {reason}")

    def node(self, visit: Visit, instance_id: str, world: World) -> str:
        """Bring one node to its plan. Returns what came of it, in words."""
        state = world.states[instance_id]
        if state.broken:
            raise ValueError(f"{instance_id}: the table's items cannot be read: {state.broken}")
        instance = world.instances.get(instance_id)
        cluster = cluster_of(dict(instance.tags), self.edges.settings.clusters) if instance else None
        if instance is None or instance.dead:
            interfaces = world.interfaces.get(instance_id, ())
            return clear(visit, instance_id, instance, cluster, interfaces, state)
        if cluster is None:
            return self._no_node(visit, instance)
        return bring(visit, instance, cluster, world)

    def _no_node(self, visit: Visit, instance: Instance) -> str:
        self.counts["NotANode"] += 1
        reports = any(s.reports for s in self.signals if s.instance_id == instance.id)
        problem = cluster_problem(dict(instance.tags), self.edges.settings.clusters, reports=reports)
        if problem is not None:
            visit.tell_now_and_then(instance, [problem])
        return f"not a node: {problem.key}: {problem.message}" if problem else "not a node"
