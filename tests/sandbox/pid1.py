"""Process 1 of a private world and of a node: mounts what it must see, then reaps, forwards signals and ends it all.

Run as a script by absolute path (``python -I -S pid1.py SPEC``), so it imports the standard library alone and starts in
some 20 ms. When process 1 of a pid namespace ends, the kernel kills every process in it (pid_namespaces(7)): that is
what makes "nothing outlives the sandbox" true even after ``kill -9``, and why nothing here has to clean up.

SPEC is JSON, see :class:`Spec`. ``channel`` is a socket to whoever started us. If there is a command, that process
first writes ``F`` with the descriptors that are to be 0, 1, 2 and ``fds`` (SCM_RIGHTS: nobody in between holds a copy).
It reads ``P<pid>`` when the mounts are in place (our pid as that process sees it), ``S<status>`` when the command has
ended, ``E<text>`` when set-up failed; it writes one byte per signal to forward, and ``K`` after ``S`` if all shall
stay up. Its closing means that it died: so do we, if there is a command and it did not write ``K``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
KEEP: Final = ord("K")
GRACE_SECONDS: Final = 10.0
"""How long the command may take to end after a signal, before everything is killed."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What to make. Paths are absolute; ``binds`` are (source, target) pairs; ``command`` may be empty (a node).

    ``overlays`` are covered by a writable overlay whose upper side is on the tmpfs at /run; ``preserve`` are paths
    below them that must stay what they are (mount points, and the checkout, whose files are meant to be written).
    ``fds`` are the numbers of further descriptors that the command gets.
    """

    channel: int
    run_tmpfs: bool = False
    overlays: tuple[str, ...] = ()
    preserve: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    binds: tuple[tuple[str, str], ...] = ()
    sysfs: bool = False
    loopback: bool = False
    command: tuple[str, ...] = ()
    fds: tuple[int, ...] = ()
    hold: bool = False
    pid_variable: str = ""


def main(text: str) -> NoReturn:
    """Set up, run, wait. Never returns."""
    raw: dict[str, Any] = {k: _frozen(v) for k, v in json.loads(text).items()}
    spec = Spec(**raw)
    channel = socket.socket(fileno=spec.channel)
    os.set_inheritable(spec.channel, False)
    if spec.command:
        _take_descriptors(channel, (0, 1, 2, *spec.fds))
    pid = os.readlink("/proc/self")  # still the starter's /proc: our pid as it is seen from there
    here = Path.cwd()
    try:
        prepare(spec)
        os.chdir(here if spec.command else "/")  # the same path may be a different place now
        # referred to until the end: a Popen that is forgotten reaps its process, and _reap would miss the status
        command = _start(spec, pid) if spec.command else None
    except (OSError, subprocess.CalledProcessError) as error:
        detail = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip()
        channel.sendall(f"E{error}{': ' if detail else ''}{detail}".encode())
        os._exit(125)
    channel.sendall(f"P{pid}\n".encode())
    status = supervise(channel, command.pid if command else 0, hold=spec.hold)
    sys.stdout.flush()
    os._exit(status)


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _take_descriptors(channel: socket.socket, numbers: tuple[int, ...]) -> None:
    received = socket.recv_fds(channel, 1, len(numbers))[1]
    if len(received) != len(numbers):
        os._exit(128 + signal.SIGKILL)  # the starter died before it could send them
    clear = max(numbers) + 1  # first out of the way: a received number may be one that another shall get
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, clear) for fd in received]
    for fd in received:
        os.close(fd)
    for copy, number in zip(copies, numbers, strict=True):
        os.dup2(copy, number)
        os.close(copy)


def prepare(spec: Spec) -> None:
    """Make the mounts. Raises OSError or CalledProcessError (with mount's own words) when the kernel refuses."""
    mount("-t", "proc", "proc", "/proc")
    if spec.sysfs:  # shows the network namespace of whoever mounts it, so the node's own is needed
        mount("-t", "sysfs", "sysfs", "/sys")
    if spec.run_tmpfs:
        mount("-t", "tmpfs", "-o", "mode=755,size=75%", "tmpfs", "/run")
    stashed = [_stash(index, path) for index, path in enumerate(spec.preserve)]
    for path in spec.overlays:
        _overlay(path)
    for stash, path in stashed:
        mount("--bind", stash, path)
        mount("--make-private", stash)
        subprocess.run(["umount", "--lazy", stash], check=True, capture_output=True)
    if spec.run_tmpfs:  # shared, so that a namespace bound to /run/netns later also appears in every node
        mount("--make-shared", "/run")
    for directory in spec.directories:
        Path(directory).mkdir(parents=True, exist_ok=True)
    for source, target in spec.binds:
        mount("--bind", source, target)
    if spec.loopback:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, capture_output=True)


