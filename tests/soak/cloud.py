"""The control plane of the soak: gives blocks where pods wait, takes back what the agent surrenders. One thread."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from berth.contract import Assignment, Interface, Policy, Record
from berth_node.usable import MetadataInterface

from tests.bench.cni.place import ADDRESS, BLOCKS, GATEWAY, MAC, SUBNET
from tests.unit.node.cloud import ARN, FakeCloud

__all__ = ["FEW", "Control"]

FEW = BLOCKS[:3]
"""What the node has at first."""
_POLICY = Policy(warm_addresses=8, max_pods=250, cooldown_seconds=1)


@dataclass
class Control:
    """The record and metadata of the node. An assignment id is never used twice."""

    cloud: FakeCloud
    dice: random.Random
    assignments: list[Assignment] = field(default_factory=list)
    given: int = 0
    taken: int = 0
    _revision: int = 0
    _marked: dict[str, int] = field(default_factory=dict)

    def give(self, *blocks: str) -> None:
        """Assign blocks that the node does not have."""
        for block in blocks:
            if block not in {a.cidr for a in self.assignments}:
                self.given += 1
                self.assignments.append(Assignment(block, f"as-{self.given}"))
        self.tell()

    def step(self, *, generous: bool = True) -> bool:
        """One look at the latest report. True when nothing is under way.

        A block goes in two steps, as the record's contract has it: it is marked, and removed once a report that has
        seen the mark still offers it. One that the agent has taken back meanwhile loses its mark.
        """
        with self.cloud.changed:
            report = self.cloud.reports[-1] if self.cloud.reports else None
        if report is None:
            return False
        offered = {s.assignment for s in report.surrendered}
        kept = []
        for a in self.assignments:
            seen = a.releasing and report.acknowledged_revision >= self._marked[a.id]
            if seen and a.id in offered:
                self.taken += 1
                continue
            if a.id in offered and not a.releasing:
                self._marked[a.id] = self._revision + 1
            kept.append(replace(a, releasing=a.id in offered or (a.releasing and not seen)))
        changed, self.assignments = kept != self.assignments, kept
        if generous and (report.waiting or self.dice.random() < 0.2):
            have = {a.cidr for a in self.assignments}
            self.give(*[b for b in BLOCKS if b not in have][: self.dice.randint(1, 3)])
        if changed:
            self.tell()
        return not offered and not changed and not any(a.releasing for a in self.assignments)

    def tell(self) -> None:
        """Publish what there is. Metadata shows it first, as on EC2 it may."""
        self._revision += 1
        assignments = tuple(self.assignments)
        interface = Interface("eni-1", MAC, 0, "subnet-1", SUBNET, GATEWAY, ADDRESS, 0, assignments)
        shown = MetadataInterface(MAC, 0, (ADDRESS,), tuple(a.cidr for a in assignments))
        self.cloud.interfaces = [shown]
        self.cloud.record = Record(ARN, self._revision, _POLICY, (interface,))
