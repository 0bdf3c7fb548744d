"""The watcher keeps the kernel as it was last decided, one change at a time, and tells who undoes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from berth.contract import BODY, LEASES, Assignment, IpFamilies, Policy, Record, encode_record
from berth_node.config import Config
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.imds import Identity
from berth_node.journal import Journal
from berth_node.pod import Pod
from berth_node.record import RecordKeeper
from berth_node.seams import Attachment, Change, DataplaneError, NodeLayout, Problem
from berth_node.watcher import Watcher

from tests.unit.node.cloud import ARN
from tests.unit.node.kernel import FakeKernel
from tests.unit.node.make import MACS, interface, metadata, record

_R = TypeVar("_R")
FIRST = record(interface(0, "10.0.0.16/28"), revision=1)
SECOND = record(interface(0, "10.0.0.16/28", "10.0.0.32/28"), revision=2)


@dataclass
class Telling:
    """Notices that a test writes; readable as long as there are some."""

    told: list[Change] = field(default_factory=list)
    descriptors: tuple[int, ...] = ()

    def read(self) -> Change | None:
        told, self.told = self.told, []
        return told[0] if told else None


@dataclass
class Kernel(FakeKernel):
    """``loading`` and ``mending`` are called while the kernel is; ``lost`` are pods that cannot be mended."""

    telling: Telling = field(default_factory=Telling)
    loading: Callable[[], None] = lambda: None
    mending: Callable[[], None] = lambda: None
    lost: tuple[Problem, ...] = ()

    def configure(self, layout: NodeLayout) -> tuple[Problem, ...]:
        self.loading()
        return super().configure(layout)

    def repair(self, attachments: Any) -> tuple[Problem, ...]:
        super().repair(attachments)
        self.mending()
        return self.lost

    def notices(self) -> Telling:  # type: ignore[override]
        return self.telling


@dataclass
class Outside:
    """Record and metadata as AWS has them, and the node's clock."""

    record: Record | None = None
    now: float = 1000.0
    gate: asyncio.Event | None = None
    waits: asyncio.Event = field(default_factory=asyncio.Event)
    """A call of the kernel waits for ``gate``."""
    acknowledged: str | None = None

    def item(self, _key: Mapping[str, str]) -> Mapping[str, str]:
        if self.record is None:
            raise OSError("no answer")
        told = {} if self.acknowledged is None else {LEASES: self.acknowledged}
        return {BODY: encode_record(self.record)} | told

    def interfaces(self, *, ipv6: bool) -> Any:
        if self.record is None:
            raise OSError("no answer")
        return metadata(self.record) if ipv6 else [replace(m, ipv6_prefixes=()) for m in metadata(self.record)]

    async def in_rtnl(self, call: Callable[[], _R], /) -> _R:
        if self.gate:
            gate, self.gate = self.gate, None
            self.waits.set()
            await gate.wait()
        return call()

    async def in_cloud(self, call: Callable[[], _R], /) -> _R:
        return call()


@dataclass
class Bench:
    outside: Outside
    kernel: Kernel
    desk: Desk
    watcher: Watcher

    def pod(self, name: str) -> Attachment:
        """A pod that is wired."""
        attachment = self.desk.lend(Pod((name, "eth0")))
        assert attachment
        self.desk.wired((name, "eth0"), self.kernel.attach(attachment))
        return attachment

    def hear(self, change: Change) -> None:
        self.kernel.telling.told.append(change)
        self.watcher._hear()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    outside, kernel = Outside(FIRST), Kernel(frozenset(MACS))
    identity = Identity(ARN.rpartition("/")[2], ARN.split(":")[4], ARN.split(":")[3], "aws")
    desk = Desk(Journal.open(tmp_path / "j"), DurableFile(tmp_path / "d", "i-0123456789abcdef0"), lambda: outside.now)
    keeper = RecordKeeper(identity, tmp_path, outside.item)
    config = Config(table="t", reports_queue_url="q")
    imds: Any = outside
    watcher = Watcher(config, keeper, imds, kernel, desk, outside.in_cloud, outside.in_rtnl)
    yield Bench(outside, kernel, desk, watcher)
    desk.journal.close()


def _run(coroutine: Coroutine[Any, Any, _R]) -> _R:
    async def limited() -> _R:
        async with asyncio.timeout(20):
            return await coroutine

    return asyncio.run(limited())


def test_a_stack_that_is_rolled_back_to_one_without_a_ledger_is_told_no_leases(bench: Bench) -> None:
    bench.outside.acknowledged = "/0"
    leases = bench.desk.journal.leases

    async def script() -> None:
        await bench.watcher.look()
        bench.pod("a")
        await bench.watcher.look()
        assert len(leases.report(1000.0)["leases"]) == 1
        bench.outside.acknowledged = None
        await bench.watcher.look()
        assert leases.report(1000.0)["leases"] == ()

    _run(script())


