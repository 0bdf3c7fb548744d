"""Plans for ``exec.c``, and what it says of them. A round has every peer once, in an order of its own."""

from __future__ import annotations

import random
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.bench.cni.peers import Peer
from tests.sandbox.world import netns_path

__all__ = ["Times", "adds", "carry_out", "deletes"]

Times = Mapping[tuple[str, str, str], Sequence[float]]
"""(peer, command, what: exec, connect or batch) to microseconds."""

_AFTER_ADD, _AFTER_DELETE = 5, 80
"""Milliseconds of rest, so that nobody is charged for what the one before left to the kernel to tidy up."""


def pod_name(peer: Peer, number: int) -> str:
    """A pod's namespace. They are used again: after a DEL they are as empty as they were."""
    return f"{peer.name}-{number}"


def adds(
    peers: Sequence[Peer], batches: Sequence[range], turn: str, dice: random.Random, word: str = "run"
) -> list[str]:
    """ADD of each batch of pods at once, for every peer. ``turn`` makes container ids that were not there before."""
    return list(_lines(peers, batches, turn, dice, "ADD", word, _AFTER_ADD))


def deletes(peers: Sequence[Peer], batches: Sequence[range], turn: str, dice: random.Random) -> list[str]:
    """DEL of what :func:`adds` made."""
    return list(_lines(peers, batches, turn, dice, "DEL", "run", _AFTER_DELETE))


def _lines(
    peers: Sequence[Peer], batches: Sequence[range], turn: str, dice: random.Random, command: str, word: str, rest: int
) -> Iterator[str]:
    for batch in batches:
        for peer in dice.sample(peers, len(peers)):
            pods = [(netns_path(pod_name(peer, n)), f"{peer.name}-{turn}-{n}") for n in batch]
            for path, container in pods:
                yield f"{word} {peer.name} {command} {path} {container}"
            yield f"go {rest if len(batch) == 1 else 300}"
            if command == "DEL" and peer.reaped:
                yield f"run {peer.name} REAP {pods[0][0]} reap"
                yield "go 0"


def carry_out(program: Path, peers: Sequence[Peer], configs: Mapping[str, Path], lines: Sequence[str]) -> Times:
    """Run a plan. Raises RuntimeError with what the plugin that failed has printed."""
    heads = [f"peer {p.name} {netns_path(p.node)} {p.binary} {configs[p.name]}" for p in peers]
    plan = "".join(f"{line}\n" for line in (*heads, *lines))
    done = subprocess.run([program], input=plan, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the bench stopped: {done.stderr.strip()}")
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for line in done.stdout.splitlines():
        peer, command, what, took = line.split()
        found[peer, command, what].append(float(took))
    return found
