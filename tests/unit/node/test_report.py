"""What reports say, and when they go."""

from __future__ import annotations

import asyncio

from berth.contract import Order, Policy, Report, Surrender, decode_report
from berth_node.pool import Pool, Waiter
from berth_node.report import build
from berth_node.reporter import Reporter

from tests.unit.node.make import MACS, block

A, B, C = "10.0.0.16/28", "10.0.0.32/28", "10.0.0.48/28"


def test_a_report_is_a_full_snapshot() -> None:
    surrendered = (Surrender(MACS[0], C, f"as-{C}"),)
    pool = Pool(
        Policy(),
        (block(A), block(B, shown=False), block(C, shown=False)),
        lent={("a", "eth0"): "10.0.0.16"},
        cooling={"10.0.0.17": 9.0, "10.0.0.50": 9.0},
        waiting=(Waiter(("b", "eth0"), "uid-b"),),
        surrendered=surrendered,
    )
    report = build(pool, 7, Order(2, 3))
    assert report == Report(Order(2, 3), 7, 1, ("uid-b",), 1, (B,), surrendered)


class Outbox:
    """Takes reports, or refuses as many as asked."""

    def __init__(self, refuse: int = 0) -> None:
        self.in_use, self.sequence, self.refuse = 0, 0, refuse
        self.sent: list[Report] = []
        self.attempts = 0
        self.arrived = asyncio.Event()

    def build(self) -> Report:
        self.sequence += 1
        return Report(Order(1, self.sequence), 1, self.in_use)

    async def send(self, text: str) -> None:
        self.attempts += 1
        if self.attempts <= self.refuse:
            raise OSError("no route")
        self.sent.append(decode_report(text))
        self.arrived.set()


def played(outbox: Outbox, steps: list[tuple[int, bool]], interval: float = 60.0, debounce: float = 0.05) -> Reporter:
    """Each step sets in_use, notifies and waits for the report to arrive."""

    async def play() -> Reporter:
        reporter = Reporter(outbox.build, outbox.send, lambda _: None, interval, debounce, lambda: 0.0)
        task = asyncio.ensure_future(reporter.run())
        for in_use, urgent in steps:
            outbox.in_use = in_use
            outbox.arrived.clear()
            reporter.notify(urgent=urgent)
            async with asyncio.timeout(20):
                await outbox.arrived.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return reporter

    return asyncio.run(play())


def test_each_change_is_reported_and_orders_rise() -> None:
    outbox = Outbox()
    played(outbox, [(1, False), (2, True)])
    assert [r.in_use for r in outbox.sent] == [1, 2]
    assert outbox.sent[0].order < outbox.sent[1].order


def test_a_refused_report_is_followed_by_a_fresh_one_soon() -> None:
    outbox = Outbox(refuse=2)
    reporter = played(outbox, [(5, True)])
    assert [r.in_use for r in outbox.sent] == [5]
    assert outbox.sent[0].order == Order(1, 3)
    assert reporter.failures == 0


def test_a_node_to_which_nothing_happens_reports_all_the_same() -> None:
    outbox = Outbox()

    async def play() -> None:
        reporter = Reporter(outbox.build, outbox.send, lambda _: None, 0.02, 0.0, lambda: 0.0)
        task = asyncio.ensure_future(reporter.run())
        async with asyncio.timeout(20):
            while len(outbox.sent) < 3:
                outbox.arrived.clear()
                await outbox.arrived.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(play())
    assert [r.in_use for r in outbox.sent[:3]] == [0, 0, 0]


def test_nothing_new_is_not_sent_before_its_time() -> None:
    outbox = Outbox()

    async def play() -> None:
        reporter = Reporter(outbox.build, outbox.send, lambda _: None, 60.0, 0.0, lambda: 0.0)
        task = asyncio.ensure_future(reporter.run())
        for _ in range(3):
            reporter.notify()
            await asyncio.sleep(0.02)
        outbox.in_use = 1
        reporter.notify(urgent=True)
        async with asyncio.timeout(20):
            while not outbox.sent or outbox.sent[-1].in_use != 1:
                outbox.arrived.clear()
                await outbox.arrived.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(play())
    assert [r.in_use for r in outbox.sent] == [0, 1]


def test_ticks_that_change_nothing_do_not_put_the_regular_report_off() -> None:
    outbox = Outbox()

    async def play() -> None:
        reporter = Reporter(outbox.build, outbox.send, lambda _: None, 0.1, 0.0, lambda: 0.0)
        task = asyncio.ensure_future(reporter.run())
        async with asyncio.timeout(20):
            while len(outbox.sent) < 3:
                reporter.notify()
                await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(play())
    assert [r.in_use for r in outbox.sent[:3]] == [0, 0, 0]
