"""The node's packet marks and source NAT: one nftables table, ``ip berth``, replaced as a whole in one transaction.

Order of the chains, by the priorities of others (netfilter's ``NF_IP_PRI_*``; conntrack is -200, DNAT -100, SNAT 100):

* ``entry`` (prerouting, -150, before any DNAT): a flow that comes in by the primary interface, other than for a pod's
  own address, gets the connection mark: its answers must leave where it came in (NodePort, host ports).
* ``choose`` (prerouting, -95, after iptables', nftables' and CNI portmap's DNAT): the first packet of a pod's flow
  is judged by where it really goes. If we are to SNAT it, its connection is marked. Marked connections are routed by
  ``main``; a single address of an interface is marked for that interface's table. Prefixes have rules instead. Pods
  with a public address of their own are not judged: their traffic leaves by the interface that has their address.
  What arrives for a pod with an interface of its own, there or by the primary (a node port), is marked for that
  interface's table, which alone has the route to the pod: its neighbours on the node reach it through the VPC. But
  flows to or from such a pod that kube-proxy rewrites (a node port, an external address) are the node's, and get the
  connection mark: no other interface may send in the node's name, and none may receive what is in its name.
* ``deliver`` (output, ``type route``, -95, after DNAT), while there is such a pod: the node's own packets to it.
* ``answer`` (output, ``type route``, -145, after iptables' mangle): what the node itself sends in a pod's name (resets
  of REJECT rules, IPVS, transparent proxies) has been routed already, so a changed mark routes it again.
* ``rewrite`` (postrouting, 110): SNAT, after kube-proxy's masquerade (100): whoever binds a connection's source first
  wins, so an operator's or kube-proxy's own decision stands and ours is the default.

IPv6 has a table of its own, ``ip6 berth``, while pods have IPv6: ``entry``, ``choose`` and ``answer`` for the
connection mark. Nothing is rewritten there, and all its blocks are prefixes, which have rules.

Marks are written under a mask: interfaces 0x7f, connection 0x80 by default. kubelet and kube-proxy (0x4000, 0x8000),
Cilium (0x0f00), Istio and network policy agents own the others.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ..seams import InterfaceLayout, NodeLayout
from . import desired

__all__ = ["TABLE", "NftError", "NftTable", "ruleset", "ruleset6", "run_nft"]

TABLE: Final = "berth"
_SECONDS: Final = 20
_ALL_BITS: Final = 0xFFFFFFFF
_UNCONFIRMED: Final = "ct status & 0x8 == 0x0"
"""The first packet of a flow alone: IPS_CONFIRMED is set when it leaves. ``ct state new`` would also hold for every
later packet of a UDP flow that nobody answers."""
_MASQUERADE: Final = 0x4000
"""kube-proxy's mark for what it will rewrite (``--iptables-masquerade-bit``, 14 by default), in both of its modes."""


class NftError(OSError):
    """``nft`` refused. The message holds its own words."""


def ruleset(layout: NodeLayout, marks: Mapping[int, int], primary_link: str, own_links: Sequence[str] = ()) -> str:
    """The table's text. ``primary_link`` is the primary interface's name; empty if its link is not there.

    ``own_links`` are the links of interfaces that single pods have for themselves.
    """
    first = desired.primary(layout)
    mine = {f"{i.primary_address}/32": table for i in layout.interfaces if i.pod and (table := _marked(i, marks))}
    pods = _collapsed([*(block for interface in layout.interfaces for block in interface.blocks), *mine])
    owners = _owners(layout, marks) | mine
    singles = {block: table for block, table in owners.items() if block.endswith("/32") and block not in mine}
    own = [f"{i.primary_address}/32" for i in layout.interfaces if i is not first]
    snat = layout.snat and first is not None
    parts = [
        *_set("pods", pods),
        *_set("own", _collapsed([*pods, *own])),
        *_set("no_snat", _collapsed([*layout.no_snat_cidrs, *pods])),
        *(_set("public", sorted(layout.public)) if layout.public else ()),
        *_verdicts("singles", singles),
        *_verdicts("owners", owners),
        *((*_set("lone", sorted(mine)), *_verdicts("mine", mine, "goto")) if mine else ()),
        *(line for table, mark in sorted(marks.items()) for line in _interface_chain(table, mark, layout)),
        *_entry(layout, primary_link),
        *_choose(layout, snat, sorted({*own_links, primary_link} - {""}) if mine else ()),
        *_answer(layout, bool(mine)),
    ]
    if snat and first is not None:
        parts += _rewrite(layout, first.primary_address)
    body = "\n".join(f"  {line}" for line in parts)
    return f"table ip {TABLE} {{\n{body}\n}}\n"


