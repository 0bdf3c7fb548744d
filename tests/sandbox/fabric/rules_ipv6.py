"""The fabric's fixed nftables rules for IPv6; ``rules.py`` says what a VPC enforces, and has those for IPv4.

* Source check as for IPv4. An interface may also use the link-local address of its MAC, and none at all while it has
  none yet (``::`` towards a multicast group: router solicitations, duplicate address detection). Other link-local
  sources are dropped and not counted: kernels speak by themselves, and what is counted is somebody's mistake.
* No translation: each address is its own on the internet. What comes from there to a subnet whose route leads to an
  egress-only internet gateway passes only as an answer: that gateway "is stateful" (VPC user guide, "Enable outbound
  IPv6 traffic using an egress-only internet gateway"). Behind an internet gateway everything passes.
* Neighbour and router solicitations are answered by ``solicited.py`` and by the kernel; the router tells nobody of a
  better way (redirects), since in a VPC there is none.
"""

from __future__ import annotations

from typing import Final

__all__ = ["IPV6_MAPS", "IPV6_RULES", "IPV6_SETS"]

IPV6_SETS: Final = ("vpc", "assigned", "unchecked", "egress_only")
IPV6_MAPS: Final = ("subnet_of",)

IPV6_RULES: Final = """
table ip6 fabric {
  set vpc { type ipv6_addr; flags interval; }
  set assigned { type ifname . ipv6_addr; flags interval; }
  set unchecked { type ifname; elements = { "lo", "igw" }; }
  set egress_only { type ipv6_addr; flags interval; }
  set source_check_ports { type ifname; size 65535; flags dynamic; counter; }
  map subnet_of { type ifname : mark; }
  counter source_check_drops { }
  counter egress_only_drops { }
  counter router_drops { }

  chain source_check {
    type filter hook prerouting priority raw - 10;
    iifname @unchecked accept
    iifname . ip6 saddr @assigned accept
    ip6 saddr :: ip6 daddr ff02::/16 accept
    ip6 saddr fe80::/10 drop
    update @source_check_ports { iifname }
    counter name source_check_drops drop
  }
  chain tracking_in {
    type filter hook prerouting priority raw;
    ip6 daddr { fe80::/10, ff00::/8 } notrack
    ip6 saddr @vpc ip6 daddr @vpc notrack
  }
  chain tracking_out {
    type filter hook output priority raw;
    notrack
  }
  chain subnet_route_table {
    type filter hook prerouting priority mangle;
    meta mark set iifname map @subnet_of
  }
  chain egress_only_gateway {
    type filter hook forward priority filter - 20;
    iifname "igw" ip6 daddr @egress_only ct state != { established, related } counter name egress_only_drops drop
  }
  chain to_router {
    type filter hook input priority filter;
    iifname "lo" accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    ip6 daddr ff00::/8 drop
    counter name router_drops drop
  }
  chain from_router {
    type filter hook output priority filter;
    icmpv6 type nd-redirect drop
  }
}
"""
