"""``make bench-cni``: ADD and DEL from exec to exit, beside Debian's plugins and a floor, all in one run.

Writes build/bench/cni.json. Runs in a private world (``python -m tests.sandbox.world_ns -- …``). Machines are noisy and
differ, so only ratios of figures of one run say anything: every round has every peer, in random order. ``--quick`` is
the same with few repetitions, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.cni import build, place, plan, record, result, rtt
from tests.bench.cni.peers import DEBIAN, Peer, available, write_configs
from tests.bench.cni.place import Agent
from tests.bench.cni.plan import Times, adds, carry_out, deletes
from tests.netns.dataplane.site import Node, attachment
from tests.sandbox import netns
from tests.sandbox.world import netns_path

__all__ = ["FULL", "QUICK", "Size", "measure"]


@dataclass(frozen=True, slots=True)
class Size:
    """How often. ``concurrent`` and ``burst`` are (pods at once, batches); ``pods`` the counts for RTT and memory."""

    sequential: int
    concurrent: tuple[int, int]
    burst: tuple[int, int]
    pods: tuple[int, ...]
    round_trips: int
    rounds: int = 8


FULL: Final = Size(150, (20, 8), (110, 3), (10, 110, 250), 4000)
QUICK: Final = Size(4, (4, 1), (6, 1), (2, 6), 50, rounds=2)


def measure(size: Size, folder: Path) -> dict[str, Any]:
    """The whole bench; the peers whose programs are installed."""
    peers = available(build.plugin(), build.compiled("floor", folder))
    program, pings = build.compiled("exec", folder), build.compiled("rtt", folder)
    with ExitStack() as stack:
        stack.callback(_remove_pods, peers, max(size.sequential, size.burst[0], *size.pods))
        for peer in peers:
            stack.enter_context(place.node(peer.node))
            for number in range(max(size.sequential, size.burst[0])):
                place.pod(plan.pod_name(peer, number))
        _record_floor(next(p for p in peers if p.name == "floor"), max(size.sequential, size.burst[0]))
        agent = stack.enter_context(place.agent("node-berth", folder))
        agent.start()
        bench = _Bench(peers, program, write_configs(peers, folder), agent)
        found = bench.all(size)
        found["rss_mb"] = bench.memory(size.pods)
    plain, rules = rtt.measure(pings, size.pods, size.round_trips, size.rounds)
    found["rtt_us"], found["rtt_us_rules"] = ({str(n): t for n, t in f.items()} for f in (plain, rules))
    found["aims"] = [aim.as_json() for aim in result.judge(found)]
    return found


def _remove_pods(peers: Sequence[Peer], most: int) -> None:
    for name in (plan.pod_name(peer, number) for peer in peers for number in range(most)):
        if netns_path(name).exists():
            netns.delete(name)


def _record_floor(peer: Peer, count: int) -> None:
    node = Node(peer.node)
    node.call(node.dataplane.configure, place.LAYOUT)
    node.close()
    attachments = {}
    for number, address in zip(range(count), place.addresses(), strict=False):
        name = plan.pod_name(peer, number)
        attachments[name] = attachment(name, address, netns_fd=os.open(netns_path(name), os.O_RDONLY | os.O_CLOEXEC))
    record.record(peer.node, attachments)
    for made in attachments.values():
        os.close(made.netns_fd or -1)


@dataclass(slots=True)
class _Bench:
    peers: tuple[Peer, ...]
    program: Path
    configs: dict[str, Path]
    agent: Agent

    def all(self, size: Size) -> dict[str, Any]:
        """Sequential, concurrent, burst."""
        names = [p.name for p in self.peers]
        once = self._pass("sequential", [range(n, n + 1) for n in range(size.sequential)], 1, "connect")
        width, batches = size.concurrent
        many = self._pass("concurrent", [range(width)], batches)
        width, batches = size.burst
        burst = self._pass("burst", [range(width)], batches)
        return {
            "add_ms": {p: result.milliseconds(once[p, "ADD", "exec"]) for p in names},
            "del_ms": {p: result.milliseconds(once[p, "DEL", "exec"]) for p in names},
            "first_packet_ms": {p: result.milliseconds(once[p, "ADD", "connect"]) for p in names},
            "concurrent20_ms": {
                "add": {p: result.milliseconds(many[p, "ADD", "exec"]) for p in names},
                "del": {p: result.milliseconds(many[p, "DEL", "exec"]) for p in names},
            },
            "burst110_pods_per_s": {p: result.per_second(width, burst[p, "ADD", "batch"]) for p in names},
            "burst110_del_pods_per_s": {p: result.per_second(width, burst[p, "DEL", "batch"]) for p in names},
        }

    def _pass(self, what: str, batches: Sequence[range], repeats: int, word: str = "run") -> Times:
        """ADD all batches, DEL all batches; again from the start for each repeat."""
        dice, began = random.Random(what), time.monotonic()
        found: dict[tuple[str, str, str], list[float]] = {}
        for turn in range(repeats):
            name = f"{what}{turn}"
            for lines in (adds(self.peers, batches, name, dice, word), deletes(self.peers, batches, name, dice)):
                for key, times in carry_out(self.program, self.peers, self.configs, lines).items():
                    found.setdefault(key, []).extend(times)
            # the addresses cool for a second: the next turn must not find the pool short of them
            time.sleep(1.5)
        print(f"{what}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        return found

    def memory(self, counts: Sequence[int]) -> dict[str, float]:
        """The agent's, from its start on. It is started afresh: the others' pods are no part of it."""
        berth = tuple(p for p in self.peers if p.name == "berth")
        self.agent.stop()
        self.agent.start()
        found = {"start": self.agent.rss_mb()}
        made = 0
        for count in counts[1:]:
            pods = range(made, count)
            for number in pods:
                if not netns_path(plan.pod_name(berth[0], number)).exists():
                    place.pod(plan.pod_name(berth[0], number))
            lines = adds(berth, [pods], "memory", random.Random(1))
            carry_out(self.program, berth, self.configs, lines)
            assert self.agent.status()["in_use"] == count
            made, found[str(count)] = count, self.agent.rss_mb()
        carry_out(self.program, berth, self.configs, deletes(berth, [range(made)], "memory", random.Random(1)))
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, also when an aim is not met: the table says so."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cni", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions: only to see that it works")
    parser.add_argument("--out", type=Path, default=Path("build/bench/cni.json"))
    options = parser.parse_args(arguments)
    if not options.quick and not (DEBIAN / "ptp").exists():
        print(f"{DEBIAN}/ptp is missing: install containernetworking-plugins (make bench-cni does)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        found = measure(QUICK if options.quick else FULL, Path(folder))
    about = {"quick": options.quick, "python": platform.python_version(), "kernel": platform.release()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**about, "processors": os.cpu_count(), **found}, indent=1) + "\n")
    print(result.table(found))
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