LOSS = Change("a rule", lost=True)
NFT = Change("the nftables table berth", lost=True, maybe_ours=True)


def test_a_change_makes_the_kernel_be_looked_at_again_and_nothing_else_does_within_a_minute(bench: Bench) -> None:
    async def script() -> None:
        await bench.watcher.look()
        await bench.watcher.look()
        assert len(bench.kernel.layouts) == 1
        with bench.watcher.listening():
            bench.hear(LOSS)
            await bench.watcher.follow()
        assert len(bench.kernel.layouts) == 2
        bench.outside.now += 60.0
        await bench.watcher.look()
        assert len(bench.kernel.layouts) == 3

    _run(script())


def test_links_of_pods_whose_dels_are_kept_are_worth_no_look(bench: Bench) -> None:
    """A runtime removes a pod's namespace as soon as its DEL has succeeded, and the kernel tells of the link."""

    async def script() -> None:
        await bench.watcher.look()
        one, other = bench.pod("a"), bench.pod("b")
        indexes = {pod: bench.desk.entries[pod.key].wired for pod in (one, other)}

        def about(pod: Attachment) -> Change:
            wired = indexes[pod]
            assert wired
            return Change("gone", links=frozenset((wired.host_ifindex,)))

        async def kept() -> None:
            bench.desk.free(one.key)

        bench.watcher.kept = kept
        looks = len(bench.kernel.layouts)
        with bench.watcher.listening():
            bench.hear(about(one))
            await bench.watcher.follow()
            assert len(bench.kernel.layouts) == looks, "the pod has been taken away"
            bench.hear(about(other))
            await bench.watcher.follow()
            assert len(bench.kernel.layouts) == looks + 1, "this one should be there"
            bench.hear(about(one))
            bench.hear(LOSS)
            await bench.watcher.follow()
            assert len(bench.kernel.layouts) == looks + 2, "something else has changed, too"
            bench.hear(LOSS)
            bench.hear(about(one))
            await bench.watcher.follow()
            assert len(bench.kernel.layouts) == looks + 3

    _run(script())


def test_a_pod_that_has_gone_since_the_last_look_is_no_trouble(bench: Bench) -> None:
    """Its DEL was kept late: the look had seen what its plugin did."""

    async def script() -> None:
        await bench.watcher.look()
        pod = bench.pod("a")
        bench.kernel.lost = (Problem(pod.host_ifname, "the host link is gone; delete the pod"),)
        with bench.watcher.listening():
            bench.hear(LOSS)
            await bench.watcher.follow()
        assert len(bench.watcher.problems) == 1
        bench.desk.free(pod.key)
        assert not bench.watcher.problems

    _run(script())


def test_a_pod_whose_del_is_kept_is_no_trouble(bench: Bench) -> None:
    """Its plugin has taken it from the kernel, which is all that a look can see."""
    gone = Problem("eni1", "the host link is gone; delete the pod")

    async def script() -> None:
        await bench.watcher.look()
        one, other = bench.pod("a"), bench.pod("b")
        bench.kernel.lost = (replace(gone, where=one.host_ifname), replace(gone, where=other.host_ifname))

        async def kept() -> None:
            bench.desk.free(one.key)

        bench.watcher.kept = kept
        with bench.watcher.listening():
            bench.hear(LOSS)
            await bench.watcher.follow()
        assert [p.where for p in bench.watcher.problems] == [other.host_ifname]

    _run(script())


def test_an_older_record_never_comes_last(bench: Bench) -> None:
    async def script() -> None:
        await bench.watcher.look()
        with bench.watcher.listening():
            bench.hear(LOSS)
            bench.outside.gate = gate = asyncio.Event()
            following = asyncio.ensure_future(bench.watcher.follow())
            await bench.outside.waits.wait()  # it has the first record in its hands
            bench.outside.record = SECOND
            looking = asyncio.ensure_future(bench.watcher.look())
            for _ in range(20):
                await asyncio.sleep(0)
            gate.set()
            await asyncio.gather(following, looking)
        assert bench.watcher.applied_revision == 2
        assert {b.cidr for b in bench.desk.pool.blocks} == {"10.0.0.16/28", "10.0.0.32/28"}

    _run(script())


def test_pods_are_mended_though_nothing_outside_answers(bench: Bench) -> None:
    async def script() -> None:
        await bench.watcher.look()
        pod = bench.pod("a")
        bench.outside.record = None
        bench.outside.now += 60.0
        bench.watcher.keeper.current = bench.watcher.metadata = None
        await bench.watcher.look()
        assert bench.kernel.repaired[-1] == (pod,)
        count = len(bench.kernel.repaired)
        await bench.watcher.look()
        assert len(bench.kernel.repaired) == count

    _run(script())


