"""Host ports without the portmap plugin: who reaches a pod by its node's port, and as whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from berth_node import portmap
from berth_node.dataplane.ports import TABLE
from berth_node.portmap import PortMapping

from tests.netns.dataplane.conftest import Site
from tests.netns.dataplane.site import PARTNER, A, B, layout_of, lent, two_nodes
from tests.sandbox import netns
from tests.sandbox.echo import PORT, tcp_echo, udp_echo
from tests.sandbox.kubeproxy import MODES, KubeProxy, ServicePort

A0, A1, B0 = "10.0.1.10", "10.0.1.20", "10.0.2.10"
LAYOUT = layout_of(two_nodes(), A)
KINDS = ("a0-prefix", "a0-single", "a1-prefix", "a1-single")
NODE_PORT = 30001
HOST_PORTS = {name: 8001 + place for place, name in enumerate(KINDS)}


def both(host_port: int, host_ip: str = "") -> tuple[PortMapping, ...]:
    """TCP and UDP to the echo servers."""
    return tuple(PortMapping(protocol, host_port, PORT, host_ip) for protocol in ("tcp", "udp"))


@pytest.fixture(scope="module", params=[None, *MODES], ids=["alone", *MODES])
def ported(site: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Each pod of node A has a host port; also beside kube-proxy, whose Services and NodePorts lead elsewhere."""
    made = [lent(name, site.pods[name], *both(port)) for name, port in HOST_PORTS.items()]
    made[0] = replace(made[0], ports=f"{made[0].ports},{portmap.encode(both(8101, A0))}")
    made[1] = replace(made[1], ports=f"{made[1].ports},{portmap.encode(both(NODE_PORT))}")
    # a leftover of an attachment that names its netns is found whole, so this only adds the ports
    for one in made:
        netns_fd = site.a.descriptor(one.name)
        site.a.call(site.a.dataplane.attach, replace(one, netns_fd=netns_fd))
    proxy = KubeProxy(A, request.param) if request.param else None
    if proxy:
        proxy.apply([ServicePort("web", "10.100.0.1", 80, (f"{site.pods['b0-prefix']}:{PORT}",), node_port=NODE_PORT)])
    yield site
    if proxy:
        proxy.remove()
    for one in made:
        site.a.call(site.a.dataplane._ports.remove, one)  # type: ignore[attr-defined]
    site.a.call(site.a.dataplane.configure, LAYOUT)


@pytest.fixture(autouse=True)
def nothing_dropped(site: Site) -> Iterator[None]:
    before = site.fabric.counters()
    yield
    assert site.fabric.counters() == before


@pytest.mark.parametrize("pod", KINDS)
def test_a_client_from_outside_reaches_a_host_port_with_its_own_address(ported: Site, pod: str) -> None:
    for client in (PARTNER, "192.168.50.10"):
        assert tcp_echo("onprem", A0, HOST_PORTS[pod], source=client).told == f"{pod} {client}"
        assert udp_echo("onprem", A0, HOST_PORTS[pod], source=client).told == f"{pod} {client}"


@pytest.mark.parametrize("pod", KINDS)
def test_pods_of_both_nodes_reach_a_host_port_with_their_own_address(ported: Site, pod: str) -> None:
    for client, address in ported.pods.items():
        if client != pod:
            assert tcp_echo(client, A0, HOST_PORTS[pod]).told == f"{pod} {address}", client
            assert udp_echo(client, A0, HOST_PORTS[pod]).told == f"{pod} {address}", client


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_reaches_itself_by_its_own_host_port(ported: Site, pod: str) -> None:
    for address in (A0, A1):
        assert tcp_echo(pod, address, HOST_PORTS[pod]).told == f"{pod} {address}"
        assert udp_echo(pod, address, HOST_PORTS[pod]).told == f"{pod} {address}"


@pytest.mark.parametrize("pod", KINDS)
def test_a_node_reaches_a_host_port_by_each_of_its_addresses(ported: Site, pod: str) -> None:
    for address in (A0, A1):
        assert tcp_echo(A, address, HOST_PORTS[pod]).told == f"{pod} {address}"
        assert udp_echo(A, address, HOST_PORTS[pod]).told == f"{pod} {address}"
    assert tcp_echo(B, A0, HOST_PORTS[pod]).told.startswith(pod)


@pytest.mark.parametrize("pod", KINDS)
def test_a_process_of_the_node_reaches_a_host_port_by_localhost(ported: Site, pod: str) -> None:
    assert tcp_echo(A, "127.0.0.1", HOST_PORTS[pod]).told == f"{pod} {A0}"
    assert udp_echo(A, "127.0.0.1", HOST_PORTS[pod]).told == f"{pod} {A0}"


def test_a_host_port_of_one_address_is_not_lent_on_another(ported: Site) -> None:
    assert tcp_echo("onprem", A0, 8101, source=PARTNER).told == f"a0-prefix {PARTNER}"
    assert tcp_echo(A, A0, 8101).told == f"a0-prefix {A0}"
    for address in (A1, "127.0.0.1"):
        assert tcp_echo(A, address, 8101).told == "refused"


def test_a_host_port_wins_over_a_node_port_of_the_same_number(ported: Site) -> None:
    assert tcp_echo("onprem", A0, NODE_PORT, source=PARTNER).told == f"a0-single {PARTNER}"
    assert tcp_echo("a1-single", A0, NODE_PORT).told == f"a0-single {ported.pods['a1-single']}"
    assert tcp_echo(A, A0, NODE_PORT).told == f"a0-single {A0}"


def test_the_same_port_of_other_hosts_is_not_lent(ported: Site) -> None:
    for client in ("a1-single", A):
        for address in (B0, ported.pods["b0-prefix"], ported.pods["a0-prefix"]):
            assert tcp_echo(client, address, HOST_PORTS["a0-single"]).told == "refused", (client, address)


def test_a_pod_cannot_reach_the_nodes_own_loopback_by_the_setting_that_localhost_needs(ported: Site) -> None:
    private, pod = "127.0.0.5", "a0-prefix"  # the node's server listens on every address of it
    netns.sysctl(pod, {"ipv4/conf/all/route_localnet": 1})
    netns.ip_batch(pod, ["route del local 127.0.0.0/8 table local", f"route add {private} via 169.254.1.1 dev eth0"])
    try:
        assert tcp_echo(pod, private, PORT, source=ported.pods[pod], timeout=0.5).told == "timeout"
        netns.run(A, ["nft", "flush", "chain", "ip", TABLE, "guard"])
        # so it was that chain which kept it out
        assert tcp_echo(pod, private, PORT, source=ported.pods[pod], timeout=0.5).told.startswith("node-a")
    finally:
        netns.sysctl(pod, {"ipv4/conf/all/route_localnet": 0})
        netns.ip_batch(pod, [f"route del {private}", "route add local 127.0.0.0/8 dev lo table local"])
        ported.a.call(ported.a.dataplane.configure, LAYOUT)
