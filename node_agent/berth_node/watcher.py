"""Looks at record, metadata and links, makes the kernel match, and tells the desk what can be lent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

from berth.contract import Record

from berth_node.config import Config
from berth_node.desk import Desk
from berth_node.imds import Imds
from berth_node.ipv6 import Prefixes, prefixes_of
from berth_node.pace import Pace
from berth_node.record import RecordKeeper
from berth_node.seams import Attachment, Dataplane, DataplaneError, NodeLayout, Notices, Problem, only_links
from berth_node.usable import Block, MetadataInterface, blocks_of, layouts_of, owns_of

__all__ = ["InThread", "Watcher"]

_log = logging.getLogger(__name__)
_R = TypeVar("_R")
_RECONFIGURE: Final = 60.0  # seconds; whatever of ours something else removed comes back within this
_PREFIX_SECONDS: Final = 10.0
"""How long an IPv6 prefix that the record does not list yet is waited for: EC2 assigns it by a call of its own, after
the IPv4 blocks, and a record is written between the two. Where none comes, pods get IPv4 alone."""
_LEAST_MTU6: Final = 1280  # RFC 8200, 5; the kernel takes IPv6 off a link of less
_MOMENT: Final = 0.05
"""Seconds from a plugin's having taken a pod away until its DEL is kept, at most, where nothing is wrong with it."""


async def _nothing() -> None:
    pass


class InThread(Protocol):
    """Runs a blocking call in one thread of its own."""

    def __call__(self, call: Callable[[], _R], /) -> Awaitable[_R]: ...


