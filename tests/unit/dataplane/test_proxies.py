"""Service proxies that Berth does not work beside."""

from __future__ import annotations

import pytest
from berth_node.dataplane.messages import Link
from berth_node.dataplane.proxies import unsupported

HEADINGS = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
"""
SERVICE = "TCP  0A640001:01BB rr\n  -> 0A000121:20FB      Masq    1      0          0\n"


def link(name: str) -> Link:
    return Link(7, name, "02:00:00:00:00:01", 1500, True, 6, 0, b"", "dummy")


@pytest.mark.parametrize("ipvs", ["", HEADINGS])
def test_without_ipvs_services_there_is_nothing_to_say(ipvs: str) -> None:
    assert unsupported([link("eth0"), link("kube-ipvs"), link("docker0")], ipvs) == ()


@pytest.mark.parametrize(
    ("names", "ipvs", "sign"),
    [
        (["eth0", "kube-ipvs0"], "", "the link kube-ipvs0 is there"),
        (["eth0"], HEADINGS + SERVICE, "/proc/net/ip_vs has 1 services"),
        (["eth0"], HEADINGS + SERVICE.replace("TCP", "UDP") + "FWM  00000001 wlc\n", "/proc/net/ip_vs has 2 services"),
    ],
)
def test_ipvs_mode_is_named_with_its_sign_and_with_what_to_do(names: list[str], ipvs: str, sign: str) -> None:
    (problem,) = unsupported([link(name) for name in names], ipvs)
    assert problem.where == "kube-proxy"
    assert sign in problem.message
    assert "`mode: nftables` or `mode: iptables`" in problem.message