def test_a_pod_that_cannot_be_mended_is_told_until_it_is_deleted(bench: Bench) -> None:
    async def script() -> None:
        await bench.watcher.look()
        pod = bench.pod("a")
        bench.kernel.lost = (Problem(pod.host_ifname, "gone"),)
        bench.outside.now += 60.0
        await bench.watcher.look()
        assert [p.where for p in bench.watcher.problems] == [pod.host_ifname]
        # a DEL while the kernel is looked at
        bench.kernel.mending = lambda: bench.desk.free(("a", "eth0"))
        bench.outside.now += 60.0
        await bench.watcher.look()
        assert bench.watcher.problems == ()

    _run(script())


WIDE = "2001:db8:1:2:3::/80"


def _dual(revision: int, *ipv6: str, families: IpFamilies = "dual") -> Record:
    made = replace(interface(0, "10.0.0.16/28"), ipv6_assignments=tuple(Assignment(c, f"as-{c}") for c in ipv6))
    return record(made, revision=revision, policy=Policy(warm_addresses=0, ip_families=families))


def test_a_prefix_that_the_record_does_not_list_yet_is_waited_for_ten_seconds(bench: Bench) -> None:
    """EC2 assigns it by a call after the IPv4 blocks, and a record is written in between."""

    async def script() -> None:
        bench.outside.record = _dual(2)
        await bench.watcher.look()
        assert not bench.desk.can_lend
        bench.outside.now += 9.9
        await bench.watcher.look()
        assert not bench.desk.can_lend
        bench.outside.record = _dual(3, WIDE)
        await bench.watcher.look()
        assert len(bench.pod("a").addresses) == 2
        bench.outside.record = _dual(4)
        await bench.watcher.look()
        bench.outside.now += 10.1
        await bench.watcher.look()
        assert bench.desk.prefixes.why.startswith("pods get IPv4 alone")
        assert len(bench.pod("b").addresses) == 1

    _run(script())


def test_ipv6_is_routed_while_the_policy_asks_for_it_or_a_pod_has_it(bench: Bench) -> None:
    async def script() -> None:
        await bench.watcher.look()
        bench.outside.record = _dual(2, WIDE)
        await bench.watcher.look()
        bench.pod("a")
        bench.outside.record = _dual(3, WIDE, families="ipv4")
        await bench.watcher.look()
        bench.desk.free(("a", "eth0"))
        await bench.watcher.look()
        assert [layout.ipv6 for layout in bench.kernel.layouts] == [False, True, False]
        assert [layout.interfaces[0].ipv6_blocks for layout in bench.kernel.layouts] == [(), (WIDE,), ()]

    _run(script())


def test_an_mtu_below_what_ipv6_needs_makes_it_ipv4(bench: Bench) -> None:
    async def script() -> None:
        bench.watcher.config = replace(bench.watcher.config, mtu=1200)
        bench.outside.record = _dual(2, WIDE)
        await bench.watcher.look()
        assert "the setting mtu is 1200" in bench.desk.prefixes.why
        assert len(bench.pod("a").addresses) == 1

    _run(script())


def test_a_prefix_that_could_not_be_routed_is_not_lent_from(bench: Bench) -> None:
    async def script() -> None:
        await bench.watcher.look()

        def refuse() -> None:
            raise DataplaneError("no")

        bench.kernel.loading = refuse
        bench.outside.record = _dual(2, WIDE)
        await bench.watcher.look()
        assert not bench.desk.can_lend

    _run(script())


def _fights(bench: Bench) -> bool:
    return any("keeps undoing" in problem.message for problem in bench.watcher.problems)


async def _often(bench: Bench, change: Change) -> None:
    for _ in range(8):
        bench.hear(change)
        bench.outside.now += 5.0
        await bench.watcher.follow()
        bench.outside.now += 5.0


@pytest.mark.parametrize("change", [LOSS, NFT])
def test_a_program_that_keeps_undoing_is_told(bench: Bench, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth_node.watcher.asyncio.sleep", _at_once)

    async def script() -> None:
        await bench.watcher.look()
        with bench.watcher.listening():
            await _often(bench, change)
            assert _fights(bench)
            bench.outside.now += 60.0
            assert not _fights(bench)

    _run(script())


def test_what_nftables_tells_while_the_agent_loads_its_table_is_nobodys_fault(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("berth_node.watcher.asyncio.sleep", _at_once)

    async def script() -> None:
        await bench.watcher.look()
        bench.kernel.loading = lambda: bench.kernel.telling.told.append(NFT)
        with bench.watcher.listening():
            await _often(bench, Change("an address"))
            assert not _fights(bench)

    _run(script())


async def _at_once(_seconds: float) -> None:
    """Times are the bench's own."""
