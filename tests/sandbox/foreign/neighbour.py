"""A program's state in the kernel, put there and taken away as a whole, and read back for comparison."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.sandbox import netns

__all__ = ["Neighbour", "theirs"]

_OURS = ("table ip berth", "table ip berth-ports")
_NO_RULES = "".join(
    f"*{table}\n" + "".join(f":{chain} ACCEPT\n" for chain in chains.split()) + "COMMIT\n"
    for table, chains in {
        "raw": "PREROUTING OUTPUT",
        "mangle": "PREROUTING INPUT FORWARD OUTPUT POSTROUTING",
        "nat": "PREROUTING INPUT OUTPUT POSTROUTING",
        "filter": "INPUT FORWARD OUTPUT",
    }.items()
)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """``up`` and ``down`` are lines for ``ip -batch``, ``iptables`` is for iptables-restore, ``nft`` for nft."""

    name: str
    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    iptables: str = ""
    nft: str = ""
    tables: tuple[str, ...] = ()
    """nftables tables that ``nft`` makes."""

    def apply(self, where: str) -> None:
        """As the program starts on a node. Raises netns.CommandError with what the tool said."""
        netns.ip_batch(where, self.up)
        if self.iptables:
            netns.run(where, ["iptables-restore", "--noflush"], stdin=self.iptables)
        netns.nft(where, self.nft)

    def remove(self, where: str) -> None:
        """Take all of it away again; iptables' tables stay, empty."""
        netns.ip_batch(where, self.down)
        if self.iptables:
            netns.run(where, ["iptables-restore"], stdin=_NO_RULES)
        netns.nft(where, "".join(f"delete table {table}\n" for table in self.tables))


def theirs(where: str) -> dict[str, str]:
    """Everything in a namespace that is not Berth's: rules and routes but those of protocol 190, and rulesets but
    Berth's tables, without counters. The kernel's own routes to local addresses follow from the addresses."""
    names = [line for line in netns.run(where, ["nft", "list", "tables"]).stdout.splitlines() if line not in _OURS]
    tables = [netns.run(where, ["nft", "-s", "list", *name.split()]).stdout for name in names]
    saved = netns.run(where, ["iptables-save"]).stdout
    return {
        "rules": _without_ours(netns.run(where, ["ip", "-4", "rule"]).stdout),
        "routes": _without_ours(netns.run(where, ["ip", "-4", "route", "show", "table", "all"]).stdout),
        "nftables": "".join(tables),
        "iptables": re.sub(r"^#.*\n|\[\d+:\d+\]", "", saved, flags=re.MULTILINE),
    }


def _without_ours(listing: str) -> str:
    return "".join(
        line for line in listing.splitlines(keepends=True) if "proto 190" not in line and "table local" not in line
    )
