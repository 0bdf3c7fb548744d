"""A sandbox that `make demo KEEP=1` left up: where it is, how to look around in it, how to end it."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from tests.sandbox import world_ns
from tests.sandbox.world_ns import REPOSITORY

__all__ = ["Kept", "instructions", "load", "save", "stop"]

STATE: Final = REPOSITORY / "build" / "sandbox.json"
LOOK: Final = REPOSITORY / "build" / "look"
TOOLS: Final = REPOSITORY / "build" / "tools"


@dataclass(frozen=True, slots=True)
class Kept:
    """``pid`` is the world's process 1 seen from outside; ``nodes`` name → init's pid inside; ``pods`` name → netns."""

    pid: int
    port: int
    nodes: dict[str, int] = field(default_factory=dict)
    pods: dict[str, str] = field(default_factory=dict)


def save(kept: Kept) -> None:
    """Write the state and the scripts ``build/look`` and ``build/tools/berth-node``."""
    STATE.write_text(json.dumps(asdict(kept), indent=2) + "\n")
    python = shlex.quote(sys.executable)
    paths = ":".join(shlex.quote(str(REPOSITORY / package)) for package in world_ns.PACKAGES)
    _script(LOOK, f'exec env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={paths} {python} -m tests.sandbox.demo.keeping "$@"')
    _script(TOOLS / "berth-node", f'exec env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={paths} {python} -m berth_node "$@"')


def _script(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def load() -> Kept | None:
    """The sandbox that is up, or None. A state file of one that is gone counts as none."""
    try:
        kept = Kept(**json.loads(STATE.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return kept if world_ns.is_world(kept.pid) else None


def stop() -> bool:
    """End the sandbox that is up, if any, and remove what :func:`save` wrote. Returns whether there was one."""
    kept = load()
    if kept is not None:
        world_ns.stop(kept.pid)
    for path in (STATE, LOOK, TOOLS / "berth-node"):
        path.unlink(missing_ok=True)
    return kept is not None


def instructions(kept: Kept) -> list[str]:
    """What to try in a kept sandbox."""
    from tests.sandbox.landscape import ADMIN_KEY, REGION  # loads boto3, which looking around and stopping need not

    node, pod = next(iter(kept.nodes), "NODE"), next(iter(kept.pods), "POD")
    look = os.path.relpath(LOOK)
    tries = [
        (f"node {node} berth-node status", "also: pods, interfaces, explain; --json"),
        (f"node {node}", "a shell on the node: ip rule, nft list ruleset, ..."),
        (f"pod {pod}", "a shell in the pod's network"),
        ("world ip netns", "the fabric: vpc, internet, onprem, nat"),
    ]
    width = max(len(what) for what, _ in tries) + 3
    return [
        "The sandbox stays up. Look around:",
        *(f"  {look} {what.ljust(width)}{why}" for what, why in tries),
        f"  export AWS_ACCESS_KEY_ID={ADMIN_KEY} AWS_SECRET_ACCESS_KEY={ADMIN_KEY} AWS_DEFAULT_REGION={REGION}",
        f"  aws --endpoint-url http://127.0.0.1:{kept.port} ec2 describe-network-interfaces",
        "End it:",
        "  make stop",
    ]


def _look(kept: Kept, what: str, name: str, command: Sequence[str]) -> list[str]:
    """The argv to run inside the world. Raises SystemExit with the names that there are."""
    shell = [os.environ.get("SHELL", "/bin/sh")]
    if what == "world":
        return [name, *command] if name else shell
    known = kept.nodes if what == "node" else kept.pods
    if name not in known:
        raise SystemExit(f"there is no {what} '{name}'; there are: {', '.join(sorted(known)) or 'none'}")
    if what == "node":
        return ["nsenter", "--target", str(known[name]), "--mount", "--net", "--pid", "--", *(command or shell)]
    return ["nsenter", f"--net=/run/netns/{known[name]}", "--", *(command or shell)]


def main(arguments: Sequence[str]) -> int:
    """``build/look node|pod|world NAME [command...]``"""
    kept = load()
    if kept is None:
        raise SystemExit("no sandbox is up: start one with make demo KEEP=1")
    if not arguments or arguments[0] not in ("node", "pod", "world"):
        raise SystemExit("usage: build/look node NAME [command...] | pod NAME [command...] | world [command...]")
    os.environ["PATH"] = f"{TOOLS}{os.pathsep}{world_ns.tool_path()}"
    name = arguments[1] if len(arguments) > 1 else ""
    return world_ns.enter(kept.pid, _look(kept, arguments[0], name, arguments[2:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