@dataclass(slots=True)
class Watcher:
    """What is known of the node from outside. A failure to read leaves what was known before (fail static)."""

    config: Config
    keeper: RecordKeeper
    imds: Imds
    dataplane: Dataplane
    desk: Desk
    in_cloud: InThread
    in_rtnl: InThread
    metadata: tuple[MetadataInterface, ...] | None = None
    trouble: dict[str, str] = field(default_factory=dict)
    applied_revision: int | None = None
    read_at: dict[str, float] = field(default_factory=dict)
    _layout: NodeLayout | None = None
    _without_prefix: float | None = None
    _made_at: float = 0.0
    _routing: tuple[Problem, ...] = ()
    _pods: tuple[Problem, ...] = ()
    _looked: Mapping[str, Attachment] = field(default_factory=dict)
    """The pods of the last look, by host link."""
    kept: Callable[[], Awaitable[object]] = _nothing
    """Does the DELs of pods that their plugins have taken from the kernel (:mod:`berth_node.spool`)."""
    _making: asyncio.Lock = field(default_factory=asyncio.Lock)
    _notices: Notices | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _links: frozenset[int] | None = None
    """Pods' links that changed, empty if something else did too, None if nothing did (:func:`only_links`)."""
    _pace: Pace = field(default_factory=Pace)

    @property
    def refusal(self) -> str:
        """Why no pod is to be made on this node, in words; "" if pods may be."""
        if self.config.ipvs == "tell":
            return ""
        return next((f"{p.where}: {p.message}" for p in self._routing if p.fatal), "")

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What of routing and pods is not as it should be."""
        fight = self._pace.fight(self.desk.clock())
        undone = Problem("kernel", f"something keeps undoing Berth's work (last: {fight}); find it and stop it")
        return (*self._routing, *self._of_pods(), *([undone] if fight else []))

    def _of_pods(self) -> Iterator[Problem]:
        """What the last look found of pods that are still there."""
        there = {entry.attachment for entry in self.desk.entries.values()} if self._pods else set()
        for problem in self._pods:
            pod = self._looked.get(problem.where)
            if pod is None or pod in there:
                yield problem

    async def look(self) -> bool:
        """Read everything and apply it; True if the blocks or what may be done with them changed."""
        try:
            await self.in_cloud(self.keeper.fetch)
            self._was_read("record")
        except Exception as error:  # whatever AWS, the network or the record's writer may do: fail static
            self.note("record", error)
        try:
            ipv6 = self.keeper.current is not None and self.keeper.current.policy.ip_families != "ipv4"
            self.metadata = await self.in_cloud(lambda: self.imds.interfaces(ipv6=ipv6))
            self._was_read("metadata")
        except Exception as error:
            self.note("metadata", error)
        await self._ask_ledger()
        return await self._apply()

    async def _ask_ledger(self) -> None:
        """What the ledger has is dropped. Not asked while there is nothing to drop."""
        leases = self.desk.journal.leases
        if not leases.untold:
            return
        try:
            told = await self.in_cloud(self.keeper.fetch_told)
            self._was_read("leases")
        except Exception as error:
            self.note("leases", error)
            return
        leases.acknowledged(told)

    def _was_read(self, what: str) -> None:
        self.trouble.pop(what, None)
        self.read_at[what] = self.desk.clock()

    # ------------------------------------------------------------------------------------- what the kernel tells

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While it lasts, :meth:`follow` hears what the kernel tells."""
        loop, self._notices = asyncio.get_running_loop(), self.dataplane.notices()
        descriptors = self._notices.descriptors
        while self._notices.read():
            self._links = frozenset()
            self._changed.set()  # told before we listened: not to be blamed on anybody, but worth a look
        for descriptor in descriptors:
            loop.add_reader(descriptor, self._hear)
        try:
            yield
        finally:
            self._notices = None
            for descriptor in descriptors:
                loop.remove_reader(descriptor)

    async def follow(self) -> bool:
        """Wait until something else changes the kernel, and make it right again; True as :meth:`look` says.

        Nothing outside the node is asked. What is told meanwhile is for the next call: a look that had nothing to do
        writes nothing, so it ends.
        """
        await self._changed.wait()
        if self._links and not await self._missed(self._links):
            return False
        await asyncio.sleep(self._pace.pause(self.desk.clock()))
        self._changed.clear()
        self._links = None
        self._pace = self._pace.looks(self.desk.clock())
        return await self._apply(at_once=True)

    async def _missed(self, links: frozenset[int]) -> bool:
        """Whether a pod should have one of these links, which is all that was told of. Most are those of pods whose DEL
        has just been kept."""
        self._links = None
        self._changed.clear()
        await self.kept()
        known = [entry.wired.host_ifindex for entry in self.desk.entries.values() if entry.wired]
        return any(index in links or not index for index in known)

    def _hear(self) -> None:
        change = self._notices.read() if self._notices else None
        if change is None:
            return
        self._links = only_links(self._links, change)
        if change.lost and not (change.maybe_ours and self._making.locked()):
            if not self._pace.lost:  # once a look, however much is told
                _log.info("something else took away what Berth made", extra={"what": change.what})
            self._pace = self._pace.told(change.what)
        self._changed.set()

    @contextmanager
    def noting(self, what: str, *failures: type[Exception]) -> Iterator[None]:
        """Note such a failure of the block, which ends it, or forget an earlier one."""
        try:
            yield
        except failures as error:
            self.note(what, error)
        else:
            self.trouble.pop(what, None)

    def note(self, what: str, error: Exception) -> None:
        """Log a failure once for as long as it stays the same, and keep it for ``berth-node status``."""
        if self.trouble.get(what) != str(error):
            _log.warning("trouble with %s", what, extra={"why": str(error)})
        self.trouble[what] = str(error)

    async def _apply(self, *, at_once: bool = False) -> bool:
        """Make the kernel and the desk agree with what is known. ``at_once``: also if it was done a moment ago.

        One at a time, and from what is known when its turn comes: an older record that came last would lend addresses
        again that a newer one takes back.
        """
        async with self._making:
            if at_once:
                self._made_at = float("-inf")
            if self.keeper.current is None or self.metadata is None:
                await self._mend()
                return False
            return await self._agree(self.keeper.current, self.metadata)

    async def _agree(self, record: Record, metadata: tuple[MetadataInterface, ...]) -> bool:
        try:
            links = await self.in_rtnl(self.dataplane.usable_macs)
            prefixes = await self._prefixes(record, metadata, links)
            await self._configure(record, links, ipv6=prefixes.families != "ipv4")
            self.trouble.pop("kernel", None)
        except DataplaneError as error:
            self.note("kernel", error)
            links = self._routed_macs()
            prefixes = await self._prefixes(record, metadata, links)
        # Only what is routed may be lent; a releasing mark or a removal takes effect whatever the kernel said.
        routed = {(i.mac, c) for i in (self._layout.interfaces if self._layout else ()) for c in i.blocks}
        blocks: tuple[Block, ...] = tuple(
            b if (b.mac, b.cidr) in routed else replace(b, usable=False) for b in blocks_of(record, metadata, links)
        )
        routed6 = {(i.mac, c) for i in (self._layout.interfaces if self._layout else ()) for c in i.ipv6_blocks}
        prefixes = prefixes.only(routed6)
        changed = (blocks, prefixes) != (self.desk.pool.blocks, self.desk.prefixes)
        changed = changed or record.revision != self.applied_revision
        if prefixes.why and prefixes.why != self.desk.prefixes.why:
            _log.warning("IPv6 is not as the policy asks", extra={"why": prefixes.why})
        # before the desk: who waits may ask at once
        self.desk.requests.own = owns_of(record, metadata, self._layout.interfaces if self._layout else ())
        self.desk.refresh(record, blocks, prefixes)
        self.applied_revision = record.revision
        return changed

    def _routed_macs(self) -> frozenset[str]:
        return frozenset(i.mac for i in self._layout.interfaces) if self._layout else frozenset()

    async def _prefixes(
        self, record: Record, metadata: tuple[MetadataInterface, ...], links: frozenset[str]
    ) -> Prefixes:
        if record.policy.ip_families == "ipv4":
            self._without_prefix = None
            return Prefixes()
        refusal = await self.in_rtnl(self.dataplane.ipv6_refusal)
        if 0 < self.config.mtu < _LEAST_MTU6:
            refusal = f"the setting mtu is {self.config.mtu}, and IPv6 needs {_LEAST_MTU6}"
        now = self.desk.clock()
        if any(i.ipv6_assignments for i in record.interfaces):
            self._without_prefix = None
        elif self._without_prefix is None:
            self._without_prefix = now
        patient = self._without_prefix is None or now - self._without_prefix < _PREFIX_SECONDS
        return prefixes_of(record, metadata, links, refusal, patient)

    async def _configure(self, record: Record, links: frozenset[str], *, ipv6: bool) -> None:
        config = self.config
        # pods keep what they have when the policy changes
        ipv6 = ipv6 or any(":" in e.attachment.addresses[-1] for e in self.desk.entries.values())
        layout = NodeLayout(
            layouts_of(record, links, ipv6=ipv6),
            (*record.no_snat_cidrs, *config.no_snat_cidrs),
            config.snat,
            config.interface_mask,
            config.connection_mark,
            ipv6,
            self.desk.requests.public(record.grants),
        )
        if layout == self._layout and not self._routing and not self._due():
            return
        await self._make(layout)

    def _due(self) -> bool:
        return self.desk.clock() - self._made_at >= _RECONFIGURE

    async def _mend(self) -> None:
        """Keep what is there whole, for as long as nobody says what the node should be."""
        if not self._due():
            return
        with self.noting("kernel", DataplaneError):
            await self._make(self._layout)

    async def _make(self, layout: NodeLayout | None) -> None:
        before, now = self.problems, self.desk.clock()
        if layout is not None:
            self._routing = await self.in_rtnl(lambda: self.dataplane.configure(layout))
            self._layout = layout
        await self._repair()
        self._hear()  # as long as what nftables told may be our own doing
        self._made_at = now
        if self.problems and self.problems != before:
            _log.warning(
                "not all routing is as it should be",
                extra={"problems": [f"{p.where}: {p.message}" for p in self.problems]},
            )

    async def _repair(self) -> None:
        pods = tuple(entry.attachment for entry in self.desk.entries.values() if entry.wired)
        problems = await self.in_rtnl(lambda: self.dataplane.repair(pods))
        if problems:
            await asyncio.sleep(_MOMENT)
            await self.kept()  # a DEL that came before the repair took its own link
        self._pods, self._looked = problems, {pod.host_ifname: pod for pod in pods}
