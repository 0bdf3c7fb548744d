"""The commands ``install`` and ``uninstall``; their options are in :mod:`.parsers`."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from berth_node import __version__
from berth_node.config import Config, ConfigError, load
from berth_node.process import AlreadyRunningError, only_one

from .apply import Step, apply, as_json, remove
from .parsers import LIVE
from .payload import PayloadError, find
from .plan import PARTS, Host, Options, plan

__all__ = ["run"]

_UNIT: Final = "berth-node.service"
_BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)


class RefusedError(Exception):
    """It would do harm. The message says what to do first."""


def run(options: argparse.Namespace) -> int:
    """Exit codes: 0 done, 1 refused or failed."""
    try:
        steps = _install(options) if options.command == "install" else _uninstall(options)
    except (RefusedError, PayloadError, AlreadyRunningError, OSError, ValueError) as error:
        print(f"berth-node: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"dry_run": options.dry_run, "steps": as_json(steps)}, indent=2))
    else:
        print("\n".join(f"{s.action:13} {s.path}" for s in steps))
    return 0


# -------------------------------------------------------------------------------------------------------- install


def _install(options: argparse.Namespace) -> list[Step]:
    payload = find(options.plugin)
    wanted = Options(
        command=payload.command,
        plugin=payload.plugin,
        agent=payload.agent,
        table=options.table,
        queue=options.queue,
        config=options.config,
        memory=options.memory_max,
        parts=tuple(options.only or PARTS),
    )
    live = options.root == LIVE
    link = options.primary_link
    if link is None:  # of a folder that is no running host nothing is known
        link = _default_link() if live and "hints" in wanted.parts else ""
    host = Host((options.root / "etc/NetworkManager").is_dir(), link)
    steps = apply(options.root, plan(wanted, host), __version__, payload.copy, dry=options.dry_run)
    if live and _BOOTED.is_dir() and not options.dry_run and "unit" in wanted.parts:
        _systemctl("daemon-reload")
        if options.start:
            _systemctl("enable", _UNIT)
            _systemctl("restart", _UNIT)
    return steps


def _default_link() -> str:
    """The link of the default route with the lowest metric; empty if there is none."""
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    defaults = sorted((int(r[6]), r[0]) for r in routes if r[1] == r[7] == "00000000")
    return defaults[0][1] if defaults else ""


def _systemctl(*arguments: str) -> None:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RefusedError(f"systemctl {' '.join(arguments)} failed: {done.stderr.strip()[:500]}")


# ------------------------------------------------------------------------------------------------------ uninstall


def _uninstall(options: argparse.Namespace) -> list[Step]:
    if options.root != LIVE or options.dry_run:
        return remove(options.root, dry=options.dry_run)
    try:
        config = load(options.config)
    except ConfigError:  # gone already, or never filled in: then the agent ran with the default paths, or not at all
        config = Config(table="", reports_queue_url="")
    _refuse_with_pods(options.force)
    if _BOOTED.is_dir() and Path("/etc/systemd/system", _UNIT).exists():
        _systemctl("disable", "--now", _UNIT)
    config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with only_one(config.run_dir / "agent.lock"):
        _refuse_with_pods(options.force)  # again: ADDs were still answered a moment ago
        steps = _leave_node(config)
        steps += remove(options.root)
    shutil.rmtree(config.run_dir, ignore_errors=True)
    if _BOOTED.is_dir():
        _systemctl("daemon-reload")
    return steps


def _refuse_with_pods(force: bool) -> None:
    from .kernel import pods  # not for the other commands: it loads the data plane

    there = pods()
    if there and not force:
        raise RefusedError(
            f"{len(there)} pods still have their network from Berth ({', '.join(there[:3])}{' …' * (len(there) > 3)}): "
            "drain the node first (kubectl drain), or give --force and they lose it"
        )


def _leave_node(config: Config) -> list[Step]:
    """Readiness first: a runtime that sees no configuration starts no pod any more."""
    from .kernel import clean

    config.cni_config.unlink(missing_ok=True)
    problems = clean()
    if problems:
        told = "; ".join(f"{p.where}: {p.message}" for p in problems)
        raise RefusedError(f"not all could be taken out of the kernel, run it again: {told}")
    steps = [Step("remove", str(config.cni_config)), Step("clean", "rules, routes, nftables, pods' links")]
    for path in _state(config.state_dir):
        path.unlink(missing_ok=True)
        steps.append(Step("remove", str(path)))
    return [*steps, Step("remove", str(config.run_dir))]


def _state(folder: Path) -> Sequence[Path]:
    found: list[Path] = []
    for pattern in ("node.json", "leases.json", "record.*.json", ".*.new"):
        with contextlib.suppress(OSError):
            found += sorted(folder.glob(pattern))
    return found
