"""The fabric's fixed nftables rules; those for IPv6 are in ``rules_ipv6.py``.

Sets and maps are filled as interfaces and addresses come and go.

What Amazon VPC enforces, and where:

* Source check: a packet whose source the sending interface does not own is dropped (EC2 user guide, "source/destination
  checking"). ``assigned`` holds interface and address pairs, ``unchecked`` the interfaces with the check off.
* Destination check: a route to an interface whose check is on delivers nothing that is addressed to others.
* A frame reaches the address that it names only if it is addressed to the router or to the MAC of the interface that
  owns this address: a neighbour entry kept from before an address moved sends into the void. Linux would drop every
  frame to a MAC other than the port's, so ``frames`` claims those that are right before IP sees them.
* ARP is answered in the owner's name, with its MAC, for the router and for assigned addresses of the VPC alone.
* Internet gateway: 1:1 address translation for interfaces with a public address, nothing for others.
* The router itself serves instance metadata, and answers nothing else, not even ping.

Network ACLs and security groups are in ``filters.py``, in a table of their own. Both ends of a packet
inside the VPC or behind the VPN gateway are not tracked, so no state is kept that a VPC router would not have.
"""

from __future__ import annotations

from typing import Final

from tests.sandbox.fabric.filters import filter_table
from tests.sandbox.fabric.rules_ipv6 import IPV6_MAPS, IPV6_RULES, IPV6_SETS

__all__ = ["METADATA", "empty_sets", "nat_gateway_rules", "port_chain", "remove_chain", "router_rules"]

METADATA: Final = "169.254.169.254"
_MAPS: Final = frozenset({"subnet_of", "public", "private", "owner"})

_IP: Final = """
table ip fabric {
  set vpc { type ipv4_addr; flags interval; }
  set onprem { type ipv4_addr; flags interval; }
  set assigned { type ifname . ipv4_addr; }
  set unchecked { type ifname; elements = { "lo", "igw", "vgw" }; }
  set source_check_ports { type ifname; size 65535; flags dynamic; counter; }
  map subnet_of { type ifname : mark; }
  map public { type ipv4_addr : ipv4_addr; }
  map private { type ipv4_addr : ipv4_addr; }
  counter source_check_drops { }
  counter destination_check_drops { }
  counter no_public_address_drops { }
  counter router_drops { }

  chain source_check {
    type filter hook prerouting priority raw - 10;
    iifname @unchecked accept
    iifname . ip saddr @assigned accept
    update @source_check_ports { iifname }
    counter name source_check_drops drop
  }
  chain tracking_in {
    type filter hook prerouting priority raw;
    iifname "vgw" notrack
    ip daddr @onprem notrack
    ip saddr @vpc ip daddr @vpc notrack
    ip daddr METADATA notrack
  }
  chain tracking_out {
    type filter hook output priority raw;
    notrack
  }
  chain subnet_route_table {
    type filter hook prerouting priority mangle;
    meta mark set iifname map @subnet_of
  }
  chain internet_gateway_in {
    type nat hook prerouting priority dstnat;
    iifname "igw" dnat to ip daddr map @private
  }
  chain internet_gateway_out {
    type nat hook postrouting priority srcnat;
    oifname "igw" snat to ip saddr map @public
  }
  chain internet_gateway_refuses {
    type filter hook postrouting priority srcnat + 10;
    oifname "igw" ip saddr @vpc counter name no_public_address_drops drop
  }
  chain to_router {
    type filter hook input priority filter;
    iifname "lo" accept
    ip daddr METADATA tcp dport 80 accept
    ip daddr METADATA icmp type { destination-unreachable, time-exceeded } accept
    counter name router_drops drop
  }
  chain destination_check {
    type filter hook forward priority -20;
    oifname @unchecked accept
    oifname . ip daddr @assigned accept
    counter name destination_check_drops drop
  }
}
"""

_ARP: Final = """
table arp fabric {
  set vpc { type ipv4_addr; flags interval; elements = { METADATA }; }
  map owner { type ipv4_addr : ether_addr; }
  chain request {
    type filter hook input priority filter;
    arp daddr ip != @vpc drop
  }
  chain reply {
    type filter hook output priority filter;
    arp operation reply arp saddr ether set arp saddr ip map @owner
  }
}
"""

_NETDEV: Final = """
table netdev fabric {
  set owners { type ether_addr . ipv4_addr; }
  set owners6 { type ether_addr . ipv6_addr; flags interval; }
  counter misaddressed_frames { }
  chain frames {
    meta pkttype != other accept
    ether daddr . ip daddr @owners meta pkttype set host accept
    ether daddr . ip6 daddr @owners6 meta pkttype set host accept
    counter name misaddressed_frames drop
  }
}
"""


def router_rules() -> str:
    """All rules of the router namespace, with empty sets."""
    return (_IP + IPV6_RULES + _ARP + _NETDEV).replace("METADATA", METADATA) + filter_table()


def empty_sets() -> str:
    """Empties all sets and maps to what :func:`router_rules` put there. Counters keep their values."""
    ip = ("vpc", "onprem", "assigned", "unchecked", "subnet_of", "public", "private")
    where = [*(f"ip fabric {name}" for name in ip), "arp fabric vpc", "arp fabric owner", "netdev fabric owners"]
    flushed = "".join(f"flush set {name}\n" for name in where if name.rsplit(" ", 1)[1] not in _MAPS)
    flushed += "".join(f"flush map {name}\n" for name in where if name.rsplit(" ", 1)[1] in _MAPS)
    flushed += "".join(f"flush set ip6 fabric {name}\n" for name in IPV6_SETS)
    flushed += "".join(f"flush map ip6 fabric {name}\n" for name in IPV6_MAPS)
    return flushed + (
        f'add element ip fabric unchecked {{ "lo", "igw", "vgw" }}\nadd element arp fabric vpc {{ {METADATA} }}\n'
        'flush set netdev fabric owners6\nadd element ip6 fabric unchecked { "lo", "igw" }\n'
    )


def remove_chain(port: str) -> str:
    """Removes a port's chain; no error if there is none, since some kernels remove it with the port."""
    return f"add chain netdev fabric {port}\ndelete chain netdev fabric {port}\n"


def port_chain(port: str) -> str:
    """The chain that sees a port's frames first. The name may be left from an earlier port: it is made anew."""
    hook = f'type filter hook ingress device "{port}" priority -500; jump frames'
    return remove_chain(port) + f"table netdev fabric {{\n chain {port} {{ {hook}\n }}\n}}\n"


def nat_gateway_rules(private_address: str) -> str:
    """A NAT gateway: it translates what comes from inside, and accepts nothing that it did not ask for."""
    return f"""
table ip nat_gateway
delete table ip nat_gateway
table ip nat_gateway {{
  chain translate {{
    type nat hook postrouting priority srcnat;
    oifname "eth0" snat to {private_address}
  }}
  chain not_asked_for {{
    type filter hook forward priority filter;
    ct state invalid drop
  }}
  chain unsolicited {{
    type filter hook input priority filter;
    iifname "eth0" drop
  }}
}}
"""
