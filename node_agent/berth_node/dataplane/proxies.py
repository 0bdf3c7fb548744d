"""Service proxies beside which pods cannot work, told from what they leave in the kernel.

IPVS (kube-proxy's mode ``ipvs``) takes a Service's packets in netfilter's input hook, after the routing decision, and
sends them on itself with its own lookup. So the interface that Berth chose by the pod's source address does not count,
and EC2 drops the packet at the wrong one. kube-proxy's iptables and nftables modes rewrite before routing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ..seams import Problem
from .messages import Link

__all__ = ["unsupported", "virtual_services"]

_KUBE_LINK: Final = "kube-ipvs0"
_TABLE: Final = Path("/proc/thread-self/net/ip_vs")
"""Of the calling thread's network namespace; not there without the kernel's ip_vs module."""
_SERVICE: Final = ("TCP ", "UDP ", "SCTP ", "FWM ")


def virtual_services() -> str:
    """The kernel's list of IPVS services, "" if IPVS is not there or cannot be asked."""
    try:
        return _TABLE.read_text()
    except OSError:
        return ""


def unsupported(links: Iterable[Link], ipvs: str) -> tuple[Problem, ...]:
    """What must change before Services can work. ``ipvs`` is ``/proc/net/ip_vs``: headings, then a line a service."""
    by_link = any(link.name == _KUBE_LINK for link in links)
    services = sum(line.startswith(_SERVICE) for line in ipvs.splitlines())
    if not (by_link or services):
        return ()
    sign = f"the link {_KUBE_LINK} is there" if by_link else f"/proc/net/ip_vs has {services} services"
    return (
        Problem(
            "kube-proxy",
            f"it runs in IPVS mode ({sign}), which Berth does not support: IPVS sends a pod's packets by an interface "
            "at which EC2 drops them. Set `mode: nftables` or `mode: iptables` in kube-proxy's configuration, restart "
            "it, then run `kube-proxy --cleanup` or reboot the node",
            fatal=by_link,  # IPVS may be there for something else than kube-proxy
        ),
    )
