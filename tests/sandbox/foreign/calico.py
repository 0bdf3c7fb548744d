"""Calico as policy engine beside another CNI plugin: Felix's iptables chains (felix/rules: static.go, endpoints.go, \
dispatch.go), with ``FELIX_INTERFACEPREFIX=eni`` and ``FELIX_DEFAULTENDPOINTTOHOSTACTION=ACCEPT`` as on EKS.

It owns the mark bits 0xffff0000: 0x10000 accepted, 0x20000 pass, 0x40000 from a workload. A packet from a workload's
interface must have come by the interface of the route back (``rpfilter --validmark``), and each pod has a chain each
way, reached through a dispatch chain by its link's name; links that it does not know are dropped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from tests.sandbox.foreign.neighbour import Neighbour

__all__ = ["calico"]

_STATIC: Final = {
    "raw": (
        "PREROUTING -j cali-PREROUTING",
        "OUTPUT -j cali-OUTPUT",
        "cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000",
        "cali-PREROUTING -i eni+ -j MARK --set-xmark 0x40000/0x40000",
        "cali-PREROUTING -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j cali-rpf-skip",
        "cali-PREROUTING -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP",
        "cali-PREROUTING -m mark --mark 0x0/0x40000 -j cali-from-host-endpoint",
        "cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT",
        "cali-OUTPUT -j MARK --set-xmark 0x0/0xf0000",
        "cali-OUTPUT -j cali-to-host-endpoint",
        "cali-OUTPUT -m mark --mark 0x10000/0x10000 -j ACCEPT",
    ),
    "mangle": (
        "PREROUTING -j cali-PREROUTING",
        "POSTROUTING -j cali-POSTROUTING",
        "cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT",
        "cali-PREROUTING -j cali-from-host-endpoint",
        "cali-POSTROUTING -m mark --mark 0x10000/0x10000 -j RETURN",
        "cali-POSTROUTING -j MARK --set-xmark 0x0/0xf0000",
        "cali-POSTROUTING -m conntrack --ctstate DNAT -j cali-to-host-endpoint",
    ),
    "nat": (
        "PREROUTING -j cali-PREROUTING",
        "OUTPUT -j cali-OUTPUT",
        "POSTROUTING -j cali-POSTROUTING",
        "cali-PREROUTING -j cali-fip-dnat",
        "cali-OUTPUT -j cali-fip-dnat",
        "cali-POSTROUTING -j cali-fip-snat",
        "cali-POSTROUTING -j cali-nat-outgoing",
    ),
    "filter": (
        "INPUT -j cali-INPUT",
        "FORWARD -j cali-FORWARD",
        "FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT",
        "FORWARD -j MARK --set-xmark 0x10000/0x10000",
        "OUTPUT -j cali-OUTPUT",
        "cali-INPUT -i eni+ -g cali-wl-to-host",
        "cali-INPUT -m mark --mark 0x10000/0x10000 -j ACCEPT",
        "cali-INPUT -j MARK --set-xmark 0x0/0xf0000",
        "cali-INPUT -j cali-from-host-endpoint",
        "cali-wl-to-host -j cali-from-wl-dispatch",
        "cali-wl-to-host -j ACCEPT",
        "cali-FORWARD -j MARK --set-xmark 0x0/0xe0000",
        "cali-FORWARD -m mark --mark 0x0/0x10000 -j cali-from-hep-forward",
        "cali-FORWARD -i eni+ -j cali-from-wl-dispatch",
        "cali-FORWARD -o eni+ -j cali-to-wl-dispatch",
        "cali-FORWARD -j cali-to-hep-forward",
        "cali-FORWARD -j cali-cidr-block",
        "cali-OUTPUT -m mark --mark 0x10000/0x10000 -j ACCEPT",
        "cali-OUTPUT -o eni+ -j RETURN",
        "cali-OUTPUT -j MARK --set-xmark 0x0/0xf0000",
        "cali-OUTPUT -m conntrack ! --ctstate DNAT -j cali-to-host-endpoint",
        "cali-pro-kns.default -j MARK --set-xmark 0x10000/0x10000",
        "cali-pro-kns.default -m mark --mark 0x10000/0x10000 -j RETURN",
    ),
}
_EMPTY: Final = {
    "raw": "cali-rpf-skip cali-from-host-endpoint cali-to-host-endpoint",
    "mangle": "cali-from-host-endpoint cali-to-host-endpoint",
    "nat": "cali-fip-dnat cali-fip-snat cali-nat-outgoing",
    "filter": "cali-from-host-endpoint cali-to-host-endpoint cali-from-hep-forward cali-to-hep-forward cali-cidr-block",
}
_DENIED: Final = '-m comment --comment "Drop if no profiles matched" -j DROP'


def _endpoint(link: str) -> Sequence[str]:
    """A workload's two chains, with the namespace's profile alone: no policy selects it."""
    rules = []
    for chain in (f"cali-tw-{link}", f"cali-fw-{link}"):
        rules += [
            f"{chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            f"{chain} -m conntrack --ctstate INVALID -j DROP",
            f"{chain} -j MARK --set-xmark 0x0/0x10000",
        ]
        if chain.startswith("cali-fw"):
            rules.append(f"{chain} -p udp -m multiport --dports 4789 -j DROP")
            rules.append(f"{chain} -p ipencap -j DROP")
        rules += [
            f"{chain} -j cali-pro-kns.default",
            f"{chain} -m mark --mark 0x10000/0x10000 -j RETURN",
            f"{chain} {_DENIED}",
        ]
    return rules


def _dispatch(links: Iterable[str]) -> Sequence[str]:
    rules = []
    for chain, way, to in (("cali-from-wl-dispatch", "-i", "cali-fw"), ("cali-to-wl-dispatch", "-o", "cali-tw")):
        rules += [f"{chain} {way} {link} -g {to}-{link}" for link in links]
        rules.append(f'{chain} -m comment --comment "Unknown interface" -j DROP')
    return rules


def _table(name: str, rules: Sequence[str]) -> str:
    """Each rule of Felix carries 16 characters of a hash, by which it knows its own."""
    chains = dict.fromkeys([rule.split()[0] for rule in rules if rule.startswith("cali-")] + _EMPTY[name].split())
    lines = [f"*{name}", *(f":{chain} - [0:0]" for chain in chains)]
    for rule in rules:
        chain, _, rest = rule.partition(" ")
        mark = base64.urlsafe_b64encode(hashlib.sha256(rule.encode()).digest()).decode()[:16]
        lines.append(f'-A {chain} -m comment --comment "cali:{mark}" {rest}')
    return "\n".join([*lines, "COMMIT", ""])


def calico(links: Iterable[str]) -> Neighbour:
    """``links`` are the host links of the pods that it knows."""
    known = sorted(links)
    of_pods = [*(rule for link in known for rule in _endpoint(link)), *_dispatch(known)]
    return Neighbour(
        "calico",
        iptables="".join(
            _table(name, [*rules, *(of_pods if name == "filter" else ())]) for name, rules in _STATIC.items()
        ),
    )
