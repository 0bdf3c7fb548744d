"""Named network namespaces: make one, delete one, and do something inside one.

A namespace is a bind mount ``/run/netns/<name>``, the convention of ``ip netns``. Entering one changes the calling
*thread* alone (setns(2)); a process started there inherits it, and a socket made there stays in it for good. So no
helper process is needed, and several threads may work in different namespaces at once. Inside :func:`inside` nothing
may be awaited, since the thread would then run other code there.

Call these only in a private world (`unshare --mount --net`, a fresh tmpfs on /run).
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.sandbox.world import netns_path

__all__ = [
    "CommandError",
    "create",
    "delete",
    "delivers",
    "exists",
    "family_of",
    "inside",
    "ip_batch",
    "names",
    "nft",
    "open_socket",
    "popen",
    "run",
    "settled",
    "sysctl",
]

_CLONE_NEWNET: Final = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 4096, 16384, 1 << 20, 2
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1

_libc: Final = ctypes.CDLL(None, use_errno=True)


class CommandError(RuntimeError):
    """A command inside a namespace failed. The message has the command, the namespace and what it wrote to stderr."""


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: Path, flags: int) -> None:
    result = _libc.mount(source.encode(), str(target).encode(), b"none", ctypes.c_ulong(flags), None)
    _check(result, f"mount {source} on {target}")


def _share(directory: Path) -> None:
    """Makes ``directory`` a shared mount, as ``ip netns add`` does, so that slaves of it see later namespaces."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        _mount("", directory, _MS_SHARED | _MS_REC)
    except OSError:  # EINVAL: not a mount point yet
        _mount(str(directory), directory, _MS_BIND | _MS_REC)
        _mount("", directory, _MS_SHARED | _MS_REC)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


@contextmanager
def _returning() -> Iterator[None]:
    """Brings the calling thread back to the namespace that it came from."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            _check(_libc.setns(home, _CLONE_NEWNET), "setns back")
        finally:
            os.close(home)


def create(name: str) -> None:
    """Makes a namespace whose loopback is up. Raises FileExistsError if there is one of this name."""
    path = netns_path(name)
    _share(path.parent)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        with _returning():
            _check(_libc.unshare(_CLONE_NEWNET), "unshare a network namespace")
            _loopback_up()
            _mount("/proc/thread-self/ns/net", path, _MS_BIND)
    except BaseException:
        path.unlink()
        raise


def delete(name: str) -> None:
    """Removes a namespace's name; no error if there is none. It dies with its last process and socket."""
    path = netns_path(name)
    _libc.umount2(str(path).encode(), _MNT_DETACH)
    path.unlink(missing_ok=True)


def exists(name: str) -> bool:
    return netns_path(name).exists()


def names() -> frozenset[str]:
    """All named namespaces."""
    with suppress(FileNotFoundError):
        return frozenset(os.listdir(netns_path("x").parent))
    return frozenset()


@contextmanager
def inside(name: str) -> Iterator[None]:
    """The calling thread is in the namespace until the block ends. Raises FileNotFoundError if there is none."""
    fd = os.open(netns_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _returning():
            _check(_libc.setns(fd, _CLONE_NEWNET), f"setns to {name}")
            yield
    finally:
        os.close(fd)


def family_of(address: str) -> socket.AddressFamily:
    """The family of a numeric address; ``::`` and ``""`` are "any" of IPv6 and of IPv4."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def open_socket(
    name: str, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
) -> socket.socket:
    """A socket that belongs to the namespace, whoever uses it later."""
    with inside(name):
        return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)


def run(
    name: str, argv: Sequence[str], *, stdin: str | None = None, check: bool = True, timeout: float | None = 30.0
) -> subprocess.CompletedProcess[str]:
    """Runs a command in the namespace to its end. ``timeout`` in seconds; raises CommandError if ``check``."""
    with inside(name):
        done = subprocess.run(argv, input=stdin, text=True, capture_output=True, check=False, timeout=timeout)
    if check and done.returncode != 0:
        raise CommandError(f"{' '.join(argv)} in {name} exited {done.returncode}: {done.stderr or done.stdout}")
    return done


def settled(*names: str) -> bool:
    """Whether every link in these namespaces that has a carrier passes packets.

    A link that came up drops what is sent until the kernel's link watch has run, some milliseconds later
    (linux/net/core/link_watch.c); a test that counts lost packets waits for that.
    """
    links = [link for name in names for link in json.loads(run(name, ["ip", "-j", "link"]).stdout)]
    return all(link["operstate"] in ("UP", "UNKNOWN") for link in links if "LOWER_UP" in link["flags"])


def delivers(name: str, *addresses: str) -> bool:
    """Whether the namespace takes what is sent to these IPv6 addresses as its own.

    Linux says that an address is there before a work queue has put it into the table of local ones
    (linux/net/ipv6/addrconf.c, addrconf_dad_start), without duplicate address detection too.
    """
    shown = json.loads(run(name, ["ip", "-6", "-j", "route", "show", "table", "local"]).stdout)
    return {route["dst"] for route in shown} >= set(addresses)


def popen(name: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Starts a process in the namespace; ``options`` are those of subprocess.Popen."""
    with inside(name):
        return subprocess.Popen(argv, **options)


def sysctl(name: str, values: Mapping[str, object]) -> None:
    """Writes /proc/sys/net keys of the namespace, for example ``{"ipv4/ip_forward": 1}``."""
    with inside(name):
        for key, value in values.items():
            Path("/proc/sys/net", key).write_text(str(value))


def ip_batch(name: str, lines: Iterable[str], *, force: bool = False, family: str = "") -> None:
    """Runs ``ip -batch`` on commands without the leading ``ip``; with ``force`` it goes on after a failed one.

    ``family`` is ``-4`` or ``-6`` for commands that do not say it by an address: those of rules, and flushes.
    Without it, raises CommandError at the first failure: lines before that one have taken effect.
    """
    text = "".join(f"{line}\n" for line in lines)
    if text:
        options = [*(["-force"] if force else []), *([family] if family else [])]
        run(name, ["ip", *options, "-batch", "-"], stdin=text, check=not force)


def nft(name: str, ruleset: str) -> None:
    """Applies a ruleset or commands as one transaction: all of it or nothing (CommandError)."""
    if ruleset:
        run(name, ["nft", "-f", "-"], stdin=ruleset)
