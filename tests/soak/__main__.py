"""``make soak``: thousands of ADDs and DELs through the real plugin and agent, with kills, and nothing left of it.

Two acts of half the operations each. In the first the agent is killed by SIGKILL at random moments and started again.
In the second it lives, so that what it leaks can be counted. Blocks come and go all the time, and the number of pods
swings. At the end, with every pod deleted, the node must be as a node that never had a pod (a second node, which the
data plane has just set up for the same blocks), and the agent's pool must be whole and its files, descriptors, threads
and memory no more than they were. Runs in a private world; the seed it prints makes the same dice roll again.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from berth_node.seams import NodeLayout
from berth_node.usable import layouts_of

from tests.bench.cni import build, place
from tests.bench.cni.place import MAC, Agent
from tests.netns.dataplane.site import Node
from tests.sandbox import netns
from tests.sandbox.waiting import wait_for
from tests.soak.cloud import FEW, Control
from tests.soak.pods import SoakError, Workload
from tests.unit.node.cloud import FakeCloud, serving

__all__ = ["soak"]

MEMORY_MB: Final = 5.0
"""How much more the agent may have at the end of the second act than after its first tenth."""
DESCRIPTORS: Final = 25
THREADS: Final = 12  # its own, and those that asyncio.to_thread keeps: processors + 4
JOURNAL_BYTES: Final = 512 * 1024
"""It is compacted at 1,000 lines and three for each pod, cooling address and untold lease, of which some 800 may be."""
_NODE, _REFERENCE = "soak-node", "soak-reference"
_WORKERS, _PODS = 4, 30
_SETTINGS: Final = """poll_quick_seconds = 0.1
poll_slow_seconds = 0.5
report_debounce_seconds = 0.05
report_interval_seconds = 1
surrender_hold_seconds = 0.5
"""


def soak(operations: int, seed: int, folder: Path) -> dict[str, float]:
    """Returns what was counted. Raises :class:`SoakError`."""
    dice, cloud = random.Random(seed), FakeCloud()
    control = Control(cloud, dice)
    control.give(*FEW)
    with place.node(_NODE), serving(cloud, netns.open_socket(_NODE)):
        agent = Agent(_NODE, folder, cloud, settings=_SETTINGS)
        try:
            agent.start()
            plugin = build.plugin()
            loads = [Workload(plugin, _NODE, operations // 2, seed + act) for act in range(2)]
            found = _acts(agent, control, loads[0], loads[1], dice)
            _whole(agent)
            _compare(control)
            for load in loads:
                load.forget()
            return found
        except BaseException:
            print(agent.log.read_text()[-6000:], file=sys.stderr)
            raise
        finally:
            agent.kill()


def _acts(agent: Agent, control: Control, first: Workload, second: Workload, dice: random.Random) -> dict[str, float]:
    kills, until_kill, began = 0, 20, time.monotonic()
    with _working(first):
        while _goes_on(first, control, dice):
            if first.done > until_kill:
                agent.kill()
                kills, until_kill = kills + 1, first.done + dice.randint(20, 150)
                time.sleep(dice.choice((0.0, 0.0, 0.1, 0.5)))  # DELs are spooled, ADDs wait
                agent.spawn()
    warm = None
    with _working(second):
        while _goes_on(second, control, dice):
            if warm is None and second.done > second.operations / 10:
                warm = _size(agent)
    _settled(agent, control)
    _same_size(agent, warm or _size(agent))
    return {
        "operations": first.operations + second.operations,
        "seconds": round(time.monotonic() - began),
        "kills": kills,
        "try_again_later": first.retried + second.retried,
        "blocks_given": control.given,
        "blocks_taken": control.taken,
    }


@contextmanager
def _working(load: Workload) -> Iterator[None]:
    threads = [threading.Thread(target=load.run, args=(n, _PODS)) for n in range(_WORKERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        load.operations = min(load.operations, load.done)  # all of them already, unless the block above failed
        for thread in threads:
            thread.join()
    if load.failures:
        raise load.failures[0]


def _goes_on(load: Workload, control: Control, dice: random.Random) -> bool:
    """A moment of it; False when the operations are done."""
    time.sleep(0.1)
    if dice.random() < 0.1:
        load.level = dice.choice((0.1, 0.5, 1.0))
    control.step()
    return load.done <= load.operations and not load.failures


def _size(agent: Agent) -> tuple[float, int, int]:
    """Memory in MB, descriptors, threads."""
    assert agent.process
    proc = Path(f"/proc/{agent.process.pid}")
    return agent.rss_mb(), len(os.listdir(proc / "fd")), len(os.listdir(proc / "task"))


def _same_size(agent: Agent, before: tuple[float, int, int]) -> None:
    """``before`` was taken while pods were served, each with a socket and up to two descriptors: now it is idle."""
    memory, descriptors, threads = _size(agent)
    print(f"memory {before[0]} -> {memory} MB, descriptors {before[1]} -> {descriptors}, threads {threads}")
    if memory > before[0] + MEMORY_MB:
        raise SoakError(f"the agent has grown from {before[0]} to {memory} MB; {MEMORY_MB:g} MB are allowed")
    if descriptors > DESCRIPTORS or threads > THREADS:
        raise SoakError(f"the agent has {descriptors} descriptors and {threads} threads, with nothing to do")


def _settled(agent: Agent, control: Control) -> None:
    """Until every block that is not needed has been taken back and no address cools."""

    def quiet() -> bool:
        done, status = control.step(generous=False), agent.status()
        idle = not status["surrendered"] and not status["unusable"] and not status["cooling"]
        idle = idle and status["assigned"] - status["wanted"] < 16  # no whole block is left to give back
        current = control.cloud.record is not None and status["record_revision"] == control.cloud.record.revision
        return done and idle and current

    wait_for("the pool to come to rest", quiet, 60, 0.3)


def _whole(agent: Agent) -> None:
    """Every address of every block is free again, and no file is left over."""
    status = agent.status()
    if status["in_use"] or status["waiting"] or status["free"] != status["assigned"]:
        raise SoakError(f"addresses are lost: {status}")
    if status["problems"] or status["trouble"]:
        raise SoakError(f"the agent has troubles: {status['problems']} {status['trouble']}")
    left = [str(p) for p in Path("/run/berth/spool").iterdir()]
    left += [str(p) for folder in ("/run/berth", "/var/lib/berth") for p in Path(folder).glob(".*")]
    if left:
        raise SoakError(f"files are left: {left}")
    journal = Path("/run/berth/pods.journal").stat().st_size
    if journal > JOURNAL_BYTES:
        raise SoakError(f"the journal has {journal} bytes")


_COMMANDS: Final = {
    "rules": ["ip", "-4", "rule"],
    "routes": ["ip", "-4", "route", "show", "table", "all"],
    "neighbours": ["ip", "-4", "neigh", "show", "nud", "permanent"],
    "nftables": ["nft", "--stateless", "list", "ruleset"],
}


def _state(name: str) -> dict[str, list[str]]:
    found = {what: sorted(netns.run(name, argv).stdout.split("\n")) for what, argv in _COMMANDS.items()}
    links = netns.run(name, ["ip", "-br", "link"]).stdout.split("\n")
    return found | {"links": sorted(line.split()[0] for line in links if line)}


def _compare(control: Control) -> None:
    """The node against one that the data plane has set up for the same blocks and that never had a pod."""
    record = control.cloud.record
    assert record
    layout = NodeLayout(layouts_of(record, frozenset({MAC})), record.no_snat_cidrs)
    with place.node(_REFERENCE):
        node = Node(_REFERENCE)
        node.call(node.dataplane.configure, layout)
        node.close()
        wanted = _state(_REFERENCE)

    def same() -> bool:
        return _state(_NODE) == wanted  # the reaper may be at its last links

    try:
        wait_for("the node to be as one that never had a pod", same, 10)
    except TimeoutError as error:
        now = _state(_NODE)
        more = {k: sorted(set(now[k]) - set(wanted[k])) for k in now if now[k] != wanted[k]}
        less = {k: sorted(set(wanted[k]) - set(now[k])) for k in now if now[k] != wanted[k]}
        raise SoakError(f"left over: {more}; missing: {less}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Raises what went wrong; the seed is printed before."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args(arguments)
    print(f"soak: {options.operations} operations, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(soak(options.operations, options.seed, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
