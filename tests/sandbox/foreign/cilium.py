"""Cilium chained behind another CNI plugin, with its L7 proxy (pkg/datapath/iptables, bpf/lib/common.h).

It owns the mark bits 0xf00 (0x200 to the proxy, 0xa00/0xb00 from it, 0xc00 from the host) and, for proxied packets, the
upper 16. It moves the rule of the ``local`` table from priority 0 to 100, so that packets for the proxy, which it
knows by mark, are local whatever their destination.
"""

from __future__ import annotations

from typing import Final

from tests.sandbox.foreign.neighbour import Neighbour

__all__ = ["CILIUM"]

_FEEDERS: Final = {
    "raw": (("PREROUTING", "CILIUM_PRE_raw"), ("OUTPUT", "CILIUM_OUTPUT_raw")),
    "mangle": (("PREROUTING", "CILIUM_PRE_mangle"), ("POSTROUTING", "CILIUM_POST_mangle")),
    "nat": (("PREROUTING", "CILIUM_PRE_nat"), ("OUTPUT", "CILIUM_OUTPUT_nat"), ("POSTROUTING", "CILIUM_POST_nat")),
    "filter": (("INPUT", "CILIUM_INPUT"), ("FORWARD", "CILIUM_FORWARD"), ("OUTPUT", "CILIUM_OUTPUT")),
}
_RULES: Final = {
    "raw": """\
-A CILIUM_PRE_raw -m mark --mark 0x200/0xf00 -m comment --comment "cilium: NOTRACK for proxy traffic" -j CT --notrack
-A CILIUM_OUTPUT_raw -o lxc+ -m mark --mark 0xa00/0xfffffeff -m comment --comment "cilium: NOTRACK for proxy return \
traffic" -j CT --notrack
-A CILIUM_OUTPUT_raw -o cilium_host -m mark --mark 0x800/0xe00 -m comment --comment "cilium: NOTRACK for L7 proxy \
upstream traffic" -j CT --notrack
""",
    "mangle": """\
-A CILIUM_PRE_mangle -m socket --transparent -m mark ! --mark 0xe00/0xf00 -m mark ! --mark 0x800/0xf00 \
-m comment --comment "cilium: any->pod redirect proxied traffic to host proxy" -j MARK --set-xmark 0x200/0xffffffff
-A CILIUM_PRE_mangle -p tcp -m mark --mark 0xd5a90200 -m comment --comment "cilium: TPROXY to host cilium-dns-egress \
proxy" -j TPROXY --on-port 43477 --on-ip 127.0.0.1 --tproxy-mark 0x200/0xffffffff
-A CILIUM_PRE_mangle -p udp -m mark --mark 0xd5a90200 -m comment --comment "cilium: TPROXY to host cilium-dns-egress \
proxy" -j TPROXY --on-port 43477 --on-ip 127.0.0.1 --tproxy-mark 0x200/0xffffffff
""",
    "nat": "",
    "filter": """\
-A CILIUM_FORWARD -o cilium_host -m comment --comment "cilium: any->cluster on cilium_host forward accept" -j ACCEPT
-A CILIUM_FORWARD -i cilium_host -m comment --comment "cilium: cluster->any on cilium_host forward accept (nodeport)" \
-j ACCEPT
-A CILIUM_FORWARD -i lxc+ -m comment --comment "cilium: cluster->any on lxc+ forward accept" -j ACCEPT
-A CILIUM_INPUT -m mark --mark 0x200/0xf00 -m comment --comment "cilium: ACCEPT for proxy traffic" -j ACCEPT
-A CILIUM_OUTPUT -m mark --mark 0xa00/0xe00 -m comment --comment "cilium: ACCEPT for proxy traffic" -j ACCEPT
-A CILIUM_OUTPUT -m mark --mark 0x800/0xe00 -m comment --comment "cilium: ACCEPT for l7 proxy upstream traffic" \
-j ACCEPT
-A CILIUM_OUTPUT -m mark ! --mark 0xe00/0xf00 -m mark ! --mark 0xd00/0xf00 -m mark ! --mark 0xa00/0xe00 -m mark ! \
--mark 0x800/0xe00 -m mark ! --mark 0xf00/0xf00 -m comment --comment "cilium: host->any mark as from host" \
-j MARK --set-xmark 0xc00/0xf00
""",
}


def _table(name: str) -> str:
    feeders = _FEEDERS[name]
    chains = "".join(f":{chain} - [0:0]\n" for _, chain in feeders)
    jumps = "".join(f'-I {of} -m comment --comment "cilium-feeder: {to}" -j {to}\n' for of, to in feeders)
    return f"*{name}\n{chains}{jumps}{_RULES[name]}COMMIT\n"


CILIUM: Final = Neighbour(
    "cilium",
    up=(
        "rule add priority 9 fwmark 0x200/0xf00 lookup 2004",
        "rule add priority 10 fwmark 0xa00/0xf00 lookup 2005",
        "rule add priority 100 lookup local",
        "rule del priority 0 lookup local",
        "link add cilium_host type veth peer name cilium_net",
        "link set cilium_host up",
        "link set cilium_net up",
        "addr add 10.0.1.9/32 dev cilium_host",
        "route add local default dev lo table 2004 proto kernel",
        "route add 10.0.1.9 dev cilium_host scope link table 2005",
        "route add default via 10.0.1.9 dev cilium_host table 2005",
    ),
    down=(
        "rule add priority 0 lookup local",
        "rule del priority 100 lookup local",
        "rule del priority 9",
        "rule del priority 10",
        "route flush table 2004",
        "link del cilium_host",
    ),
    iptables="".join(map(_table, _RULES)),
)
