"""firewalld 1.x with its nftables backend (src/firewall/core/nftables.py): table ``inet firewalld``, hooks at the usual
priorities plus 10, zones told by source first, then by interface, then the default zone.

What is forwarded and belongs to no connection, and to no DNAT, is rejected unless its zone lets it pass: ``public``
only to its own interfaces (``forward: yes``), ``trusted`` everywhere (its target is ACCEPT).
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.sandbox.foreign.neighbour import Neighbour

__all__ = ["firewalld"]

_REJECT = "reject with icmpx type admin-prohibited"


def firewalld(trusted: Sequence[str] = ()) -> Neighbour:
    """As installed, with eth0 in zone ``public``, the default; ``trusted`` are sources in that zone."""
    parts = [
        _base("mangle_PREROUTING", "type filter hook prerouting priority -140", ["jump mangle_PREROUTING_ZONES"]),
        _zones("mangle_PREROUTING", "mangle_PRE", trusted),
        _base("nat_PREROUTING", "type nat hook prerouting priority -90", ["jump nat_PREROUTING_ZONES"]),
        _zones("nat_PREROUTING", "nat_PRE", trusted),
        _base("nat_POSTROUTING", "type nat hook postrouting priority 110", ["jump nat_POSTROUTING_ZONES"]),
        _zones("nat_POSTROUTING", "nat_POST", trusted, by="daddr", link="oifname"),
        _base(
            "filter_PREROUTING",
            "type filter hook prerouting priority 10",
            [
                "icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept",
                "meta nfproto ipv6 fib saddr . mark . iif oif missing drop",
            ],
        ),
        _base("filter_INPUT", "type filter hook input priority 10", _checks("filter_INPUT", "iifname")),
        _zones("filter_INPUT", "filter_IN", trusted),
        _base("filter_FORWARD", "type filter hook forward priority 10", _checks("filter_FORWARD", "iifname")),
        _zones("filter_FORWARD", "filter_FWD", trusted),
        _base(
            "filter_OUTPUT",
            "type filter hook output priority 10",
            ["ct state { established, related } accept", 'oifname "lo" accept'],
        ),
    ]
    for chain, ends in _ZONE_CHAINS.items():
        for zone in ("public", "trusted"):
            parts += _zone(chain, zone, ends[zone])
    return Neighbour("firewalld", nft="table inet firewalld {\n" + "".join(parts) + "}\n", tables=("inet firewalld",))


_ALLOWED_IN = ["tcp dport 22 accept", "ip6 daddr fe80::/64 udp dport 546 accept"]
_ZONE_CHAINS: dict[str, dict[str, tuple[Sequence[str], str]]] = {
    "mangle_PRE": {"public": ((), ""), "trusted": ((), "")},
    "nat_PRE": {"public": ((), ""), "trusted": ((), "")},
    "nat_POST": {"public": ((), ""), "trusted": ((), "")},
    "filter_IN": {
        "public": (_ALLOWED_IN, "meta l4proto { icmp, ipv6-icmp } accept\n    " + _REJECT),
        "trusted": ((), "accept"),
    },
    "filter_FWD": {"public": (['oifname "eth0" accept'], _REJECT), "trusted": ((), "accept")},
}
"""Chain to zone to (rules of its ``allow`` chain, how it ends)."""


def _base(name: str, hook: str, rules: Sequence[str]) -> str:
    return f"  chain {name} {{\n    {hook}; policy accept;\n" + "".join(f"    {rule}\n" for rule in rules) + "  }\n"


def _checks(name: str, link: str) -> Sequence[str]:
    return (
        "ct state { established, related } accept",
        "ct status dnat accept",
        f'{link} "lo" accept',
        "ct state invalid drop",
        f"jump {name}_ZONES",
        _REJECT,
    )


def _zones(name: str, chain: str, trusted: Sequence[str], *, by: str = "saddr", link: str = "iifname") -> str:
    rules = [f"ip {by} {source} goto {chain}_trusted" for source in trusted]
    rules += [f'{link} "eth0" goto {chain}_public', f"goto {chain}_public"]
    return f"  chain {name}_ZONES {{\n" + "".join(f"    {rule}\n" for rule in rules) + "  }\n"


def _zone(chain: str, zone: str, content: tuple[Sequence[str], str]) -> Sequence[str]:
    allowed, end = content
    name = f"{chain}_{zone}"
    steps = ("pre", "log", "deny", "allow", "post")
    body = "".join(f"    jump {name}_{step}\n" for step in steps) + (f"    {end}\n" if end else "")
    parts = [f"  chain {name} {{\n{body}  }}\n"]
    for step in steps:
        held = "".join(f"    {rule}\n" for rule in allowed) if step == "allow" else ""
        parts.append(f"  chain {name}_{step} {{\n{held}  }}\n")
    return parts
