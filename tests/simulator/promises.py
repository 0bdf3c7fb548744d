"""What must hold at every step. Everything that could break one of these changes the cloud, the table or an agent, and
each such change is judged when it happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from berth.calls import Call, CreateInterface, DeleteInterface, Detach
from berth.contract import Record
from berth.model import InterfaceView

from tests.simulator.agent import Agent
from tests.simulator.cloud import MEMORY_SECONDS, Cloud
from tests.simulator.space import addresses, mask_of
from tests.unit.control.fakes import ARN_PREFIX

__all__ = ["BrokenPromise", "Promises", "usable_mask"]

RACE_SECONDS = MEMORY_SECONDS + 60.0
"""So long after somebody has moved an interface by hand, a function may still not have seen it."""


class BrokenPromise(BaseException):
    """The simulator has found a defect. Not an Exception: no code under test may catch it."""


def usable_mask(record: Record) -> int:
    """The addresses that a record lets its node lend, as bits."""
    mask = 0
    for interface in record.interfaces:
        for a in interface.assignments:
            if not a.releasing:
                mask |= mask_of(a.cidr)
    return mask


def _held(view: InterfaceView) -> bool:
    return view.attachment is not None and view.attachment.status != "detaching"


@dataclass
class Promises:
    """``by_hand``: a person is at work now. ``foreign`` interfaces were never ours; ``moved`` is interface → when a
    person last touched it; ``spoilt`` are addresses that a person took away or moved, as bits."""

    cloud: Cloud
    agents: dict[str, Agent] = field(default_factory=dict)
    by_hand: bool = False
    foreign: set[str] = field(default_factory=set)
    moved: dict[str, float] = field(default_factory=dict)
    spoilt: int = 0
    usable: dict[str, int] = field(default_factory=dict)
    owner_of: Callable[[str], str] = lambda _interface: ""
    """Who has claimed a standby interface."""
    held_back: Callable[[Call], bool] = lambda _call: False
    """Whether the brake has forbidden such a call for long."""

    # ------------------------------------------------------------------------------------------- EC2

    def judge(self, call: Call, instance_id: str) -> None:
        """A call is about to have its effect."""
        if self.held_back(call):
            raise BrokenPromise(f"{call}: the brake is pulled")
        if isinstance(call, CreateInterface):
            return
        view = self.cloud.interfaces.get(call.interface_id)
        if view is None:
            return
        if view.id in self.foreign:
            raise BrokenPromise(f"{call}: a foreign interface")
        instance = self.cloud.instances.get(instance_id)
        alive = instance is not None and not instance.dead
        agent = self.agents.get(view.node or "")
        lives = agent is not None and view.pod in agent.own and agent.own[view.pod].interface == view.id
        if isinstance(call, Detach | DeleteInterface) and alive and lives and view.id not in self.moved:
            raise BrokenPromise(f"{call}: the pod {view.pod} lives")
        running = alive and instance and instance.state not in ("stopped", "stopping")
        if isinstance(call, Detach) and running and not view.pod:
            raise BrokenPromise(f"{call}: detached from a node that runs")
        holder = view.attachment.instance_id if view.attachment else None
        claimed = view.standby is not None and self.owner_of(view.id) == instance_id
        ours = view.node == instance_id or view.is_primary_of(instance_id) or claimed
        since = self.cloud.kernel.now - self.moved.get(view.id, float("-inf"))
        if (not ours or holder not in (None, instance_id)) and since > RACE_SECONDS:
            raise BrokenPromise(f"{call} for {instance_id}: it is {view.node}'s and attached to {holder}")

    def changed(self, old: InterfaceView | None, new: InterfaceView | None) -> None:
        """An interface has changed."""
        if new is not None and new.attachment is not None:
            self._within_limits(new, new.attachment.instance_id)
        if old is None:
            return
        holder = old.attachment.instance_id if old.attachment else None
        # what is attached to nothing may be listed too, as the outcome of a call that is still overlaid
        left = new is not None and (holder is None or _held(new))
        gone = set(old.blocks) - (set(new.blocks) if new is not None and left else set())
        if self.by_hand or old.id in self.moved:
            for block in gone:
                self.spoilt |= mask_of(block)
        lost = new is None or new.attachment is None
        if old.pod and lost and old.node in self.agents and (self.by_hand or old.id in self.moved):
            self.agents[old.node].own.pop(old.pod, None)
        if holder is None or holder not in self.agents:
            return
        if gone:
            self._taken(self.agents[holder], old, gone)

    def _taken(self, agent: Agent, view: InterfaceView, blocks: set[str]) -> None:
        instance = self.cloud.instances[agent.id]
        lost = {a for b in blocks for a in addresses(b)} & agent.used
        if not lost:
            return
        if instance.dead or self.by_hand or view.id in self.moved:
            agent.evict(lost)
            return
        raise BrokenPromise(f"{sorted(blocks)} of {view.id}: pods of {agent.id} use {sorted(lost)}")

    def _within_limits(self, view: InterfaceView, instance_id: str) -> None:
        instance = self.cloud.instances.get(instance_id)
        if instance is None or instance.state in ("stopping", "stopped"):
            return
        limits = self.cloud.types[instance.type]
        if view.slots > limits.addresses_per_interface:
            raise BrokenPromise(f"{view.id}: {view.slots} of {limits.addresses_per_interface} addresses")
        cards = Counter(i.attachment.network_card for i in self.cloud.attached(instance_id) if i.attachment)
        if cards.total() > limits.interfaces or any(n > dict(limits.by_card).get(c, 0) for c, n in cards.items()):
            raise BrokenPromise(f"{instance_id}: {dict(cards)} interfaces by card of {limits.by_card}")

    # ------------------------------------------------------------------------------------------- the record

    def recorded(self, arn: str, record: Record) -> None:
        """A record has been written: nothing in it may be usable by another living node."""
        instance_id = arn.removeprefix(ARN_PREFIX)
        mask = self.usable[instance_id] = usable_mask(record)
        if any(i.pod and (i.assignments or i.ipv6_assignments) for i in record.interfaces):
            raise BrokenPromise(f"the record of {instance_id} lends of an interface that is one pod's own")
        mask &= ~self.spoilt
        for other, theirs in self.usable.items():
            if other != instance_id and mask & theirs and self._alive(other) and self._alive(instance_id):
                raise BrokenPromise(f"the records of {instance_id} and {other} list the same addresses")
        agent = self.agents.get(instance_id)
        if agent is None or not agent.used or not self._alive(instance_id):
            return
        listed = {x for i in record.interfaces for a in i.assignments for x in addresses(a.cidr)}
        dropped = {a for a in agent.used - listed if not self.spoilt & mask_of(f"{a}/32")}
        if dropped:
            raise BrokenPromise(f"the record of {instance_id} drops {sorted(dropped)}, which pods use")

    def _alive(self, instance_id: str) -> bool:
        instance = self.cloud.instances.get(instance_id)
        return instance is not None and not instance.dead

    # ------------------------------------------------------------------------------------------- pods

    def took(self, agent: Agent, pod: str, interface_id: str) -> None:
        """A pod has got an interface for itself: it must be there, with that pod's tag."""
        view = self.cloud.interfaces.get(interface_id)
        there = view is not None and view.attachment is not None and view.attachment.instance_id == agent.id
        if interface_id in self.moved:
            return
        if not there or view is None or view.pod != pod:
            raise BrokenPromise(f"{agent.id} gives {pod} the interface {interface_id}, which is {view}")

    def lent(self, agent: Agent, address: str) -> None:
        """A pod has got an address: it must be assigned to its node, and to no other pod."""
        bit = mask_of(f"{address}/32")
        if not self.spoilt & bit:
            held = (b for i in self.cloud.attached(agent.id) for b in i.blocks)
            if not any(mask_of(b) & bit for b in held):
                raise BrokenPromise(f"{agent.id} lends {address}, which EC2 has not assigned to it")
        for other in self.agents.values():
            if other is not agent and address in other.used:
                if self.spoilt & bit:
                    other.evict({address})  # somebody took it away, and its agent has not looked since
                    continue
                raise BrokenPromise(f"{agent.id} and {other.id} both lend {address}")
