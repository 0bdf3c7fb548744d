"""What the whole agent makes of its node: the primary MTU, its settings, and programs it cannot work with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.agent.conftest import MAC, PREFIX, Site, eventually, node
from tests.sandbox import netns
from tests.sandbox.echo import Failure
from tests.sandbox.ping import ping

NODE = "agent-surroundings"
MTU = 1400
HEADERS = 28  # of an IPv4 echo request


@pytest.fixture
def kernel(plugin: Path, tmp_path: Path) -> Iterator[Site]:
    """A namespace whose interface has an MTU of its own; the agent is not started."""
    netns.create(NODE)
    try:
        netns.ip_batch(
            NODE,
            [
                f"link add eth0 mtu {MTU} address {MAC} type veth peer name far",
                "addr add 10.0.1.5/24 dev eth0",
                "link set eth0 up",
                "link set far up",
                "route add default via 10.0.1.1",
            ],
        )
        with node(plugin, tmp_path, NODE) as made:
            made.serve(PREFIX)
            yield made
    finally:
        netns.delete(NODE)


def _mtus(site: Site, container: str) -> list[int]:
    return [interface["mtu"] for interface in site.call("ADD", container).body["interfaces"]]


def test_a_pod_has_the_primary_interfaces_mtu_from_the_first_on(kernel: Site) -> None:
    kernel.start()
    kernel.ready()
    assert _mtus(kernel, "pod-a") == _mtus(kernel, "pod-b") == [MTU, MTU]
    address = kernel.ask("pods")["pods"][1]["address"]
    assert ping("pod-a", address, size=MTU - HEADERS).ok
    assert ping("pod-a", address, size=MTU - HEADERS + 1).failure is Failure.TOO_BIG


def test_a_given_mtu_wins(kernel: Site) -> None:
    kernel.start(mtu=1300)
    kernel.ready()
    assert _mtus(kernel, "pod-a") == [1300, 1300]


def test_destinations_of_the_settings_are_added_to_those_of_the_record(kernel: Site) -> None:
    kernel.start(no_snat_cidrs=["172.30.0.0/16", "192.168.7.1"])
    kernel.ready()
    kept = netns.run(NODE, ["nft", "list", "set", "ip", "berth", "no_snat"]).stdout
    for cidr in ("172.30.0.0/16", "192.168.7.1", PREFIX):
        assert cidr in kept


def test_beside_kube_proxy_in_ipvs_mode_no_pod_is_made_until_it_is_gone(kernel: Site) -> None:
    kernel.start()
    kernel.ready()
    assert kernel.add("pod-a")
    netns.ip_batch(NODE, ["link add kube-ipvs0 type bridge"])
    eventually(lambda: kernel.ask("status")["problems"], "the agent has seen it")
    add = kernel.call("ADD", "pod-b")
    assert add.body["code"] == 11
    assert "mode: nftables" in add.body["msg"]
    assert kernel.call("STATUS").code == 0, "a node that was ready stays so: its pods would be evicted"
    assert kernel.call("DEL", "pod-a").code == 0
    netns.ip_batch(NODE, ["link del kube-ipvs0"])
    eventually(lambda: kernel.ask("status")["problems"] == [], "the agent has seen that it is gone")
    assert kernel.add("pod-b")


def test_a_node_beside_kube_proxy_in_ipvs_mode_does_not_become_ready(kernel: Site) -> None:
    netns.ip_batch(NODE, ["link add kube-ipvs0 type bridge"])
    kernel.start()
    eventually(lambda: "IPVS" in kernel.ask("status")["why"], "the node says why")
    assert not kernel.ask("status")["ready"]
    netns.ip_batch(NODE, ["link del kube-ipvs0"])
    kernel.ready()


def test_kube_proxy_in_ipvs_mode_is_only_told_of_where_that_is_set(kernel: Site) -> None:
    # as kube-proxy makes it; a bridge stands for the dummy link, which this kernel may lack
    netns.ip_batch(NODE, ["link add kube-ipvs0 type bridge"])
    kernel.start(ipvs="tell")
    kernel.ready()
    (problem,) = kernel.ask("status")["problems"]
    assert "kube-proxy: it runs in IPVS mode" in str(problem)
    assert "IPVS mode" in kernel.log()
    assert kernel.add("pod-a")  # pods that use no Service work
    netns.ip_batch(NODE, ["link del kube-ipvs0"])
    eventually(lambda: kernel.ask("status")["problems"] == [], "the problem is gone")
