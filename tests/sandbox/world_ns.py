"""A private world: mount, network and pid namespaces that hold the whole sandbox and die with whoever made them.

``python -m tests.sandbox.world_ns -- command args...`` runs a command in a fresh one and exits with its status;
``--keep`` leaves the world up after the command has ended; ``--enter PID -- command`` runs another command in it;
``--stop PID`` ends it. PID is what the command finds in ``BERTH_SANDBOX_PID``: process 1, seen from outside.

Inside, /run is a fresh shared tmpfs, and /etc, /var/lib, /opt and /tmp are overlays whose changes live on it, so that
/etc/cni/net.d or /opt/cni/bin can be made without touching the machine. The checkout and the current directory stay
real. Nothing remains afterwards: three things each end the world when the outer process dies, by ``kill -9`` too (the
closed channel, seen by process 1; PR_SET_PDEATHSIG on ``unshare``; ``unshare --kill-child``), and the kernel kills
what lives in a pid namespace whose process 1 is gone. A kept world stays only once the outer process has said so.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

__all__ = [
    "WorldError",
    "enter_private_world",
    "in_world",
    "is_world",
    "nsenter_argv",
    "run",
    "run_tied",
    "stop",
    "tool_path",
]

WORLD_VARIABLE: Final = "BERTH_SANDBOX_WORLD"
PID_VARIABLE: Final = "BERTH_SANDBOX_PID"
PID1: Final = Path(__file__).resolve().parent / "pid1.py"
REPOSITORY: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = (".", "layers/berth", "node_agent")
"""Where this checkout's packages are, below :data:`REPOSITORY`."""
OVERLAYS: Final = ("/etc", "/var/lib", "/opt", "/tmp")
DIRECTORIES: Final = (
    "/run/netns",
    "/run/lock",
    "/run/berth",
    "/run/berth-sandbox",
    "/var/lib/berth",
    "/etc/berth",
    "/etc/cni/net.d",
    "/opt/cni/bin",
)
PR_SET_PDEATHSIG: Final = 1
KEEP: Final = ord("K")
"""What is said to process 1 when the world shall stay. Not a signal's number, which is all else that is said."""
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class WorldError(RuntimeError):
    """The world could not be made or is not there. The message names what was refused and what helps."""


def in_world() -> bool:
    """Whether this process already runs inside a private world."""
    return os.environ.get(WORLD_VARIABLE) == "1"


def enter_private_world(
    argv: Sequence[str],
    keep: bool = False,
    extra_fds: Sequence[int] = (),
    confirm: Callable[[], bool] = lambda: True,
) -> int:
    """Run a Python module (``argv`` is its name and arguments) in a fresh private world. Returns its exit status.

    Blocks until it has ended. With ``keep`` the world, and whatever processes the module left in it, stay up when it
    has ended by itself and ``confirm`` then agrees, until :func:`stop`. ``extra_fds`` are open in the module under the
    same numbers.
    """
    return run([sys.executable, "-m", *argv], keep=keep, extra_fds=extra_fds, confirm=confirm)


def run(
    command: Sequence[str],
    *,
    keep: bool = False,
    extra_fds: Sequence[int] = (),
    confirm: Callable[[], bool] = lambda: True,
) -> int:
    """Run any command in a fresh private world; see :func:`enter_private_world`. Raises :class:`WorldError`.

    Call it from a thread that lives as long as the world (the main one): the kernel ties the world to that thread.
    """
    spec = {
        "run_tmpfs": True,
        "overlays": [path for path in OVERLAYS if Path(path).is_dir()],
        "preserve": _preserved(),
        "directories": DIRECTORIES,
        "loopback": True,
        "hold": keep,
        "pid_variable": PID_VARIABLE,
    }
    return _run(command, spec, ["--net"], _world_environment(), extra_fds, confirm)


def run_tied(command: Sequence[str]) -> int:
    """Run a command whose processes, all of them, die with this one. Network, files and environment are the machine's.

    For what needs the network, such as installing packages. Raises :class:`WorldError`.
    """
    return _run(command, {"hold": False}, [], dict(os.environ), (), lambda: False)


def _run(
    command: Sequence[str],
    spec: dict[str, Any],
    namespaces: Sequence[str],
    environment: dict[str, str],
    extra_fds: Sequence[int],
    confirm: Callable[[], bool],
) -> int:
    if not command:
        raise WorldError("no command was given: say what to run in the private world")
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as complaints:
        with theirs:
            spec |= {"channel": theirs.fileno(), "command": list(command), "fds": list(extra_fds)}
            process = subprocess.Popen(
                _unshare_argv(namespaces, json.dumps(spec)),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,  # ours go to process 1: unshare, which outlives us if kept, must not
                stdout=subprocess.DEVNULL,  # hold a pipe open that someone reads to its end
                stderr=complaints,
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C comes to us alone, and is forwarded once
                preexec_fn=None if spec["hold"] else _DieWithParent(os.getpid()),
            )
        with contextlib.suppress(BrokenPipeError):  # it failed already; what it wrote says why
            socket.send_fds(ours, [b"F"], [0, 1, 2, *extra_fds])
        with _forwarding(ours):
            return _await(process, ours, confirm if spec["hold"] else lambda: False, complaints)


