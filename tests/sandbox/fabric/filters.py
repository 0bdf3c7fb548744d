"""Security groups and network ACLs on packets: nftables rules of the router, made from a world.

A network ACL is stateless; it sees what crosses the border of its subnet, and its rules are tried by number (VPC user
guide, "Network ACLs"). A security group is stateful, and its state belongs to an interface: two interfaces judge a
packet between them one after the other. A packet is in one conntrack zone for each pass of the router, so the state is
kept in sets instead, keyed by port: ``tcp_flows`` and ``udp_flows`` by the interface's own end first, whichever side
began; ``echo_out`` and ``echo_in`` for pings, which are answered in one direction only (docs/decisions/0019).

ICMP errors pass groups, as they do when conntrack finds them related to a flow; ACLs judge them as any packet. IPv4
alone is filtered. An interface that is named here and gone does no harm: rules name ports, not devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from tests.sandbox.fabric.flows import GROUP
from tests.sandbox.world import AclRule, Eni, GroupRule, NetworkAcl, SecurityGroup, World

__all__ = ["filter_chains", "filter_changes", "filter_table"]

Chains = Mapping[str, str]

_OUT: Final = "iifname . ip saddr . ip daddr . th sport . th dport"
_IN: Final = "oifname . ip daddr . ip saddr . th dport . th sport"
_ECHO_OUT: Final = "iifname . ip saddr . ip daddr"
_ECHO_IN: Final = "oifname . ip daddr . ip saddr"

_FLOW: Final = "ifname . ipv4_addr . ipv4_addr . inet_service . inet_service"  # five parts are the most a key has

_TABLE: Final = f"""
table ip filters {{
  set tcp_flows {{ type {_FLOW}; size 65535; flags dynamic,timeout; timeout 350s; }}
  set udp_flows {{ type {_FLOW}; size 65535; flags dynamic,timeout; timeout 180s; }}
  set echo_out {{ type ifname . ipv4_addr . ipv4_addr; size 65535; flags dynamic,timeout; timeout 30s; }}
  set echo_in {{ type ifname . ipv4_addr . ipv4_addr; size 65535; flags dynamic,timeout; timeout 30s; }}
  counter acl_drops {{ }}
  counter group_drops {{ }}

  chain acls {{ type filter hook forward priority -10; }}
  chain groups_out {{ type filter hook forward priority 0; }}
  chain groups_in {{ type filter hook forward priority 1; }}
  chain flows {{ type filter hook forward priority 2; }}
  chain known_out {{
    icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
    meta l4proto tcp {_OUT} @tcp_flows update @tcp_flows {{ {_OUT} }} accept
    meta l4proto udp {_OUT} @udp_flows update @udp_flows {{ {_OUT} }} accept
    icmp type echo-reply {_ECHO_OUT} @echo_in accept
  }}
  chain known_in {{
    icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
    meta l4proto tcp {_IN} @tcp_flows update @tcp_flows {{ {_IN} }} accept
    meta l4proto udp {_IN} @udp_flows update @udp_flows {{ {_IN} }} accept
    icmp type echo-reply {_ECHO_IN} @echo_out accept
  }}
  chain remember_out {{
    meta l4proto tcp update @tcp_flows {{ {_OUT} }} accept
    meta l4proto udp update @udp_flows {{ {_OUT} }} accept
    icmp type echo-request update @echo_out {{ {_ECHO_OUT} }} accept
    accept
  }}
  chain remember_in {{
    meta l4proto tcp update @tcp_flows {{ {_IN} }} accept
    meta l4proto udp update @udp_flows {{ {_IN} }} accept
    icmp type echo-request update @echo_in {{ {_ECHO_IN} }} accept
    accept
  }}
}}
"""
_FIXED: Final = ("acls", "groups_out", "groups_in", "flows")
"""Base chains, which stay and are filled anew."""
_DROPS: Final = (
    ("acl_out_", "acl_drops", "acl-out"),
    ("acl_in_", "acl_drops", "acl-in"),
    ("out_", "group_drops", "group-out"),
    ("in_", "group_drops", "group-in"),
)
"""How the names of chains that drop begin, by what counter, and what they tell of it."""


def filter_table() -> str:
    """The table with its state and fixed chains, letting everything pass."""
    return _TABLE


def filter_chains(world: World, ports: Mapping[str, str]) -> dict[str, str]:
    """Chain name → rules. ``ports`` maps an interface id to its port, for interfaces of instances and NAT gateways."""
    shown = [(eni, ports[eni.id]) for eni in world.enis if eni.id in ports]
    chains = dict(_acl_chains(world, shown))
    if world.groups:
        chains |= dict(_group_chains(world, [(e, p) for e, p in shown if e.instance_id]))
    reached = [c for vpc in world.vpcs if not vpc.vpn for c in vpc.cidrs]
    if reached:
        # a VPC without a VPN gateway is not there for on-premises
        chains["acls"] = f'iifname "vgw" ip daddr {_any_of(reached)} drop\n' + chains.get("acls", "")
    return _told(chains) if world.flow_logs else chains


def _told(chains: Chains) -> dict[str, str]:
    """The same chains, which tell of each packet that passes and of each that they drop (see ``flows.py``)."""
    found = {"flows": _log("accept")}
    for name, rules in chains.items():
        for start, counter, prefix in _DROPS:
            if name.startswith(start):
                rules = rules.replace(f"counter name {counter}", f"{_log(prefix)} counter name {counter}")
        found[name] = rules
    return found


def _log(prefix: str) -> str:
    return f'log prefix "{prefix}" group {GROUP} snaplen 64'


def filter_changes(before: Chains, after: Chains) -> str:
    """One transaction from one set of chains to another; the state stays."""
    if before == after:
        return ""
    lines = [f"flush chain ip filters {name}" for name in {*before, *_FIXED}]
    lines += [f"delete chain ip filters {name}" for name in before.keys() - after.keys() - {*_FIXED}]
    body = "".join(f"  chain {name} {{\n{rules}\n  }}\n" for name, rules in after.items())
    return "\n".join(lines) + f"\ntable ip filters {{\n{body}}}\n"


def _any_of(cidrs: Iterable[str]) -> str:
    return f"{{ {', '.join(sorted(set(cidrs)))} }}"


def _names(ports: Iterable[str]) -> str:
    return "{ " + ", ".join(f'"{p}"' for p in sorted(ports)) + " }"


def _vmap(key: str, jumps: Mapping[str, str]) -> str:
    pairs = ", ".join(f'"{port}" : jump {chain}' for port, chain in sorted(jumps.items()))
    return f"{key} vmap {{ {pairs} }}" if pairs else ""


def _matching(protocol: str, ports: tuple[int, int] | None, icmp: tuple[int, int] | None) -> str:
    """What a rule says of protocol and ports, in nftables' words."""
    if protocol == "any":
        return ""
    if protocol in ("tcp", "udp"):
        whole = ports is None or ports == (0, 65535)
        return f"meta l4proto {protocol}" if whole or ports is None else f"{protocol} dport {ports[0]}-{ports[1]}"
    if protocol == "icmp":
        kind, code = icmp or (-1, -1)
        if kind == -1:
            return "meta l4proto icmp"
        return f"icmp type {kind}" + (f" icmp code {code}" if code != -1 else "")
    return f"meta l4proto {protocol}"


