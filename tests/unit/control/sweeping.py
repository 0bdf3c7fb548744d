"""The sweep over any EC2 and table in memory: pages cut from what those describe, as the real ones cut theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol, TypeVar

from berth.budget import Budget
from berth.bus import Bus
from berth.looks import Looks
from berth.model import Instance, InterfaceView, PublicAddress, SubnetView
from berth.settings import Settings
from berth.store import NodeState
from berth.survey import GROUP_IDS, PAGE_IDS, Page, Reservation
from berth.sweep import SweepEdges, sweep
from berth.sweep_store import Claim, Outline, Progress, TablePage

T = TypeVar("T")


class AnyEc2(Protocol):
    """What is needed of an EC2 in memory; ``all_interfaces`` (by id) is used where there is one."""

    def instances(self, ids: Sequence[str]) -> dict[str, Instance]: ...

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]: ...

    def node_pages(self, clusters: Iterable[str]) -> Iterator[tuple[Instance, ...]]: ...

    def tagged_interface_pages(self) -> Iterator[tuple[InterfaceView, ...]]: ...

    def allowed_subnets(self) -> tuple[SubnetView, ...]: ...


class AnyTable(Protocol):
    """What is needed of a table in memory. ``leases`` by ARN: (holder, until, knocks)."""

    @property
    def leases(self) -> Mapping[str, tuple[str, float, int]]: ...

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]: ...

    def records(self) -> Iterator[tuple[str, NodeState]]: ...


@dataclass
class FakeSurvey:
    """``size`` items in a page. A token is valid for the run of tokens it came from: ``forget`` makes all invalid."""

    ec2: AnyEc2
    size: int = 2
    calls: Counter[str] = field(default_factory=Counter)
    reservations: dict[str, list[Reservation]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    hooks: dict[str, str] = field(default_factory=dict)
    trouble: dict[str, Sequence[BaseException]] = field(default_factory=dict)
    forgotten: bool = False

    def nodes(self, clusters: Iterable[str], token: str) -> Page[Instance]:
        return self._cut("nodes", (i for page in self.ec2.node_pages(clusters) for i in page), token)

    def instances_among(self, ids: Sequence[str], token: str) -> Page[Instance]:
        assert 0 < len(ids) <= PAGE_IDS
        return self._cut("instances_among", self.ec2.instances(ids).values(), token)

    def attached(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        assert 0 < len(ids) <= PAGE_IDS
        shown = {v.id: v for views in self.ec2.interfaces(ids).values() for v in views}
        return self._cut("attached", (v for v in shown.values() if v.attachment), token)

    def interfaces_among(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        assert 0 < len(ids) <= PAGE_IDS
        return self._cut("interfaces_among", (v for v in self._tagged() if v.id in ids), token)

    def pooled_among(self, ids: Sequence[str], token: str) -> Page[PublicAddress]:
        assert 0 < len(ids) <= PAGE_IDS
        elastic: Mapping[str, PublicAddress] = getattr(self.ec2, "elastic", {})
        return self._cut("pooled_among", (e for e in elastic.values() if e.id in ids and e.pool), token)

    def unattached(self, token: str) -> Page[InterfaceView]:
        return self._cut("unattached", (v for v in self._tagged() if v.attachment is None), token)

    def subnets(self, token: str) -> Page[SubnetView]:
        return self._cut("subnets", self.ec2.allowed_subnets(), token)

    def used(self, subnet_id: str, token: str) -> Page[str]:
        shown: Mapping[str, InterfaceView] = getattr(self.ec2, "all_interfaces", {})
        there = (v for v in shown.values() if v.subnet_id == subnet_id)
        return self._cut("used", (b for v in there for b in (v.primary_address, *v.blocks)), token)

    def reserved(self, subnet_id: str, token: str) -> Page[Reservation]:
        return self._cut("reserved", self.reservations.get(subnet_id, ()), token)

    def in_hooks(self, ids: Sequence[str]) -> dict[str, str]:
        self._called("in_hooks")
        assert 0 < len(ids) <= GROUP_IDS
        return {i: self.groups[i] for i in ids if i in self.groups}

    def has_hook(self, group: str, name: str) -> bool:
        self._called("has_hook")
        return self.hooks.get(group) == name

    def _tagged(self) -> Iterator[InterfaceView]:
        return (i for page in self.ec2.tagged_interface_pages() for i in page)

    def _cut(self, name: str, items: Iterable[T], token: str) -> Page[T]:
        self._called(name)
        if token and self.forgotten:
            self.forgotten = False
            raise ValueError("InvalidNextToken")
        found = sorted(items, key=lambda i: str(getattr(i, "id", i)))
        start = int(token or "0")
        more = str(start + self.size) if start + self.size < len(found) else ""
        return Page(tuple(found[start : start + self.size]), more)

    def _called(self, name: str) -> None:
        self.calls[name] += 1
        if self.trouble.get(name):
            first, *self.trouble[name] = self.trouble[name]
            raise first


@dataclass
class FakeSweepStore:
    """A table's nodes, and the sweep's own item."""

    table: AnyTable
    size: int = 2
    progress: Progress = field(default_factory=Progress)
    holder: str = ""
    until: float = 0.0
    kept: list[Progress] = field(default_factory=list)
    claims: tuple[Claim, ...] = ()

    def glance(self, arns: Sequence[str]) -> dict[str, NodeState]:
        return {arn: replace(s, intents=(), report=None) for arn, s in self.table.load(arns).items()}

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]:
        return self.table.load(arns)

    def leased(self, arns: Sequence[str]) -> dict[str, float]:
        return {arn: self.table.leases[arn][1] for arn in arns if arn in self.table.leases}

    def page(self, token: str) -> TablePage:
        records = sorted(((arn, s.notes.next_look, s.buried) for arn, s in self.table.records()), key=str)
        start = int(token or "0")
        more = str(start + self.size) if start + self.size < len(records) else ""
        leases = () if start else tuple(sorted((arn, until) for arn, (_, until, _) in self.table.leases.items()))
        outlines = tuple(Outline(*r) for r in records[start : start + self.size])
        return TablePage(outlines, leases, more, () if start else self.claims)

    def begin(self, holder: str, now: float, until: float) -> Progress | None:
        if self.holder not in ("", holder) and self.until >= now:
            return None
        self.holder, self.until = holder, until
        return self.progress

    def keep(self, holder: str, progress: Progress) -> bool:
        if self.holder != holder:
            return False
        self.progress = progress
        self.kept.append(progress)
        return True

    def end(self, holder: str) -> None:
        if self.holder == holder:
            self.holder = ""


def sweep_all(
    ec2: AnyEc2,
    table: AnyTable,
    looks: Looks,
    bus: Bus,
    settings: Settings,
    clock: Callable[[], float],
    budget: Budget | None = None,
) -> Counter[str]:
    """One whole sweep of what is in memory, in one invocation. Returns its counts."""
    edges = sweep_edges(FakeSurvey(ec2), FakeSweepStore(table), looks, bus, settings, clock)
    return sweep(replace(edges, budget=budget) if budget is not None else edges, 300)


_TOKENS = count()


def sweep_edges(
    survey: FakeSurvey, store: FakeSweepStore, looks: Looks, bus: Bus, settings: Settings, clock: Any
) -> SweepEdges:
    """Edges whose ``sleep`` takes no time at all."""
    return SweepEdges(
        survey=survey,
        store=store,
        looks=looks,
        bus=bus,
        settings=settings,
        clock=clock,
        sleep=lambda _: None,
        token=lambda: f"sweep-{next(_TOKENS)}",
    )
