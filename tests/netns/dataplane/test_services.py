"""Services, NodePorts and host ports, with kube-proxy's rules beside Berth's, in both of its modes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.netns.dataplane.conftest import Site
from tests.netns.dataplane.site import EIP, INTERNET, PARTNER, A, B
from tests.sandbox import netns
from tests.sandbox.services import MODES, Service, clear
from tests.sandbox.traffic import PORT, tcp, udp

A0, A1, B0 = "10.0.1.10", "10.0.1.20", "10.0.2.10"
KINDS = ("a0-prefix", "a0-single", "a1-prefix", "a1-single")


@dataclass
class Cluster:
    site: Site
    services: dict[str, Service]
    local: dict[str, Service]


@pytest.fixture(scope="module", params=MODES)
def cluster(site: Site, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A Service for each pod, for both nodes' own processes, for a server on the internet, and one with no endpoint."""
    endpoints = {**site.pods, "node-a": A0, "node-b": B0, "internet": INTERNET, "nobody": ""}
    services = {name: Service(1 + n, address) for n, (name, address) in enumerate(endpoints.items())}
    local = {name: Service(101 + n, site.pods[name], local=True) for n, name in enumerate(KINDS)}
    for node in (site.a, site.b):
        MODES[request.param](node.name, [*services.values(), *local.values()])
    yield Cluster(site, services, local)
    for node in (site.a, site.b):
        clear(node.name)


@pytest.fixture(autouse=True)
def nothing_dropped(site: Site) -> Iterator[None]:
    before = site.fabric.counters()
    yield
    assert site.fabric.counters() == before


@pytest.mark.parametrize("client", KINDS)
def test_a_pod_reaches_a_service_whose_backend_is_anywhere(cluster: Cluster, client: str) -> None:
    for name in (*cluster.site.pods, "node-a", "node-b"):
        if name == client:
            continue
        for ask in (tcp, udp):
            assert ask(client, cluster.services[name].address) == f"{name} {cluster.site.pods[client]}", (name, ask)


@pytest.mark.parametrize("client", KINDS)
def test_a_pod_reaches_itself_by_its_own_service_and_node_port(cluster: Cluster, client: str) -> None:
    service = cluster.services[client]
    assert tcp(client, service.address).startswith(client)
    assert udp(client, service.address).startswith(client)
    assert tcp(client, A0, service.node_port).startswith(client)


@pytest.mark.parametrize("client", KINDS)
def test_a_pod_reaches_a_service_whose_backend_is_on_the_internet_as_its_node(cluster: Cluster, client: str) -> None:
    assert tcp(client, cluster.services["internet"].address) == f"internet {EIP}"
    assert udp(client, cluster.services["internet"].address) == f"internet {EIP}"


@pytest.mark.parametrize("address", [A0, A1, B0])
@pytest.mark.parametrize("client", KINDS)
def test_a_pod_reaches_a_node_port_of_each_node(cluster: Cluster, client: str, address: str) -> None:
    for name in cluster.site.pods:
        if name != client:
            assert tcp(client, address, cluster.services[name].node_port).startswith(name), name
            assert udp(client, address, cluster.services[name].node_port).startswith(name), name


def test_a_node_reaches_services_and_node_ports(cluster: Cluster) -> None:
    for name in (*cluster.site.pods, "node-a", "node-b", "internet"):
        for node in (A, B):
            assert tcp(node, cluster.services[name].address).startswith(name), (name, node)
            assert udp(node, cluster.services[name].address).startswith(name), (name, node)
            assert tcp(node, A0, cluster.services[name].node_port).startswith(name), (name, node)


@pytest.mark.parametrize("client", [PARTNER, "192.168.50.10"])
@pytest.mark.parametrize("address", [A0, B0])
def test_a_client_from_outside_reaches_a_node_port_with_its_backend_on_either_node(
    cluster: Cluster, client: str, address: str
) -> None:
    for name in (*cluster.site.pods, "node-a", "node-b"):
        port = cluster.services[name].node_port
        assert tcp("onprem", address, port, source=client).startswith(name), name
        assert udp("onprem", address, port, source=client).startswith(name), name


@pytest.mark.parametrize("client", [PARTNER, "192.168.50.10"])
@pytest.mark.parametrize("pod", KINDS)
def test_a_node_port_with_local_policy_keeps_the_clients_address(cluster: Cluster, client: str, pod: str) -> None:
    port = cluster.local[pod].node_port
    assert tcp("onprem", A0, port, source=client) == f"{pod} {client}"
    assert udp("onprem", A0, port, source=client) == f"{pod} {client}"


@pytest.mark.parametrize("pod", KINDS)
def test_a_node_port_with_local_policy_keeps_the_address_of_a_pod_of_another_node(cluster: Cluster, pod: str) -> None:
    for client in ("b0-prefix", "b1-single"):
        assert tcp(client, A0, cluster.local[pod].node_port) == f"{pod} {cluster.site.pods[client]}"


@pytest.mark.parametrize("client", KINDS)
def test_a_service_without_endpoints_refuses_at_once(cluster: Cluster, client: str) -> None:
    service = cluster.services["nobody"]
    assert tcp(client, service.address) == "refused"
    assert tcp(client, A0, service.node_port) == "refused"
    assert tcp(client, B0, service.node_port) == "refused"
    assert tcp("onprem", A0, service.node_port, source=PARTNER) == "refused"


@pytest.mark.parametrize("pod", KINDS)
def test_a_reset_that_the_node_sends_in_a_pods_name_leaves_by_the_pods_interface(cluster: Cluster, pod: str) -> None:
    reject = ["-d", cluster.site.pods[pod], "-p", "tcp", "--dport", str(PORT), "-j", "REJECT"]
    reject += ["--reject-with", "tcp-reset"]
    netns.run(A, ["iptables", "-I", "FORWARD", *reject])
    try:
        for client in ("b0-single", "b1-prefix", "a0-single" if pod != "a0-single" else "a1-single"):
            assert tcp(client, cluster.site.pods[pod]) == "refused"
        assert tcp("onprem", cluster.site.pods[pod], source=PARTNER) == "refused"
        assert tcp("onprem", A0, cluster.local[pod].node_port, source=PARTNER) == "refused"
    finally:
        netns.run(A, ["iptables", "-D", "FORWARD", *reject])


def test_answers_to_clients_in_the_nodes_own_subnet_use_the_gateway(cluster: Cluster) -> None:
    for pod in KINDS:
        assert tcp("b1-single", A0, cluster.local[pod].node_port).startswith(pod)
    for neighbour in cluster.site.a.sh("ip", "-4", "neigh", "show", "nud", "all").splitlines():
        if " dev eth" in neighbour:
            assert neighbour.startswith("10.0.1.1 "), neighbour
