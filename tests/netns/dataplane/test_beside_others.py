"""Who reaches whom, and as whom, on nodes on which Cilium, Calico, Tailscale or firewalld have their rules too."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from berth_node import portmap
from berth_node.portmap import PortMapping

from tests.netns.dataplane.conftest import Site
from tests.netns.dataplane.site import EIP, INTERNET, ONPREM, PARTNER, A, B, attachment, layout_of, two_nodes
from tests.sandbox.echo import PORT, tcp_echo, udp_echo
from tests.sandbox.foreign import CILIUM, TAILSCALE, Neighbour, calico, firewalld, theirs
from tests.sandbox.kubeproxy import MODES, KubeProxy, ServicePort
from tests.sandbox.ping import ping

WORLD = two_nodes()
A0, A1, B0 = "10.0.1.10", "10.0.1.20", "10.0.2.10"
KINDS = ("a0-prefix", "a0-single", "a1-prefix", "a1-single")
HOST_PORTS = {name: 8001 + place for place, name in enumerate(KINDS)}
PODS = (*KINDS, "b0-prefix", "b0-single", "b1-prefix", "b1-single")
# the sources that may begin connections to pods; what firewalld does otherwise is in test_firewalld
TRUSTED = ("10.0.0.0/16", f"{ONPREM}/32", f"{PARTNER}/32")
NEIGHBOURS = (CILIUM, TAILSCALE, calico(attachment(name, "").host_ifname for name in PODS), firewalld(TRUSTED))


def _reconfigure(site: Site) -> None:
    for node in (site.a, site.b):
        assert node.call(node.dataplane.configure, layout_of(WORLD, node.name)) == ()


@pytest.fixture(scope="module")
def ported(site: Site) -> Site:
    """Each pod of node A has a host port."""
    for name, port in HOST_PORTS.items():
        mapped = portmap.encode(PortMapping(protocol, port, PORT) for protocol in ("tcp", "udp"))
        made = attachment(name, site.pods[name], ports=mapped, netns_fd=site.a.descriptor(name))
        site.a.call(site.a.dataplane.attach, made)
    return site


@pytest.fixture(scope="module", params=NEIGHBOURS, ids=lambda n: n.name)
def shared(ported: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Both nodes have the neighbour, which came after Berth; then Berth looks again."""
    neighbour: Neighbour = request.param
    for node in (A, B):
        neighbour.apply(node)
    before = [theirs(node) for node in (A, B)]
    _reconfigure(ported)
    yield ported
    _reconfigure(ported)
    assert [theirs(node) for node in (A, B)] == before
    for node in (A, B):
        neighbour.remove(node)


@pytest.fixture(autouse=True)
def nothing_dropped(site: Site) -> Iterator[None]:
    before = site.fabric.counters()
    yield
    assert site.fabric.counters() == before


def test_every_pod_reaches_every_pod_with_its_own_address(shared: Site) -> None:
    for one, other in itertools.permutations(shared.pods, 2):
        assert tcp_echo(one, shared.pods[other]).told == f"{other} {shared.pods[one]}", (one, other)
        assert udp_echo(one, shared.pods[other]).told == f"{other} {shared.pods[one]}", (one, other)


def test_pods_and_nodes_reach_each_other(shared: Site) -> None:
    for pod in KINDS:
        for address, name in ((A0, "node-a"), (A1, "node-a"), (B0, "node-b")):
            assert tcp_echo(pod, address).told == f"{name} {shared.pods[pod]}", (pod, address)
        for node, address in ((A, A0), (B, B0)):
            assert tcp_echo(node, shared.pods[pod]).told == f"{pod} {address}", (node, pod)
            assert ping(node, shared.pods[pod]).ok


def test_pods_reach_far_networks_as_themselves_or_as_their_node(shared: Site) -> None:
    for pod in KINDS:
        for ask in (tcp_echo, udp_echo):
            assert ask(pod, INTERNET).told == f"internet {EIP}", pod
            assert ask(pod, ONPREM).told == f"onprem {shared.pods[pod]}", pod
            assert ask(pod, PARTNER).told == f"onprem {A0}", pod


def test_clients_from_outside_reach_pods_and_their_host_ports(shared: Site) -> None:
    for pod in KINDS:
        for source in (PARTNER, ONPREM):
            assert tcp_echo("onprem", shared.pods[pod], source=source).told == f"{pod} {source}", pod
            assert tcp_echo("onprem", A0, HOST_PORTS[pod], source=source).told == f"{pod} {source}", pod


def test_host_ports_work_from_pods_and_nodes_too(shared: Site) -> None:
    for pod, port in HOST_PORTS.items():
        for client in ("a0-prefix", "a1-single", "b1-prefix", A, B):
            if client != pod:
                assert tcp_echo(client, A0, port).told.startswith(pod), (client, pod)
        assert tcp_echo(pod, A0, port).told == f"{pod} {A0}"


@pytest.mark.parametrize("mode", MODES)
def test_services_and_node_ports_work(shared: Site, mode: str) -> None:
    ends = {"far": shared.pods["b1-prefix"], "near": shared.pods["a1-single"]}
    services = {
        name: ServicePort(name, f"10.100.0.{n}", PORT, (f"{end}:{PORT}",), node_port=30000 + n)
        for n, (name, end) in enumerate(ends.items(), 1)
    }
    proxies = [KubeProxy(node, mode) for node in (A, B)]  # type: ignore[arg-type]
    for proxy in proxies:
        proxy.apply(services.values())
    try:
        for pod in ("a0-prefix", "a0-single", "a1-prefix", A):
            assert tcp_echo(pod, services["far"].cluster_ip).told.startswith("b1-prefix"), pod
            assert tcp_echo(pod, services["near"].cluster_ip).told.startswith("a1-single"), pod
        for name, backend in (("far", "b1-prefix"), ("near", "a1-single")):
            for source in (PARTNER, ONPREM):
                told = tcp_echo("onprem", A0, services[name].node_port, source=source).told
                assert told.startswith(backend), (name, source)
    finally:
        for proxy in proxies:
            proxy.remove()