def _acl_chains(world: World, shown: list[tuple[Eni, str]]) -> Iterator[tuple[str, str]]:
    acls = {acl.id: acl for acl in world.acls}
    of_subnet: dict[str, list[str]] = {}
    for eni, port in shown:
        of_subnet.setdefault(eni.subnet_id, []).append(port)
    used = [(s, acls[s.acl]) for s in world.subnets if s.acl in acls and s.id in of_subnet]
    leaving: dict[str, str] = {}
    coming: dict[str, str] = {}
    for subnet, acl in used:
        ports, name = of_subnet[subnet.id], subnet.id
        leaving |= dict.fromkeys(ports, f"acl_out_{name}")
        coming |= dict.fromkeys(ports, f"acl_in_{name}")
        yield f"acl_out_{name}", f"oifname {_names(ports)} return\n" + _acl_rules(acl, egress=True)
        yield f"acl_in_{name}", f"iifname {_names(ports)} return\n" + _acl_rules(acl, egress=False)
    if used:
        yield "acls", f"{_vmap('iifname', leaving)}\n{_vmap('oifname', coming)}\n"


def _acl_rules(acl: NetworkAcl, *, egress: bool) -> str:
    rules = sorted((r for r in acl.rules if r.egress == egress and ":" not in r.cidr), key=lambda r: r.number)
    return "".join(map(_acl_rule, rules)) + "counter name acl_drops drop"


def _acl_rule(rule: AclRule) -> str:
    peer = f"ip {'daddr' if rule.egress else 'saddr'} {rule.cidr}"
    verdict = "return" if rule.allow else "counter name acl_drops drop"
    return f"{peer} {_matching(rule.protocol, rule.ports, rule.icmp)} {verdict}\n"


def _group_chains(world: World, shown: list[tuple[Eni, str]]) -> Iterator[tuple[str, str]]:
    known = {group.id: group for group in world.groups}
    used = sorted({g for eni, _ in shown for g in eni.security_groups if g in known})
    members = {g: _members(world, g) for g in known}
    for way in ("out", "in"):
        for name in used:
            yield f"group_{way}_{name}", _group_rules(known[name], way, members)
        for eni, port in shown:
            jumps = "".join(f"jump group_{way}_{g}\n" for g in sorted(eni.security_groups) if g in known)
            yield f"{way}_{port}", f"jump known_{way}\n{jumps}counter name group_drops drop"
        yield f"groups_{way}", _vmap("iifname" if way == "out" else "oifname", {p: f"{way}_{p}" for _, p in shown})


def _members(world: World, group: str) -> list[str]:
    """The private addresses of a group's interfaces, prefixes too."""
    return [a for eni in world.enis if group in eni.security_groups for a in (*eni.addresses, *eni.prefixes)]


def _group_rules(group: SecurityGroup, way: str, members: Mapping[str, list[str]]) -> str:
    lines = []
    for rule in group.rules:
        peers = _peers(rule, members)
        if rule.egress == (way == "out") and peers:
            field = "daddr" if way == "out" else "saddr"
            matching = _matching(rule.protocol, rule.ports, rule.icmp)
            lines.append(f"ip {field} {_any_of(peers)} {matching} goto remember_{way}\n")
    return "".join(lines)


def _peers(rule: GroupRule, members: Mapping[str, list[str]]) -> list[str]:
    if rule.peer.startswith("sg-"):
        return members.get(rule.peer, [])
    return [] if ":" in rule.peer else [rule.peer]