def mount(*arguments: str) -> None:
    """mount(8), for its error texts."""
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def _stash(index: int, path: str) -> tuple[str, str]:
    stash = Path(f"/run/.world/stash/{index}")
    stash.parent.mkdir(parents=True, exist_ok=True)
    if Path(path).is_dir():
        stash.mkdir()
    else:
        stash.touch()
    mount("--rbind", path, str(stash))
    return str(stash), path


def _overlay(path: str) -> None:
    base = Path("/run/.world/overlay") / path.strip("/").replace("/", "-")
    upper, work = base / "upper", base / "work"
    work.mkdir(parents=True)
    upper.mkdir()
    upper.chmod(Path(path).stat().st_mode & 0o7777)  # the merged directory shows the upper one's mode
    mount("-t", "overlay", "-o", f"lowerdir={path},upperdir={upper},workdir={work}", "overlay", path)


def _start(spec: Spec, pid: str) -> subprocess.Popen[bytes]:
    for (
        number
    ) in FORWARDED:  # a shell's background job ignores SIGINT and SIGQUIT, and hands that down (POSIX sh, 2.11)
        signal.signal(number, signal.SIG_DFL)
    environment = dict(os.environ)
    if spec.pid_variable:
        environment[spec.pid_variable] = pid
    return subprocess.Popen(spec.command, env=environment, pass_fds=spec.fds)


def supervise(channel: socket.socket, child: int, *, hold: bool) -> int:
    """Reap and forward until the command has ended (or, told to keep, until a signal). Returns the exit status."""
    wake, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for caught in (signal.SIGCHLD, *FORWARDED):
        signal.signal(caught, lambda *_: None)  # process 1 gets only the signals that it has a handler for
    deadline: float | None = None
    watched = [wake, channel.fileno()] if child else [wake]  # a node outlives the process that booted it
    children_changed = True
    while True:
        if children_changed and (status := _reap(child)) is not None:
            with contextlib.suppress(OSError):
                channel.sendall(f"S{status}\n".encode())
            if not (hold and _told_to_keep(channel)):
                return status
            child, deadline, watched = 0, None, [wake]  # from here on only a signal ends the world
            _let_go_of_stdio()
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = select.select(watched, [], [], timeout)[0]
        if deadline is not None and not ready:
            return 128 + signal.SIGKILL
        received = os.read(wake, 64) if wake in ready else b""
        children_changed = bool(received)
        if channel.fileno() in ready:
            orders = channel.recv(64)
            if not orders:
                return 128 + signal.SIGKILL
            received += orders
        for number in received:
            if number in FORWARDED:
                if child == 0:
                    return 0
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, number)
                deadline = deadline or time.monotonic() + GRACE_SECONDS


def _told_to_keep(channel: socket.socket) -> bool:
    """The starter's answer to the status. A signal instead, or its end, means no: whoever is to know of us does not."""
    with contextlib.suppress(OSError):
        return channel.recv(1) == bytes([KEEP])
    return False


def _let_go_of_stdio() -> None:
    """Whoever reads our output through a pipe may see its end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)


def _reap(child: int) -> int | None:
    """Collect every dead child. The command's exit status if it is among them; 128 + signal as shells do."""
    status: int | None = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, code = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(code)
                status = code if code >= 0 else 128 - code
    return status


if __name__ == "__main__":
    main(sys.argv[1])
