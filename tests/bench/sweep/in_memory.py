"""A whole sweep over a fleet that is made as it is asked for, without any wire format: quick enough for a unit test.

Prints one line of JSON: the most memory the process had, and the calls by method.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from berth.bus import Event
from berth.contract import Policy
from berth.events.node_look_requested import HookWait
from berth.model import Instance, InterfaceView, PublicAddress, SubnetView
from berth.settings import Settings
from berth.store import NodeState
from berth.survey import Page, Reservation
from berth.sweep import SweepEdges, sweep
from berth.sweep_store import Outline, Progress, TablePage

from tests.bench.sweep.fleet import ARN_PREFIX, CLUSTER, Fleet
from tests.bench.sweep.memory import most_megabytes

PAGE = 500


@dataclass
class LazySurvey:
    fleet: Fleet
    calls: Counter[str] = field(default_factory=Counter)

    def nodes(self, clusters: Iterable[str], token: str) -> Page[Instance]:
        self.calls["DescribeInstances"] += 1
        start = int(token or "0")
        more = str(start + 200) if start + 200 < self.fleet.nodes else ""
        return Page(tuple(map(self.fleet.instance, self.fleet.ids(start, 200))), more)

    def instances_among(self, ids: Sequence[str], token: str) -> Page[Instance]:
        self.calls["DescribeInstances"] += 1
        return Page(tuple(map(self.fleet.instance, ids)))

    def attached(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        self.calls["DescribeNetworkInterfaces"] += 1
        views, start = chain.from_iterable(map(self.fleet.views, ids)), int(token or "0")
        page = tuple(islice(views, start, start + PAGE))
        return Page(page, str(start + PAGE) if next(views, None) else "")

    def interfaces_among(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        return Page()

    def pooled_among(self, ids: Sequence[str], token: str) -> Page[PublicAddress]:
        return Page()

    def unattached(self, token: str) -> Page[InterfaceView]:
        self.calls["DescribeNetworkInterfaces"] += 1
        return Page()

    def subnets(self, token: str) -> Page[SubnetView]:
        self.calls["DescribeSubnets"] += 1
        return Page()

    def used(self, subnet_id: str, token: str) -> Page[str]:
        return Page()

    def reserved(self, subnet_id: str, token: str) -> Page[Reservation]:
        return Page()

    def in_hooks(self, ids: Sequence[str]) -> dict[str, str]:
        return {}

    def has_hook(self, group: str, name: str) -> bool:
        return False


@dataclass
class LazyTable:
    fleet: Fleet

    def glance(self, arns: Sequence[str]) -> dict[str, NodeState]:
        return {a: NodeState(record=self.fleet.record(a.removeprefix(ARN_PREFIX))) for a in arns}

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]:
        return self.glance(arns)

    def leased(self, arns: Sequence[str]) -> dict[str, float]:
        return {}

    def page(self, token: str) -> TablePage:
        start = int(token or "0")
        records = tuple(Outline(ARN_PREFIX + i) for i in self.fleet.ids(start, 40))
        return TablePage(records, (), str(start + 40) if start + 40 < self.fleet.nodes else "")

    def begin(self, holder: str, now: float, until: float) -> Progress:
        return Progress()

    def keep(self, holder: str, progress: Progress) -> bool:
        return True

    def end(self, holder: str) -> None:
        """Nobody else is there."""


class Nobody:
    def ask(
        self,
        instance_ids: Iterable[str],
        reason: str,
        delay: int = 0,
        hook: HookWait | None = None,
        due: float = 0.0,
    ) -> None:
        """Nobody looks."""

    def send(self, events: Iterable[Event]) -> int:
        return 0


def main(fleet: Fleet) -> dict[str, Any]:
    survey, nobody = LazySurvey(fleet), Nobody()
    settings = Settings((CLUSTER,), "nodes", "", "", "", ARN_PREFIX, Policy())
    counts = sweep(SweepEdges(survey, LazyTable(fleet), nobody, nobody, settings), 900)
    return {"megabytes": most_megabytes(), "calls": survey.calls, "counts": counts}


if __name__ == "__main__":
    print(json.dumps(main(Fleet(int(sys.argv[1]), interfaces=20, prefixes=1))))
