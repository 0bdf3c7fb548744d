"""``python -m tests.sandbox.demo``: the whole path on one machine, told as it happens (writes ``build/demo*.json``)."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.sandbox import world_ns
from tests.sandbox.demo import keeping
from tests.sandbox.demo.report import Report, Stage
from tests.sandbox.world_ns import REPOSITORY

RESULTS: Final = {"path": REPOSITORY / "build" / "demo.json", "vpc": REPOSITORY / "build" / "demo-vpc.json"}
"""What each tour writes."""
SCRATCH: Final = REPOSITORY / "build" / "tmp"
INTERRUPTED: Final = (128 + signal.SIGINT, 128 + signal.SIGTERM)
TOOLS: Final = {"nft": "nftables", "ip": "iproute2", "iptables-restore": "iptables", "nsenter": "util-linux"}


class NotReadyError(RuntimeError):
    """The machine lacks something. The message names it and the package that has it."""


def check_machine(report: Report) -> None:
    """Name what is there and what is missing. `make demo` has installed what it can before this runs."""
    path = world_ns.tool_path()
    missing = {tool: package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None}
    if missing:
        names = ", ".join(f"{tool} (package {package})" for tool, package in missing.items())
        raise NotReadyError(f"missing: {names}. Run: apt-get install {' '.join(sorted(set(missing.values())))}")
    if os.geteuid() != 0 and (refusal := _user_namespaces_refusal()):
        raise NotReadyError(
            f"not root, and the kernel gives this user no namespaces ({refusal}). Run as root, or allow them: "
            "sysctl user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1 "
            "kernel.apparmor_restrict_unprivileged_userns=0 (those of the three that this kernel has)"
        )
    version = subprocess.run(["nft", "--version"], env={"PATH": path}, capture_output=True, text=True, check=True)
    nft = re.search(r"v[\d.]+", version.stdout)
    report.note(
        f"Linux {platform.release()}, Python {platform.python_version()}, nftables {nft[0] if nft else 'unknown'}, "
        f"{os.cpu_count()} CPUs, {'root' if os.geteuid() == 0 else 'a user namespace'}"
    )


def _user_namespaces_refusal() -> str:
    """What the kernel says against the namespaces that a world needs; empty when it gives them."""
    probe = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return (done.stderr.strip() or f"unshare exited {done.returncode}") if done.returncode else ""


def prepare(report: Report) -> None:
    """What needs the network, so before the private world is entered: the plugin, and the functions' packages."""
    # loaded here: the outer process, which hears Ctrl-C, starts at once and has no need of them
    from tests.sandbox.cloud.deploy import CACHE, this_runtime
    from tests.sandbox.cloud.packaging import BuildError, build

    if not (REPOSITORY / "build" / "plugin" / platform.machine() / "berth").exists():
        report.note("compiling the CNI plugin for x86_64 and arm64; the first time takes a minute or two")
    build_plugin = [sys.executable, str(REPOSITORY / "scripts" / "build_plugin.py"), "--quiet"]
    if subprocess.run(build_plugin, check=False).returncode != 0:
        raise NotReadyError("the CNI plugin did not build; the compiler's words are above")
    report.note("the CNI plugin is built for x86_64 and arm64")
    try:
        build(REPOSITORY / "template.yaml", this_runtime(), CACHE, report.note)
    except BuildError as error:
        raise NotReadyError(str(error)) from error


def _prepare_tied() -> None:
    """:func:`prepare` in a process whose compilers and installers die with us."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        command = ["env", f"TMPDIR={scratch}", sys.executable, "-m", "tests.sandbox.demo", "--prepare"]
        status = world_ns.run_tied(command)
    if status in INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise NotReadyError(f"preparing failed ({_ending(status)}); what went wrong is said above")


def _listen_on_loopback() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    return listener


def _outside(tour: str, keep: bool) -> int:
    report, result = Report(), RESULTS[tour]
    if keep and (kept := keeping.load()) is not None:
        report.say(f"A sandbox is up already (process {kept.pid}). End it with: make stop")
        return 1
    result.unlink(missing_ok=True)  # an earlier run's must not pass for this one's
    try:
        status = _both_parts(report, tour, keep)
    except KeyboardInterrupt:
        report.fail("interrupted")
        status = 128 + signal.SIGINT
    except (NotReadyError, world_ns.WorldError, OSError, subprocess.CalledProcessError) as error:
        report.fail(str(error))
        status = 1
    if status and not result.exists():  # else the inner part has told what happened
        if not report.failures:
            report.fail(
                "interrupted"
                if status in INTERRUPTED
                else f"the demo's process ended before its report: {_ending(status)}"
            )
        report.write(result)
    return status


def _both_parts(report: Report, tour: str, keep: bool) -> int:
    begun = time.monotonic()
    with report.stage("this machine"):
        check_machine(report)
        _prepare_tied()
    with _listen_on_loopback() as listener:
        port = listener.getsockname()[1]
        inside = [
            "tests.sandbox.demo",
            "--inside",
            "--tour",
            tour,
            "--port",
            str(port),
            "--host-fd",
            str(listener.fileno()),
        ]
        inside += ["--prepared", f"{time.monotonic() - begun:.2f}", *(["--keep"] if keep else [])]
        return world_ns.enter_private_world(
            inside, keep=keep, extra_fds=[listener.fileno()], confirm=lambda: keeping.load() is not None
        )


def _ending(status: int) -> str:
    return f"killed by signal {status - 128}" if status > 128 else f"exit status {status}"


def _inside(given: argparse.Namespace) -> int:
    # the sandbox's parts, which the outer process has no need to load
    from tests.sandbox.demo.machine import QUICK
    from tests.sandbox.demo.run import run, show_path
    from tests.sandbox.demo.vpc.run import show_vpc
    from tests.sandbox.stack import Settings

    signal.signal(signal.SIGINT, signal.default_int_handler)
    report, result = Report(), RESULTS[given.tour]
    report.stages.append(Stage("this machine", given.prepared, True))
    tour, settings = (show_vpc, QUICK) if given.tour == "vpc" else (show_path, Settings())
    status = run(report, given.host_fd, keep=given.keep, port=given.port, tour=tour, settings=settings)
    report.write(result)
    report.say(f"\n{'All of it held.' if report.ok else 'NOT all of it held: ' + '; '.join(report.failures)}")
    report.say(f"Written: {result.relative_to(Path.cwd()) if result.is_relative_to(Path.cwd()) else result}")
    return status


def _prepare_or_say_why() -> int:
    try:
        prepare(Report())
    except NotReadyError as error:
        print(f"berth: {error}", file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--tour", choices=sorted(RESULTS), default="path", help="what to show: the path of pods, the VPC"
    )
    parser.add_argument("--keep", action="store_true", help="leave the sandbox up, and say how to look around")
    parser.add_argument("--stop", action="store_true", help="end a sandbox that was left up")
    parser.add_argument("--prepare", action="store_true", help="only build what the sandbox needs from outside")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--host-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--prepared", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.inside or given.prepare:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback: the outer process says that it was interrupted
        return _inside(given) if given.inside else _prepare_or_say_why()
    if given.stop:
        print("The sandbox is stopped." if keeping.stop() else "No sandbox is up.")
        return 0
    return _outside(given.tour, given.keep)


if __name__ == "__main__":
    sys.exit(main())
