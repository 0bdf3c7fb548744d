"""Tailscale as a node agent that accepts another site's routes (wgengine/router, util/linuxfw).

It owns the mark bits 0xff0000: 0x40000 came from the tailnet, 0x80000 is its own traffic, which must not enter its own
tunnel. Its routes are in table 52, which rule 5270 consults for everything else.
"""

from __future__ import annotations

from typing import Final

from tests.sandbox.foreign.neighbour import Neighbour

__all__ = ["OTHER_SITE", "TAILSCALE"]

OTHER_SITE: Final = "10.77.0.0/16"
"""A subnet that another node of the tailnet advertises."""

TAILSCALE: Final = Neighbour(
    "tailscale",
    up=(
        "tuntap add dev tailscale0 mode tun",
        "addr add 100.64.0.2/32 dev tailscale0",
        "link set tailscale0 mtu 1280 up",
        "rule add priority 5210 fwmark 0x80000/0xff0000 lookup main",
        "rule add priority 5230 fwmark 0x80000/0xff0000 lookup default",
        "rule add priority 5250 fwmark 0x80000/0xff0000 unreachable",
        "rule add priority 5270 lookup 52",
        "route add 100.64.0.9 dev tailscale0 table 52",
        "route add 100.100.100.100 dev tailscale0 table 52",
        f"route add {OTHER_SITE} dev tailscale0 table 52",
        "route add throw 127.0.0.0/8 table 52",
    ),
    down=(
        "rule del priority 5210",
        "rule del priority 5230",
        "rule del priority 5250",
        "rule del priority 5270",
        "route flush table 52",
        "link del tailscale0",
    ),
    iptables="""\
*filter
:ts-input - [0:0]
:ts-forward - [0:0]
-I INPUT -j ts-input
-I FORWARD -j ts-forward
-A ts-forward -i tailscale0 -j MARK --set-xmark 0x40000/0xff0000
-A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT
-A ts-forward -s 100.64.0.0/10 -o tailscale0 -j DROP
-A ts-forward -o tailscale0 -j ACCEPT
-A ts-input -s 100.64.0.2/32 -i lo -j ACCEPT
-A ts-input -s 100.115.92.0/23 ! -i tailscale0 -j RETURN
-A ts-input -s 100.64.0.0/10 ! -i tailscale0 -j DROP
-A ts-input -i tailscale0 -j ACCEPT
-A ts-input -p udp -m udp --dport 41641 -j ACCEPT
COMMIT
*nat
:ts-postrouting - [0:0]
-I POSTROUTING -j ts-postrouting
-A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE
COMMIT
""",
)