def ruleset6(layout: NodeLayout, primary_link: str) -> str:
    """The text of IPv6's table; "" if there is to be none."""
    if not layout.ipv6:
        return ""
    mark = layout.connection_mark
    blocks = sorted({block for interface in layout.interfaces for block in interface.ipv6_blocks})
    restore = f"  ct mark & {mark:#x} == {mark:#x} meta mark set meta mark | {mark:#x}"
    entry = f'  iifname "{primary_link}" {_UNCONFIRMED} ip6 daddr != @pods ct mark set ct mark | {mark:#x}'
    parts = [
        "set pods {",
        "  type ipv6_addr; flags interval;",
        *_elements(blocks),
        "}",
        "chain entry {",
        "  type filter hook prerouting priority -150; policy accept;",
        *([entry] if primary_link else []),
        "}",
        "chain choose {",
        "  type filter hook prerouting priority -95; policy accept;",
        "  ip6 saddr != @pods return",
        restore,
        "}",
        "chain answer {",
        "  type route hook output priority -145; policy accept;",
        "  ip6 saddr != @pods return",
        restore,
        "}",
    ]
    body = "\n".join(f"  {line}" for line in parts)
    return f"table ip6 {TABLE} {{\n{body}\n}}\n"


def _owners(layout: NodeLayout, marks: Mapping[int, int]) -> dict[str, int]:
    """Block to table. Two interfaces never share a block in EC2; if a record says so, the first one listed has it."""
    owners: dict[str, int] = {}
    for interface in layout.interfaces:
        table = desired.table_of(interface)
        for block in interface.blocks:
            if table in marks:
                owners.setdefault(str(ipaddress.ip_network(block)), table)
    return owners


def _marked(interface: InterfaceLayout, marks: Mapping[int, int]) -> int:
    table = desired.table_of(interface)
    return table if table in marks else 0


def _interface_chain(table: int, mark: int, layout: NodeLayout) -> Sequence[str]:
    keep = _ALL_BITS & ~layout.interface_mask
    return (f"chain to_{table} {{", f"  meta mark set meta mark & {keep:#010x} | {mark:#010x}", "}")


def _entry(layout: NodeLayout, link: str) -> Sequence[str]:
    lines = ["chain entry {", "  type filter hook prerouting priority -150; policy accept;"]
    if link:
        mark = f"ct mark set ct mark | {layout.connection_mark:#x}"
        lines.append(f'  iifname "{link}" {_UNCONFIRMED} ip daddr != @pods {mark}')
    return (*lines, "}")


def _choose(layout: NodeLayout, snat: bool, arriving: Sequence[str]) -> Sequence[str]:
    mark = layout.connection_mark
    lines = [
        "chain external {",
        f"  ct mark set ct mark | {mark:#x}",
        f"  meta mark set meta mark | {mark:#x}",
        "}",
        "chain choose {",
        "  type filter hook prerouting priority -95; policy accept;",
        *(_towards_lone(mark, arriving) if arriving else ()),
        "  ip saddr != @pods return",
        f"  ct mark & {mark:#x} == {mark:#x} meta mark set meta mark | {mark:#x} return",
    ]
    if snat:
        whose = "ip saddr != @public " if layout.public else ""
        where = "ip daddr != @no_snat fib daddr type unicast"
        lines.append(f"  {_UNCONFIRMED} ct state new {whose}{where} goto external")
    return (*lines, "  ip saddr vmap @singles", "}")


