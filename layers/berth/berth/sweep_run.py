"""What all phases of a sweep share: its turn at EC2, its time, its counts, and how it asks for looks."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from berth.absent import Unlimited
from berth.budget import Budget, Priority
from berth.bus import Bus
from berth.chunks import chunks
from berth.ec2_wire import Ec2Error, Trouble
from berth.events.node_look_requested import HookWait
from berth.findings import Kind
from berth.looks import Looks, spread
from berth.model import Instance
from berth.policy import is_managed
from berth.settings import Settings
from berth.survey import PAGE_IDS, Page, Survey, every
from berth.sweep_store import SweepStore

__all__ = ["LEVELS", "OutOfTimeError", "Run", "SweepEdges"]

logger = logging.getLogger(__name__)

SPARE_SECONDS: Final = 40.0
"""No call is begun in the last seconds: one may take three time-outs (:data:`berth.ec2.CLIENT_CONFIG`)."""
PATIENCE_SECONDS: Final = 5.0
"""So long a sweep waits for its turn at EC2. Beyond that it stops, and the next run goes on from there."""
_BATCH: Final = 10
"""Nodes in one message batch, and in one batch of ``reconcile_nodes``."""
LEVELS: Final = (
    "NodesSeen",
    "NodesInDeficit",
    "DeficitAddresses",
    "RecordsSeen",
    "InterfacesSeen",
    "RecordsBroken",
    "InterfacesMoved",
    "InterfacesDetached",
    "InterfacesDeleted",
    "InterfacesOrphaned",
    "InterfacesUnattached",
    "InterfacesStranded",
    "SubnetsLow",
    "SubnetsFragmented",
    "SweepRepairs",
    "SweepTroubles",
    "SweepsFinished",
    "SweepsContinued",
    "SweepsBusy",
    "EventsNotSent",
)
"""Counts beside those of :class:`~berth.findings.Kind`; all are there in each run, zero or not, for the alarms."""

T = TypeVar("T")


class OutOfTimeError(Exception):
    """The invocation ends soon, or others need EC2 more: stop here, the next run goes on."""


def _token() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class SweepEdges:
    """What the sweep works with. ``clock`` gives Unix seconds; ``token`` a new unique text."""

    survey: Survey
    store: SweepStore
    looks: Looks
    bus: Bus
    settings: Settings
    budget: Budget = field(default_factory=Unlimited)
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    token: Callable[[], str] = _token


@dataclass(slots=True)
class Run:
    """One invocation. ``deadline`` is Unix time; ``asked`` are the nodes a look was asked for, each once."""

    edges: SweepEdges
    deadline: float
    counts: Counter[str] = field(default_factory=Counter)
    asked: set[str] = field(default_factory=set)
    hooked: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts.update(dict.fromkeys((*LEVELS, *(k.value for k in Kind)), 0))

    # ------------------------------------------------------------------------------------------------ time and turn

    def check(self) -> None:
        """Raises :class:`OutOfTimeError` when no further call should begin."""
        if self.edges.clock() > self.deadline - SPARE_SECONDS:
            raise OutOfTimeError

    def _turn(self, action: str) -> None:
        """Wait until the sweep may make one call of ``action``: it takes what others leave of the shared budget.

        It waits itself, a moment at most: it has no message that could come again, and nobody waits for it.
        """
        patience = self.edges.clock() + PATIENCE_SECONDS
        while True:
            self.check()
            now = self.edges.clock()
            slot = self.edges.budget.reserve(action, 1, Priority.WARM, now)
            if slot.at <= now:
                return
            if slot.at > min(patience, self.deadline - SPARE_SECONDS):
                raise OutOfTimeError
            self.edges.sleep(slot.at - now)
            if slot.reserved:
                return

    def call(self, action: str, method: Callable[..., T], *arguments: object) -> T:
        """Make one describe. Raises what the survey raises, and :class:`OutOfTimeError`."""
        self._turn(action)
        self.counts["DescribeCalls"] += 1
        try:
            return method(*arguments)
        except Ec2Error as error:
            if error.trouble is Trouble.THROTTLED:
                self.counts["DescribesThrottled"] += 1
                self.edges.budget.throttled(action, self.edges.clock())
            raise

    def all(self, action: str, method: Callable[[T, str], Page[Page_T]], argument: T) -> Iterator[Page_T]:
        """Every item, page by page."""
        return every(lambda token: self.call(action, method, argument, token))

    def instances(self, ids: Sequence[str]) -> dict[str, Instance]:
        """By id, those that EC2 shows; at most :data:`~berth.survey.PAGE_IDS` of them."""
        if not ids:
            return {}
        return {i.id: i for i in self.all("DescribeInstances", self.edges.survey.instances_among, ids)}

    # ------------------------------------------------------------------------------------------------ findings

    def is_node(self, instance: Instance) -> bool:
        """Ours to look after: tagged for a cluster that is served, and not unmanaged."""
        return is_managed(dict(instance.tags), self.edges.settings.clusters)

    def ask(self, kind: Kind, ids: Iterable[str], hooks: Mapping[str, HookWait] | None = None) -> None:
        """Ask for a look at each of these nodes, unless this run has done so already. ``hooks`` by instance id."""
        new = sorted(set(ids) - self.asked)
        for batch in chunks(new, _BATCH):
            delay = spread(len(self.asked))
            for hook in sorted({(hooks or {}).get(i) for i in batch}, key=str):
                those = [i for i in batch if (hooks or {}).get(i) == hook]
                self.edges.looks.ask(those, f"sweep: {kind.value}", delay, hook)
            self.asked.update(batch)
        self.counts[kind.value] += len(new)
        if kind.repair:
            self.counts["SweepRepairs"] += len(new)

    def trouble(self, where: str) -> None:
        """In an exception's handler: this page is left to the next sweep, and the others go on."""
        self.counts["SweepTroubles"] += 1
        logger.exception("a page of the sweep failed; the next sweep comes to it again", extra={"where": where})

    def each_chunk(self, where: str, items: Sequence[T], handle: Callable[[list[T]], None]) -> None:
        """Handle ``items`` 200 at a time; one chunk's trouble does not stop the others."""
        for chunk in chunks(items, PAGE_IDS):
            try:
                handle(chunk)
            except OutOfTimeError:
                raise
            except Exception:  # throttled, refused, or one bad item
                self.trouble(where)


Page_T = TypeVar("Page_T")
