"""The node agent as the protocol allows it to be: it lends addresses, surrenders blocks, loses its files, reboots.

An address is lent only from a block that its copy of the record lists unmarked *and* that its copy of instance metadata
shows; both copies may be old.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from berth.contract import Order, PodRequest, Policy, Record, Report, Surrender, address_count
from berth.model import InterfaceView

from tests.simulator.pods import Pods
from tests.simulator.space import addresses
from tests.unit.control.fakes import ARN_PREFIX, GROUP

__all__ = ["Agent"]

Block = tuple[str, str, str]
"""(MAC, block, assignment id)."""


@dataclass
class Own:
    """``since`` is the first report that lists the pod; ``interface`` is "" as long as it waits; ``groups`` "" when
    nobody knows any more what it asked for."""

    since: Order
    groups: str = GROUP
    interface: str = ""


@dataclass
class Agent:
    """``used`` are the addresses of pods; ``cooling`` is address → until, by the agent's own clock, which is ``skew``
    seconds off. ``lent`` is called with each address that a pod gets."""

    id: str
    rng: random.Random
    skew: float = 0.0
    lent: Callable[[Agent, str], None] = lambda _agent, _address: None
    record: Record | None = None
    shown: frozenset[tuple[str, str]] = frozenset()
    used: set[str] = field(default_factory=set)
    cooling: dict[str, float] = field(default_factory=dict)
    surrendered: set[Surrender] = field(default_factory=set)
    waiting: int = 0
    order: Order = field(default_factory=lambda: Order(1, 0))
    pods: Pods = field(default_factory=Pods)
    own: dict[str, Own] = field(default_factory=dict)
    """Pods that ask for an interface of their own, by their requests' ids."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    retries: list[tuple[str, str]] = field(default_factory=list)
    macs: frozenset[str] = frozenset()
    took: Callable[[Agent, str, str], None] = lambda _agent, _pod, _interface: None
    asleep: bool = False
    """Hibernated: nothing runs, and pods will go on where they were."""

    @property
    def arn(self) -> str:
        return ARN_PREFIX + self.id

    @property
    def policy(self) -> Policy:
        return self.record.policy if self.record else Policy()

    # ------------------------------------------------------------------------------------------- what it sees

    def look(self, interfaces: list[InterfaceView]) -> None:
        """Read instance metadata."""
        self.shown = frozenset((i.mac, b) for i in interfaces for b in i.blocks)
        self.macs = frozenset(i.mac for i in interfaces)

    def read(self, found: Record | None) -> None:
        """Read the record. A missing one counts as unreachable; a lower revision is ignored."""
        if found is not None and (self.record is None or found.revision >= self.record.revision):
            self.record = found
            if found.accepted >= Order(self.order.boot, self.order.sequence + 1):
                # a report of before the files were lost has come in late: go above it
                self.order = Order(found.accepted.boot + 1, 0)
                for pod in self.own.values():
                    pod.since = self._next()
            listed = {(c, i) for _, c, i, _ in self._listed()}
            self.surrendered = {s for s in self.surrendered if (s.cidr, s.assignment) in listed}

    def _listed(self) -> list[tuple[str, str, str, bool]]:
        """(MAC, block, assignment id, may be lent)."""
        if self.record is None:
            return []
        return [
            (i.mac, a.cidr, a.id, not a.releasing and (i.mac, a.cidr) in self.shown)
            for i in self.record.interfaces
            for a in i.assignments
        ]

    def lendable(self) -> list[Block]:
        given = {(s.mac, s.cidr, s.assignment) for s in self.surrendered}
        return [(m, c, i) for m, c, i, usable in self._listed() if usable and (m, c, i) not in given]

    # ------------------------------------------------------------------------------------------- pods

    def add_pod(self) -> None:
        free = (
            a for _, cidr, _ in self.lendable() for a in addresses(cidr) if a not in self.used and a not in self.cooling
        )
        address = next(free, None)
        if address is None:
            self.waiting += 1
        else:
            self.used.add(address)
            self.lent(self, address)
            self.pods.begin(address)

    def end_pod(self, address: str, now: float) -> None:
        self.used.discard(address)
        self.pods.end(address)
        if self.policy.cooldown_seconds:
            self.cooling[address] = now + self.skew + self.policy.cooldown_seconds

    def serve(self, now: float) -> None:
        """Pods that waited may find an address now."""
        here = now + self.skew
        # a clock that was set back must not keep an address for ever: no cooldown is longer than the policy's
        most = here + self.policy.cooldown_seconds
        self.cooling = {a: min(until, most) for a, until in self.cooling.items() if until > here}
        waiting, self.waiting = self.waiting, 0
        for _ in range(waiting):
            self.add_pod()
        self._serve_own()

    # ------------------------------------------------------------------------------------------- pods with their own

    def _next(self) -> Order:
        return Order(self.order.boot, self.order.sequence + 1)

    def add_own(self, groups: str) -> None:
        self.own[f"{self.id}-{next(self.numbers)}/eth0"] = Own(self._next(), groups)

    def _serve_own(self) -> None:
        """An interface is taken only if the record answers a report that lists the pod."""
        if self.record is None:
            return
        there = {i.pod: i for i in self.record.interfaces if i.pod and i.mac in self.macs}
        for name, pod in self.own.items():
            if not pod.interface and name in there and self.record.accepted >= pod.since:
                pod.interface = there[name].id
                self.took(self, name, pod.interface)

    def hiccup(self) -> None:
        """The agent restarts: what waits is in one report less, and asks again."""
        self.order = Order(self.order.boot + 1, 0)
        waiting = {name: pod for name, pod in self.own.items() if not pod.interface}
        self.own = {name: pod for name, pod in self.own.items() if pod.interface}
        self.retries = [*self.retries, *((name, pod.groups) for name, pod in waiting.items())]

    def retry(self) -> None:
        for name, groups in self.retries:
            self.own.setdefault(name, Own(self._next(), groups))
        self.retries = []

    # ------------------------------------------------------------------------------------------- giving back

    def deficit(self) -> int:
        policy = self.policy
        lendable = self.lendable()
        listed = {c for _, c, _ in lendable}
        supply = sum(address_count(c) for c in listed)
        supply -= sum(1 for c in listed for a in addresses(c) if a in self.cooling and a not in self.used)
        given = {(s.cidr, s.assignment) for s in self.surrendered}
        kept = sum(address_count(c) for _, c, i, _ in self._listed() if (c, i) not in given)
        wanted = min(policy.max_pods, len(self.used) + self.waiting + policy.warm_addresses)
        return max(wanted - supply, min(policy.max_pods, max(1, policy.minimum_addresses)) - kept)

    def balance(self) -> None:
        """Take back while something is missing, then give up idle blocks that nothing wants."""
        for s in sorted(self.surrendered, key=lambda s: s.cidr):
            if self.deficit() <= 0:
                break
            self.take_back(s)
        for block in reversed(self.lendable()):
            if self.deficit() <= -address_count(block[1]):
                self.give_up(block)

    def take_back(self, surrender: Surrender) -> None:
        """Until its copy of the record marks the block, it may."""
        if (surrender.mac, surrender.cidr, surrender.assignment, True) in self._listed():
            self.surrendered.discard(surrender)

    def give_up(self, block: Block) -> None:
        """An idle block, and never the last one."""
        idle = all(a not in self.used and a not in self.cooling for a in addresses(block[1]))
        if idle and len(self.lendable()) > 1:
            self.surrendered.add(Surrender(*block))

    def fidget(self) -> None:
        """What no good agent does, and the protocol allows: give up and take back at will."""
        blocks, given = self.lendable(), sorted(self.surrendered, key=lambda s: s.cidr)
        if given and self.rng.random() < 0.5:
            self.take_back(self.rng.choice(given))
        elif blocks:
            self.give_up(self.rng.choice(blocks))

    # ------------------------------------------------------------------------------------------- bad luck

    def reboot(self) -> None:
        """Pods are gone, and what was read of instance metadata; what is in /var/lib/berth is not."""
        self.used.clear()
        self.pods.reboot()
        self.shown, self.macs = frozenset(), frozenset()
        self.waiting = 0
        self.own.clear()
        self.retries.clear()
        self.order = Order(self.order.boot + 1, 0)

    def lose_files(self, found: Record | None, now: float) -> None:
        """What is in /var/lib/berth is gone; the pods, which the kernel knows, are not."""
        self.surrendered.clear()
        self.own = {name: Own(pod.since, "", pod.interface) for name, pod in self.own.items() if pod.interface}
        self.pods.lose_files()
        self.record = None
        self.read(found)
        accepted = self.record.accepted.boot if self.record else 0
        self.order = Order(accepted + 1, 0)
        idle = {a for _, c, _, _ in self._listed() for a in addresses(c)} - self.used
        self.cooling = dict.fromkeys(sorted(idle), now + self.skew + self.policy.cooldown_seconds)

    def evict(self, gone: set[str]) -> None:
        """Somebody has taken addresses away by hand: their pods are lost."""
        self.used -= gone
        for address in sorted(gone):
            self.pods.end(address)

    def _address(self, interface_id: str) -> str:
        interfaces = self.record.interfaces if self.record else ()
        return next((i.primary_address for i in interfaces if i.id == interface_id), "")

    def report(self) -> Report:
        self.order = Order(self.order.boot, self.order.sequence + 1)
        listed = self._listed()
        given = {s.cidr for s in self.surrendered}
        backlog = self.pods.leases.backlog
        here = {a for _, c, _, _ in listed if c not in given for a in addresses(c)}
        return Report(
            order=self.order,
            acknowledged_revision=self.record.revision if self.record else 0,
            in_use=len(self.used),
            waiting=tuple(f"pod-{n}" for n in range(self.waiting)),
            cooling=len((self.cooling.keys() & here) - self.used),
            unusable=tuple(sorted(c for m, c, _, _ in listed if (m, c) not in self.shown)),
            surrendered=() if backlog else tuple(sorted(self.surrendered, key=lambda s: (s.cidr, s.assignment))),
            requests=tuple(
                PodRequest(name, self._address(pod.interface), "default", groups=pod.groups)
                for name, pod in sorted(self.own.items())
            ),
            **self.pods.leases.report(self.pods.now()),
        )