def _towards_lone(mark: int, arriving: Sequence[str]) -> Sequence[str]:
    masqueraded = f"{_UNCONFIRMED} meta mark & {_MASQUERADE:#x} == {_MASQUERADE:#x}"
    return (
        f"  {masqueraded} ip saddr @lone ct mark set ct mark | {mark:#x}",
        f"  {masqueraded} ip daddr @lone ct mark set ct mark | {mark:#x}",
        f"  ct mark & {mark:#x} == {mark:#x} ip daddr @lone meta mark set meta mark | {mark:#x}",
        f"  meta mark & {mark:#x} == {mark:#x} ip daddr vmap @mine",
        f"  iifname {{ {', '.join(map(_quoted, arriving))} }} ip daddr vmap @mine",
    )


def _answer(layout: NodeLayout, mine: bool) -> Sequence[str]:
    mark = layout.connection_mark
    return (
        "chain answer {",
        "  type route hook output priority -145; policy accept;",
        "  ip saddr != @own return",
        f"  ct mark & {mark:#x} == {mark:#x} meta mark set meta mark | {mark:#x} return",
        "  ip saddr vmap @owners",
        "}",
        *(_deliver() if mine else ()),
    )


def _deliver() -> Sequence[str]:
    return (
        "chain deliver {",
        "  type route hook output priority -95; policy accept;",
        "  ip daddr vmap @mine",
        "}",
    )


def _rewrite(layout: NodeLayout, address: str) -> Sequence[str]:
    mark = layout.connection_mark
    return (
        "chain rewrite {",
        "  type nat hook postrouting priority 110; policy accept;",
        f"  ct mark & {mark:#x} == {mark:#x} ip saddr @pods ip daddr != @no_snat snat to {address} fully-random",
        "}",
    )


def _set(name: str, blocks: Sequence[str]) -> Sequence[str]:
    return (f"set {name} {{", "  type ipv4_addr; flags interval;", *_elements(blocks), "}")


def _quoted(name: str) -> str:
    return f'"{name}"'


def _verdicts(name: str, tables: Mapping[str, int], verdict: str = "jump") -> Sequence[str]:
    pairs = [f"{block} : {verdict} to_{table}" for block, table in sorted(tables.items())]
    return (f"map {name} {{", "  type ipv4_addr : verdict; flags interval;", *_elements(pairs), "}")


def _elements(items: Sequence[str]) -> Sequence[str]:
    return (f"  elements = {{ {', '.join(items)} }}",) if items else ()


def _collapsed(cidrs: Iterable[str]) -> list[str]:
    """Sorted, merged and free of overlaps, which an interval set refuses."""
    return [str(n) for n in ipaddress.collapse_addresses(ipaddress.IPv4Network(c, strict=False) for c in cidrs)]


class NftTable:
    """The table of one family (``ip``, ``ip6``) in the kernel, of the network namespace of the thread that calls.

    What was loaded is remembered only to tell, by reading the table back, that nothing has to be loaded again.
    """

    def __init__(self, family: str = "ip") -> None:
        self._family = family
        self._wanted = ""
        self._listing = ""

    def apply(self, text: str) -> None:
        """Make the table be ``text``, if it is not; "" for no table. Raises :class:`NftError`."""
        if text == self._wanted and self._listing and self._list() == self._listing:
            return
        self._wanted = ""
        # making it first lets `delete` succeed where there is none; all three are one transaction
        name = f"{self._family} {TABLE}"
        run_nft(["-f", "-"], f"table {name} {{\n}}\ndelete table {name}\n{text}")
        self._listing = self._list()
        self._wanted = text

    def intact(self) -> bool:
        """Whether the table is as it was loaded."""
        return bool(self._listing) and self._list() == self._listing

    def _list(self) -> str:
        try:
            return run_nft(["-s", "-n", "list", "table", self._family, TABLE])
        except NftError:
            return ""


def run_nft(arguments: Sequence[str], text: str | None = None) -> str:
    """What ``nft`` prints. ``text`` is its standard input. Raises :class:`NftError`."""
    try:
        done = subprocess.run(["nft", *arguments], input=text, capture_output=True, text=True, timeout=_SECONDS)
    except FileNotFoundError:
        raise NftError("the nft program is missing; install nftables") from None
    except subprocess.TimeoutExpired:
        raise NftError(f"nft did not finish in {_SECONDS} s") from None
    if done.returncode:
        raise NftError(f"nft {' '.join(arguments)}: {done.stderr.strip()[:500]}")
    return done.stdout
