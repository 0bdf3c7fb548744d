"""Takes what the agent made out of the kernel: for uninstall, when no agent runs.

Ours are routes and rules with our protocol number, nftables tables of our name, and links with our alias. What the
kernel lists of a route or rule is, byte for byte, what it takes to delete it, so nothing here knows what they say.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from typing import Final

from berth_node.dataplane import KernelDataplane, messages
from berth_node.dataplane.rtnl import Reply, Request, Rtnl, attributes
from berth_node.seams import Problem

__all__ = ["clean", "pods"]

_RTM_DELROUTE, _RTM_GETROUTE = 25, 26
_RTM_DELRULE, _RTM_GETRULE = 33, 34
_FRA_PROTOCOL: Final = 21
_HEADER: Final = struct.Struct("=BBBBBBBBI")  # struct rtmsg; struct fib_rule_hdr has the same size
_PROTOCOL_BYTE: Final = 5
_ONLINK: Final = 4  # the only flag that a request may carry of those that a listing has (dead, link down, offload)
_TABLE: Final = re.compile(r"table (ip|ip6|inet) (berth(?:-\w+)*)$", re.MULTILINE)
_GONE: Final = frozenset({errno.ENODEV, errno.ESRCH, errno.ENOENT})


def pods() -> tuple[str, ...]:
    """The pods' links that are there, as ``name address``."""
    kernel = KernelDataplane()
    try:
        return tuple(f"{a.host_ifname} {a.address}" for a in kernel.survey())
    finally:
        kernel.close()


def clean() -> tuple[Problem, ...]:
    """Remove pods' links, then rules, routes and tables. Returns what could not be.

    Sysctls stay (others may rely on forwarding by now), and so do secondary interfaces' own addresses.
    """
    kernel = KernelDataplane()
    try:
        for attachment in kernel.survey():
            kernel.detach(attachment)
    finally:
        kernel.close()
    with Rtnl() as rtnl:
        # rules first: a rule without its routes would send packets elsewhere. The reaper may have been stopped before
        # it came to all links; deleting their group waits until they are gone.
        requests = [*_rules(rtnl), *_routes(rtnl), messages.group_delete()]
        problems = [problem for request in requests for problem in _try(rtnl, request)]
    return (*problems, *_drop_tables())


def _try(rtnl: Rtnl, request: Request) -> Iterator[Problem]:
    try:
        rtnl.batch([request], ignore=_GONE)
    except OSError as error:
        yield Problem(request.what, str(error))


def _listed(rtnl: Rtnl, kind: int) -> Iterator[Reply]:
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from rtnl.dump(Request(kind, 0, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "listing"))


def _rules(rtnl: Rtnl) -> Iterator[Request]:
    for reply in _listed(rtnl, _RTM_GETRULE):
        if attributes(reply.body, _HEADER.size).get(_FRA_PROTOCOL) == bytes([messages.ROUTE_PROTOCOL]):
            yield Request(_RTM_DELRULE, 0, reply.body, "removing a rule")


def _routes(rtnl: Rtnl) -> Iterator[Request]:
    for reply in _listed(rtnl, _RTM_GETROUTE):
        if reply.body[_PROTOCOL_BYTE] == messages.ROUTE_PROTOCOL:
            *fields, flags = _HEADER.unpack_from(reply.body)
            body = _HEADER.pack(*fields, flags & _ONLINK) + reply.body[_HEADER.size :]
            yield Request(_RTM_DELROUTE, 0, body, "removing a route")


def _drop_tables() -> list[Problem]:
    try:
        problems = []
        for family, name in _TABLE.findall(_nft("list", "tables").stdout):
            done = _nft("delete", "table", family, name)
            if done.returncode:
                problems.append(Problem(f"table {family} {name}", done.stderr.strip()[:300]))
        return problems
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Problem("nftables", str(error))]


def _nft(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nft", *arguments], capture_output=True, text=True, timeout=20)
