"""SIGKILL between any two steps of the real agent over its real kernel, and a restart: nothing is lost or left over.

Each operation is run again and again, the agent dying one effect later each time, until it lives to see the end. The
agent that is started after a death is the one that dies next, so a point costs one start.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from berth.contract import PodLease
from berth_node.admin import ask

from tests.netns.agent.conftest import PREFIX, RUN, Site, eventually
from tests.netns.agent.real import NODE, real_node
from tests.sandbox import netns
from tests.sandbox.ping import ping

CONFIG = b'{"cniVersion": "1.1.0", "name": "berth", "type": "berth"}'
MORE, SPARE = "10.0.1.32/28", "10.0.1.64/28"
PODS_TABLE = "300000000"


@dataclass
class Mortal:
    """A node whose agent dies on order. ``living``: pods that must have traffic, with their addresses."""

    site: Site
    living: dict[str, str] = field(default_factory=dict)
    points: int = 0
    effects: list[str] = field(default_factory=list)
    rules: str = ""

    def start(self, at: int = 0, *, from_start: bool = False, compact: bool = False) -> None:
        orders = {"at": at, "from_start": from_start, "compact": compact}
        (self.site.folder / "mortal.json").write_text(json.dumps(orders))
        (self.site.folder / "armed").unlink(missing_ok=True)
        self.site.start(wait=not from_start)

    def arm(self) -> None:
        assert self.site.process
        self.site.process.send_signal(signal.SIGUSR1)
        eventually((self.site.folder / "armed").exists, "effects count from now on")

    def dies_and_is_followed(self, meanwhile: Callable[[], object] = lambda: None) -> bool:
        """Whether the agent has killed itself, or does so by what it does after its answer. Another one follows it."""
        assert self.site.process
        try:
            code = self.site.process.wait(1.5)
        except subprocess.TimeoutExpired:
            self.effects = (self.site.folder / "effects").read_text().splitlines()
            self.site.stop(signal.SIGKILL)  # or it would die of its next regular report
            self.start()
            return False
        assert code == -signal.SIGKILL, f"the agent ended by itself: {code}"
        self.points += 1
        meanwhile()
        self.start()
        return True

    def serves(self) -> Callable[[], bool]:
        """Tells whether an agent that is yet to be started serves."""
        before = self.site.log().count('"message": "serving"')
        return lambda: self.site.log().count('"message": "serving"') > before

    def died_at_least(self, times: int) -> None:
        """That there were points to die at; what they were before is in the test's output."""
        print(f"died at {self.points} points; a whole operation is: {', '.join(self.effects)}")
        assert self.points >= times

    def until_dead_or(self, done: Callable[[], object]) -> None:
        process = self.site.process
        assert process
        eventually(lambda: process.poll() is not None or done(), "the operation or its agent ends")

    def sound(self) -> None:
        """Every invariant of a node at rest."""
        pods = _ask("pods")["pods"]
        assert {p["container_id"]: p["address"] for p in pods} == self.living
        assert len(set(self.living.values())) == len(self.living)
        status = _ask("status")
        assert status["problems"] == []
        surrendered = 16 * len(status["surrendered"])
        assert status["in_use"] + status["cooling"] + status["free"] + surrendered == status["assigned"]
        own = {"lo", "eth0", "far", *(p["host_ifname"] for p in pods)}
        eventually(lambda: _links() == own, f"the links are {own}")
        routes = _ip("route", "show", "table", PODS_TABLE, "type", "unicast")
        assert {r["dst"] for r in routes} == set(self.living.values())
        assert _rules() == self.rules
        eventually(lambda: _open_leases(self.site) == sorted(self.living.values()), "the leases are told of")
        _leases_apart(self.site)
        for pod, address in self.living.items():
            assert ping(pod, "10.0.1.5").ok
            assert ping(NODE, address).ok


def _open_leases(site: Site) -> list[str]:
    return sorted(row.address for row in site.cloud.leases.values() if not row.ended)


def _leases_apart(site: Site) -> None:
    """Nothing was forgotten by any death, told under two ids that mean different things, or lent twice at one time."""
    reports = list(site.cloud.reports)
    assert len({r.epoch for r in reports}) == 1
    assert len({(row.id, row.address, row.began) for r in reports for row in r.leases}) == len(
        {row.id for r in reports for row in r.leases}
    )
    by_address: dict[str, list[PodLease]] = {}
    for row in site.cloud.leases.values():
        by_address.setdefault(row.address, []).append(row)
    for rows in by_address.values():
        for one, other in pairwise(sorted(rows, key=lambda r: r.began)):
            assert one.ended
            assert one.ended <= other.began


def _ask(view: str) -> Mapping[str, Any]:
    return ask(RUN / "admin.sock", {"view": view})


def _ip(*words: str) -> list[Any]:
    found: list[Any] = json.loads(netns.run(NODE, ["ip", "-j", *words]).stdout or "[]")
    return found


def _links() -> set[str]:
    return {link["ifname"] for link in _ip("link")}


def _rules() -> str:
    return "\n".join(line for line in netns.run(NODE, ["ip", "rule"]).stdout.splitlines() if "10.0.1.64" not in line)