def _await(
    process: subprocess.Popen[bytes], channel: socket.socket, confirm: Callable[[], bool], complaints: IO[bytes]
) -> int:
    """Read what process 1 says until the command has ended; unless confirmed, wait until the whole world is gone."""
    said = b""
    while chunk := channel.recv(65536):
        said += chunk
        status = next((int(line[1:]) for line in said.split(b"\n")[:-1] if line[:1] == b"S"), None)
        if status is not None:
            if confirm():
                channel.send(bytes([KEEP]))
            else:
                channel.shutdown(socket.SHUT_RDWR)
                process.wait()
            return status
    code = process.wait()
    if said[:1] == b"E" or not said:
        complaints.seek(0)
        reason = (said[1:] or complaints.read().strip()).decode(errors="replace") or f"unshare exited {code}"
        raise WorldError(f"the private world could not be made: {reason}. Root, or user namespaces, are needed")
    return code if code >= 0 else 128 - code


def _world_environment() -> dict[str, str]:
    """Ours, without what would steer the sandbox: AWS settings, proxies, where temporary files go, Python's own."""
    ours = {name: value for name, value in os.environ.items() if not _steers(name)}
    return ours | {
        WORLD_VARIABLE: "1",
        "PATH": tool_path(),
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / package) for package in PACKAGES),
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def _steers(name: str) -> bool:
    elsewhere = name in ("TMPDIR", "TEMP", "TMP")  # /tmp is the world's own and goes with it
    return elsewhere or name.startswith(("AWS_", "BOTO_", "PYTHON", "MOTO_")) or name.lower().endswith("_proxy")


def _preserved() -> list[str]:
    """Mount points, the checkout and the current directory, where an overlay would hide them or swallow writes."""
    with Path("/proc/self/mountinfo").open() as lines:
        mounted = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    below = sorted({p for p in (*mounted, str(REPOSITORY), str(Path.cwd())) if _covered(p) and Path(p).exists()})
    return [p for p in below if not any(p.startswith(f"{other}/") for other in below)]


def _covered(path: str) -> bool:
    return any(path.startswith(f"{covered}/") for covered in OVERLAYS)


def _unshare_argv(namespaces: Sequence[str], spec: str) -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    always = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    return ["unshare", *user, *always, *namespaces, "--", sys.executable, "-I", "-S", str(PID1), spec]


def tool_path() -> str:
    """PATH with the directories where ip, nft and iptables are, which a plain user's PATH lacks."""
    known = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*known, *(d for d in ("/usr/sbin", "/sbin") if d not in known)])


class _DieWithParent:
    """A preexec_fn, built before the fork so that the child neither imports nor allocates much."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __call__(self) -> None:
        self._libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != self._parent:  # it died before the request: no signal will come
            os._exit(125)


@contextlib.contextmanager
def _forwarding(channel: socket.socket) -> Iterator[None]:
    """Hand the signals that would end us to process 1. Off the main thread Python cannot, and there is no need to."""

    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            channel.send(bytes([number]))

    try:
        previous = [(number, signal.signal(number, forward)) for number in _FORWARDED]
    except ValueError:
        previous = []
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


def nsenter_argv(pid: int, command: Sequence[str]) -> list[str]:
    """The argv that runs ``command``, from ``/``, in the mount, pid and network namespaces of process ``pid``."""
    user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    return ["nsenter", "--target", str(pid), *user, "--mount", "--pid", "--net", "--", *command]


def enter(pid: int, command: Sequence[str]) -> int:
    """Run a command in a kept world, attached to our terminal. Returns its exit status."""
    _check_world(pid)
    environment = {**_world_environment(), PID_VARIABLE: str(pid)}
    here = ["env", f"--chdir={Path.cwd()}", *command]  # nsenter leaves one in /
    return subprocess.run(nsenter_argv(pid, here), env=environment, check=False).returncode


def stop(pid: int, timeout: float = 15.0) -> None:
    """End a kept world and wait until it is gone: asked first, killed after ``timeout`` seconds. Gone is fine."""
    with contextlib.suppress(ProcessLookupError, WorldError):
        held = os.pidfd_open(pid)  # names this process for good, and is readable once all that it held is dead
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                _check_world(pid)
                signal.pidfd_send_signal(held, number)
                if select.select([held], [], [], timeout)[0]:
                    return
        finally:
            os.close(held)


def is_world(pid: int) -> bool:
    """Whether that is a world's process 1. A zombie's command line is empty."""
    try:
        return str(PID1).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _check_world(pid: int) -> None:
    """A pid may have been given to another process since: look before entering or killing."""
    if not is_world(pid):
        raise WorldError(f"process {pid} is not the first process of a private world; was it stopped already?")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.sandbox.world_ns", description=(__doc__ or "").split("\n")[0]
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--keep", action="store_true", help="leave the world up when the command has ended")
    chosen.add_argument("--enter", type=int, metavar="PID", help="run the command in this world")
    chosen.add_argument("--stop", type=int, metavar="PID", help="end this world")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --, what to run")
    given = parser.parse_args(arguments)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    try:
        if given.stop is not None:
            stop(given.stop)
            return 0
        if given.enter is not None:
            return enter(given.enter, command or [os.environ.get("SHELL", "/bin/sh")])
        return run(command, keep=given.keep)
    except WorldError as error:
        print(f"berth: {error}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
