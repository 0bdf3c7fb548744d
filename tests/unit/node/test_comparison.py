"""What `berth-node check` finds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from typing import Any

from berth_node.comparison import compare
from berth_node.journal import Entry
from berth_node.seams import Attachment, DataplaneError, Problem, Wired

WIRED = Wired("a", "b", 3)


def attachment(number: int) -> Attachment:
    return Attachment(f"c{number}", "eth0", f"10.0.0.{number}", f"eni{number:011x}", "default", f"web-{number}")


class Kernel:
    """What it has, and what happens while it is asked."""

    def __init__(self, *numbers: int) -> None:
        self.entries = {(f"c{n}", "eth0"): Entry(attachment(n), WIRED) for n in numbers}
        self.links = [attachment(n) for n in numbers]
        self.problems: dict[str, list[Problem]] = {}
        self.surveys: list[list[Attachment]] = []

    async def check(self, a: Attachment) -> Iterable[Problem]:
        if a.address in self.problems and not self.problems[a.address]:
            raise DataplaneError("EPERM")
        return self.problems.get(a.address, ())

    async def survey(self) -> Iterable[Attachment]:
        return self.surveys.pop(0) if self.surveys else self.links

    def compare(self, *node: Problem, check: Any = None) -> dict[str, Any]:
        def asked(a: Attachment) -> Awaitable[Iterable[Problem]]:
            chosen: Awaitable[Iterable[Problem]] = (check or self.check)(a)
            return chosen

        return asyncio.run(compare(lambda: self.entries, self.survey, asked, node))


def test_all_as_it_should_be_is_the_same() -> None:
    told = Kernel(1, 2).compare()
    assert (told["same"], told["node"], [p["problems"] for p in told["pods"]]) == (True, [], [[], []])


def test_each_difference_is_told_where_it_is() -> None:
    kernel = Kernel(1, 2)
    kernel.problems = {"10.0.0.1": [Problem("eni1", "the host link is down")], "10.0.0.2": []}
    told = kernel.compare(Problem("nftables", "no table"))
    assert not told["same"]
    assert told["node"] == ["nftables: no table"]
    assert told["pods"][0]["problems"] == ["eni1: the host link is down"]
    assert told["pods"][1]["problems"] == ["eni00000000002: the kernel could not be asked: EPERM"]


def test_a_link_that_nobody_was_lent_an_address_for_and_another_address_are_told() -> None:
    kernel = Kernel(1)
    kernel.links = [replace(attachment(1), address="10.0.0.9"), attachment(7)]
    assert kernel.compare()["node"] == [
        "eni00000000001: its alias says 10.0.0.9, the journal 10.0.0.1",
        "eni00000000007: a pod's link with address 10.0.0.7, but the agent lent it to nobody",
    ]


def test_a_pod_that_goes_while_the_kernel_is_read_is_no_difference() -> None:
    kernel = Kernel(1, 2)

    async def gone(a: Attachment) -> Iterable[Problem]:
        kernel.entries = {k: e for k, e in kernel.entries.items() if e.attachment != a}
        return [Problem(a.host_ifname, "the host link is gone; delete the pod")]

    kernel.surveys = [[attachment(1)], []]
    told = kernel.compare(check=gone)
    assert (told["same"], told["pods"]) == (True, [])


def test_a_pod_that_is_being_wired_is_not_compared() -> None:
    kernel = Kernel(1)
    kernel.entries["c1", "eth0"] = Entry(attachment(1))
    kernel.problems = {"10.0.0.1": [Problem("eni1", "the host link is down")]}
    assert kernel.compare()["same"]