@pytest.fixture
def mortal(plugin: Path, tmp_path: Path) -> Iterator[Mortal]:
    with real_node(plugin, tmp_path, start=False) as site:
        site.command = [sys.executable, "-m", "tests.netns.crash.mortal_agent"]
        site.settings = {"surrender_hold_seconds": 0, "report_interval_seconds": 5}
        site.serve(PREFIX, MORE, warm=20, cooldown=1)
        made = Mortal(site)
        made.start()
        site.ready()
        made.living["old"] = site.add("old")
        made.rules = _rules()
        made.sound()
        yield made


def add_under_way(mortal: Mortal, pod: str, at: int, *, compact: bool) -> subprocess.Popen[bytes]:
    """An ADD that has come to its end, or to its agent's."""
    mortal.site.stop(signal.SIGKILL)
    mortal.start(at, compact=compact)
    mortal.arm()
    mortal.site.pod(pod)
    add = mortal.site.popen(mortal.site.environment("ADD", pod), CONFIG)
    mortal.until_dead_or(lambda: add.poll() is not None)
    return add


def test_killed_anywhere_in_an_add_and_its_compactions(mortal: Mortal) -> None:
    """The plugin asks the next agent."""
    dead, at = True, 0
    while dead:
        pod, at = f"new-{at}", at + 1
        add = add_under_way(mortal, pod, at, compact=True)
        dead = mortal.dies_and_is_followed()
        answer = mortal.site.finish(add)
        assert answer.code == 0, answer.text
        mortal.living[pod] = answer.body["ips"][0]["address"].removesuffix("/32")
        mortal.sound()
        assert mortal.site.call("DEL", pod).code == 0
        del mortal.living[pod]
    mortal.died_at_least(10)


def test_killed_anywhere_in_an_add_with_its_plugin(mortal: Mortal) -> None:
    """Nobody asks again: the pod is there as a whole, or not at all."""
    dead, at, outcomes = True, 0, set()
    while dead:
        pod, at = f"new-{at}", at + 1
        add = add_under_way(mortal, pod, at, compact=False)
        dead = mortal.dies_and_is_followed(add.kill)
        add.communicate()
        found = {p["container_id"]: p["address"] for p in _ask("pods")["pods"]}
        outcomes.add(pod in found)
        if pod in found:
            mortal.living[pod] = found[pod]
        mortal.sound()
        assert mortal.site.call("DEL", pod).code == 0
        mortal.living.pop(pod, None)
    assert outcomes == {True, False}
    mortal.died_at_least(6)


@pytest.mark.parametrize("by_plugin", [True, False])
def test_killed_anywhere_in_a_del_and_its_compactions(mortal: Mortal, by_plugin: bool) -> None:
    """Its plugin took the pod from the kernel and has ended, or waits for the agent."""
    site, at = mortal.site, 1
    site.settings["plugin_makes_links"] = by_plugin
    while True:
        pod = f"gone-{at}"
        site.add(pod)
        site.stop(signal.SIGKILL)
        mortal.start(at, compact=True)
        mortal.arm()
        assert (len(list((RUN / "unwire").iterdir())) > 0) == by_plugin
        assert site.call("DEL", pod).code == 0
        dead = mortal.dies_and_is_followed()
        mortal.sound()
        if not dead:
            break
        at += 1
    mortal.died_at_least(8)


def test_killed_anywhere_in_the_set_up_of_a_block_and_its_surrender(mortal: Mortal) -> None:
    """The block is more than the node wants: it is routed, found spare, surrendered and reported."""
    site, at, revision = mortal.site, 1, 1

    def reported() -> bool:
        return [s.cidr for r in site.cloud.reports[-1:] for s in r.surrendered] == [SPARE]

    while True:
        site.stop(signal.SIGKILL)
        mortal.start(at)
        mortal.arm()
        site.serve(PREFIX, MORE, SPARE, revision=revision + 1, warm=20, cooldown=1)
        mortal.until_dead_or(reported)
        dead = mortal.dies_and_is_followed()
        eventually(reported, "the spare block is surrendered")
        mortal.sound()
        if not dead:
            break
        at, revision = at + 1, revision + 2
        site.serve(PREFIX, MORE, revision=revision, warm=20, cooldown=1)
        eventually(lambda: _ask("status")["surrendered"] == [], "the block is gone")
    mortal.died_at_least(5)


def test_killed_anywhere_in_the_first_set_up_of_the_node(mortal: Mortal) -> None:
    """All of the node's routing is taken away while no agent runs, the living pod's route too."""
    site, at = mortal.site, 1
    while True:
        site.stop(signal.SIGKILL)
        for rule in mortal.rules.splitlines():
            if "lookup local" not in rule and "lookup main" not in rule and "lookup default" not in rule:
                netns.run(NODE, ["ip", "rule", "del", "pref", rule.partition(":")[0]])
        netns.run(NODE, ["ip", "route", "flush", "table", PODS_TABLE])
        netns.run(NODE, ["nft", "flush", "ruleset"])
        serves = mortal.serves()
        mortal.start(at, from_start=True)
        mortal.until_dead_or(serves)
        dead = mortal.dies_and_is_followed()
        eventually(lambda: ping("old", "10.0.1.5").ok and _rules() == mortal.rules, "the node is as it was")
        mortal.sound()
        if not dead:
            break
        at += 1
    mortal.died_at_least(8)
