"""The fixed namespaces: the VPC's router, the internet, and the networks on premises; and machines' boot-time set-up.

``internet`` has 198.51.100.10 and 2001:db8:ffff::10 (a server for tests) and 198.51.100.53 (the public AWS endpoint),
and routes everything else back to the internet gateway. ``onprem`` has 192.168.50.10, and 172.30.9.10 for "another
company", behind the same VPN; it has no IPv6. Maximum packet sizes are those that AWS documents: 1500 through an
internet gateway, 1446 through a VPN (Site-to-Site VPN user guide, "Customer gateway device"), 9001 inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.sandbox import netns
from tests.sandbox.fabric.ipv6 import IGW_PEER6, link_local
from tests.sandbox.fabric.layout import IGW_PEER, MAPPING_TABLE, VGW_PEER, Port
from tests.sandbox.fabric.rules import METADATA, nat_gateway_rules, router_rules

__all__ = [
    "ENDPOINT_ADDRESS",
    "FIXED_NAMESPACES",
    "INTERNET_ADDRESS",
    "INTERNET_ADDRESS6",
    "boot_instance",
    "boot_nat_gateway",
    "build_edges",
]

FIXED_NAMESPACES: Final = ("vpc", "internet", "onprem")
INTERNET_ADDRESS: Final = "198.51.100.10"
INTERNET_ADDRESS6: Final = "2001:db8:ffff::10"
ENDPOINT_ADDRESS: Final = "198.51.100.53"

_IGW_MACS: Final = ("0a:00:00:01:00:01", "0a:00:00:01:00:02")
_VGW_MACS: Final = ("0a:00:00:02:00:01", "0a:00:00:02:00:02")
_ROUTER_SIDE: Final = "169.254.200.1"
"""A next hop that stands for the router, as seen from outside: only its neighbour entry matters."""

_FORWARDING: Final = {
    "ipv4/ip_forward": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
}
_WITHOUT_IPV6: Final = _FORWARDING | {"ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/default/disable_ipv6": 1}
_WITH_IPV6: Final = _FORWARDING | {
    "ipv6/conf/all/forwarding": 1,
    "ipv6/conf/default/accept_ra": 0,
    "ipv6/conf/default/accept_dad": 0,
}


def build_edges() -> None:
    """Makes and connects the fixed namespaces. Raises FileExistsError if one of them is there already."""
    for name in FIXED_NAMESPACES:
        netns.create(name)
        netns.sysctl(name, _WITHOUT_IPV6 if name == "onprem" else _WITH_IPV6)
    netns.sysctl("vpc", {"ipv4/conf/default/proxy_arp": 1})
    netns.nft("vpc", router_rules())
    netns.ip_batch(
        "vpc",
        [
            *_link("igw", _IGW_MACS, 1500, 10, "internet", "igw0", IGW_PEER),
            *_link("vgw", _VGW_MACS, 1446, 11, "onprem", "vpn0", VGW_PEER),
            f"addr add {METADATA}/32 dev lo",
            f"rule add priority 50 lookup {MAPPING_TABLE}",
            "route add blackhole default",
            "route add blackhole ::/0",
            f"neigh replace {IGW_PEER6} lladdr {_IGW_MACS[1]} dev igw nud permanent",
        ],
    )
    netns.ip_batch("vpc", [f"rule add priority 50 lookup {MAPPING_TABLE}"], family="-6")
    netns.ip_batch("internet", _far_side("igw0", _IGW_MACS[0], [INTERNET_ADDRESS, ENDPOINT_ADDRESS]))
    netns.ip_batch("internet", _far_side6("igw0", _IGW_MACS[0], INTERNET_ADDRESS6))
    netns.ip_batch("onprem", _far_side("vpn0", _VGW_MACS[0], []))


def _link(port: str, macs: tuple[str, str], mtu: int, index: int, where: str, peer: str, hop: str) -> Iterable[str]:
    yield (
        f"link add dev {port} index {index} address {macs[0]} mtu {mtu} type veth "
        f"peer name {peer} address {macs[1]} mtu {mtu} netns {where}"
    )
    yield f"link set dev {port} up"
    yield f"neigh replace {hop} lladdr {macs[1]} dev {port} nud permanent"


def _far_side(device: str, router_mac: str, addresses: list[str]) -> Iterable[str]:
    yield f"link set dev {device} up"
    yield from (f"addr add {address}/32 dev lo" for address in addresses)
    yield f"neigh replace {_ROUTER_SIDE} lladdr {router_mac} dev {device} nud permanent"
    source = f" src {addresses[0]}" if addresses else ""
    yield f"route replace default via {_ROUTER_SIDE} dev {device} onlink{source}"


def _far_side6(device: str, router_mac: str, address: str) -> Iterable[str]:
    router = link_local(router_mac)
    yield f"addr add {address} dev lo nodad"
    yield f"neigh replace {router} lladdr {router_mac} dev {device} nud permanent"
    yield f"route replace ::/0 via {router} dev {device} onlink src {address}"


def boot_instance(port: Port) -> None:
    """What DHCP does at boot, for the primary interface alone: a secondary one stays down and without address.

    The lease's route metric is the one of Amazon Linux 2023 (512). DHCPv6 gives single addresses (/128); the default
    route comes by router advertisement, which the kernel accepts as any Linux does.
    """
    netns.ip_batch(
        port.netns,
        [
            f"link set dev {port.ifname} up",
            f"addr add {port.primary}/{port.prefix_length} brd + dev {port.ifname}",
            f"route add default via {port.gateway} dev {port.ifname} proto dhcp src {port.primary} metric 512",
            *(f"addr add {address}/128 dev {port.ifname} noprefixroute nodad" for address in port.ipv6_addresses),
        ],
    )


def boot_nat_gateway(port: Port) -> None:
    """Sets up a NAT gateway's own namespace: one interface, in by it and out by it, translated to its address."""
    netns.sysctl(port.netns, _WITHOUT_IPV6)
    netns.nft(port.netns, nat_gateway_rules(port.primary))
    netns.ip_batch(
        port.netns,
        [
            f"link set dev {port.ifname} up",
            f"addr add {port.primary}/{port.prefix_length} dev {port.ifname}",
            f"route add default via {port.gateway} dev {port.ifname}",
        ],
    )
