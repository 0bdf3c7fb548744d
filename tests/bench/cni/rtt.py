"""Time there and back between two pods of one node, by the number of pods, beside the same node with rules for each.

The nodes are wired by the data plane itself. Two ``ip rule``s a pod are what a CNI without a rule for each prefix
needs: one to the pod, one from it. The kernel looks through rules one after the other for each packet (fib_rules(4) has
no index), so a pod in the middle of the list is asked.
"""

from __future__ import annotations

import random
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from berth_node.dataplane.pods import PODS_TABLE

from tests.bench.cni import place
from tests.netns.dataplane.site import Node, attachment
from tests.sandbox import netns
from tests.sandbox.world import netns_path

__all__ = ["measure"]

_TO_POD, _FROM_POD = 512, 1536
"""Priorities of the rules, as the VPC CNI has them (docs: amazon-vpc-cni-k8s, cni-proposal)."""
_ROUNDS: Final = 8
_PAUSE: Final = 0.3


def measure(program: Path, counts: Sequence[int], times: int, rounds: int = _ROUNDS) -> tuple[dict[int, float], ...]:
    """Pods on the node to microseconds, without and with rules: the median over rounds of each round's minimum."""
    dice = random.Random(1)
    least: dict[tuple[int, bool], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        for count in counts:
            stack.enter_context(_node_with(count))
        for _ in range(rounds):
            for count in dice.sample(counts, len(counts)):
                for rules in dice.sample((False, True), 2):
                    if rules:
                        _rules(count, "add")
                    least[count, rules].append(_once(program, count, times))
                    if rules:
                        _rules(count, "del")
    medians = {key: round(statistics.median(found), 2) for key, found in least.items()}
    return {n: medians[n, False] for n in counts}, {n: medians[n, True] for n in counts}


@contextmanager
def _node_with(count: int) -> Iterator[None]:
    name = f"rtt-node-{count}"
    with place.node(name):
        node = Node(name)
        try:
            node.call(node.dataplane.configure, place.LAYOUT)
            for number, address in enumerate(place.addresses()[:count]):
                descriptor = node.pod(f"rtt-{count}-{number}")
                node.call(node.dataplane.attach, attachment(f"rtt{count}-{number}", address, netns_fd=descriptor))
            yield
        finally:
            node.close()


def _rules(count: int, what: str) -> None:
    lines = []
    for address in place.addresses()[:count]:
        lines.append(f"rule {what} to {address} pref {_TO_POD} lookup {PODS_TABLE}")
        lines.append(f"rule {what} from {address} pref {_FROM_POD} lookup {PODS_TABLE}")
    netns.ip_batch(f"rtt-node-{count}", lines)


def _once(program: Path, count: int, times: int) -> float:
    client, server = count // 2 - 1, count // 2
    paths = [netns_path(f"rtt-{count}-{n}") for n in (client, server)]
    argv = [str(program), *map(str, paths), place.addresses()[server], str(times)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[0])
