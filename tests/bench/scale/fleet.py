"""What every run has in common: nodes launched within a minute in a virtual account, and who is told of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.bench.scale.assumed import ADDRESSES_PER_INTERFACE, BOOT, INTERFACES, LAUNCH_WINDOW, OBSERVED_AFTER, PENDING
from tests.bench.scale.ec2 import Machine, VirtualEc2
from tests.bench.scale.timeline import Timeline

__all__ = ["Fleet", "capacity"]

_SLOTS = ADDRESSES_PER_INTERFACE - 1


def capacity(*, prefixes: bool) -> int:
    """Addresses for pods that the instance type can hold."""
    return INTERFACES * _SLOTS * (16 if prefixes else 1)


@dataclass(slots=True)
class Fleet:
    """``came`` is when each node could serve what was asked, in the order in which they could."""

    nodes: int
    seed: int
    limit: float
    timeline: Timeline = field(default_factory=Timeline)
    came: list[float] = field(default_factory=list)
    rng: random.Random = field(init=False)
    ec2: VirtualEc2 = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.ec2 = VirtualEc2(self.timeline, self.rng, self.nodes)

    def launch(
        self,
        tags: Mapping[str, str],
        launched: Callable[[Machine], None],
        running: Callable[[Machine], None],
        booted: Callable[[Machine], None],
        prefixes: int = 0,
    ) -> None:
        """Have all nodes launched, each at its time. Nodes of one number do the same in every system's run."""
        for number in range(self.nodes):
            own = random.Random(self.seed * 1_000_003 + number)
            at = (number + own.random()) * LAUNCH_WINDOW / self.nodes
            pending, boot = PENDING.draw(own), BOOT.draw(own)

            def begin(number: int = number, pending: float = pending, boot: float = boot) -> None:
                machine = self.ec2.launch(number, tags, prefixes)
                launched(machine)
                self.timeline.after(pending, lambda: self._run(machine, running))
                self.timeline.after(pending + boot, lambda: booted(machine))

            self.timeline.at(at, begin)

    def _run(self, machine: Machine, running: Callable[[Machine], None]) -> None:
        self.ec2.run(machine)
        running(machine)

    def served(self) -> None:
        """One more node can serve what was asked, as of now."""
        self.came.append(self.timeline.now)
        if len(self.came) == self.nodes:
            self.timeline.after(OBSERVED_AFTER, self.timeline.stop)

    def run(self) -> None:
        """To the end, or to ``limit`` seconds."""
        self.timeline.at(self.limit, self.timeline.stop)
        try:
            self.timeline.run()
        finally:
            self.timeline.close()
