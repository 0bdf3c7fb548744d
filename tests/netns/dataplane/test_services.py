"""Services, NodePorts and host ports, with kube-proxy's rules beside Berth's, in both of its modes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from tests.netns.dataplane.conftest import Site
from tests.netns.dataplane.site import EIP, INTERNET, PARTNER, A, B
from tests.sandbox import netns
from tests.sandbox.echo import PORT, tcp_echo, udp_echo
from tests.sandbox.kubeproxy import MODES, KubeProxy, ServicePort

A0, A1, B0 = "10.0.1.10", "10.0.1.20", "10.0.2.10"
KINDS = ("a0-prefix", "a0-single", "a1-prefix", "a1-single")


@dataclass
class Cluster:
    site: Site
    services: dict[str, ServicePort]
    local: dict[str, ServicePort]


def service(number: int, name: str, address: str) -> ServicePort:
    """A Service with a NodePort, of one endpoint or none."""
    endpoints = (f"{address}:{PORT}",) if address else ()
    return ServicePort(name, f"10.100.0.{number}", PORT, endpoints, node_port=30000 + number)


@pytest.fixture(scope="module", params=MODES)
def cluster(site: Site, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A Service for each pod, for both nodes' own processes, for a server on the internet, and one with no endpoint."""
    endpoints = {**site.pods, "node-a": A0, "node-b": B0, "internet": INTERNET, "nobody": ""}
    services = {name: service(1 + n, name, address) for n, (name, address) in enumerate(endpoints.items())}
    local = {name: service(101 + n, f"{name}-local", site.pods[name]) for n, name in enumerate(KINDS)}
    proxies = [KubeProxy(node.name, request.param) for node in (site.a, site.b)]
    for proxy in proxies:
        here = [replace(s, local_endpoints=s.endpoints if proxy.where == A else ()) for s in local.values()]
        tcp = [*services.values(), *here]
        proxy.apply([*tcp, *(replace(s, protocol="udp") for s in tcp)])
    yield Cluster(site, services, local)
    for proxy in proxies:
        proxy.remove()


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
        for ask in (tcp_echo, udp_echo):
            assert ask(client, cluster.services[name].cluster_ip).told == f"{name} {cluster.site.pods[client]}", (
                name,
                ask,
            )


@pytest.mark.parametrize("client", KINDS)
def test_a_pod_reaches_itself_by_its_own_service_and_node_port(cluster: Cluster, client: str) -> None:
    own = cluster.services[client]
    assert tcp_echo(client, own.cluster_ip).told.startswith(client)
    assert udp_echo(client, own.cluster_ip).told.startswith(client)
    assert tcp_echo(client, A0, own.node_port).told.startswith(client)


@pytest.mark.parametrize("client", KINDS)
def test_a_pod_reaches_a_service_whose_backend_is_on_the_internet_as_its_node(cluster: Cluster, client: str) -> None:
    assert tcp_echo(client, cluster.services["internet"].cluster_ip).told == f"internet {EIP}"
    assert udp_echo(client, cluster.services["internet"].cluster_ip).told == f"internet {EIP}"


@pytest.mark.parametrize("address", [A0, A1, B0])
@pytest.mark.parametrize("client", KINDS)
def test_a_pod_reaches_a_node_port_of_each_node(cluster: Cluster, client: str, address: str) -> None:
    for name in cluster.site.pods:
        if name != client:
            assert tcp_echo(client, address, cluster.services[name].node_port).told.startswith(name), name
            assert udp_echo(client, address, cluster.services[name].node_port).told.startswith(name), name


def test_a_node_reaches_services_and_node_ports(cluster: Cluster) -> None:
    for name in (*cluster.site.pods, "node-a", "node-b", "internet"):
        for node in (A, B):
            assert tcp_echo(node, cluster.services[name].cluster_ip).told.startswith(name), (name, node)
            assert udp_echo(node, cluster.services[name].cluster_ip).told.startswith(name), (name, node)
            assert tcp_echo(node, A0, cluster.services[name].node_port).told.startswith(name), (name, node)


@pytest.mark.parametrize("client", [PARTNER, "192.168.50.10"])
@pytest.mark.parametrize("address", [A0, B0])
def test_a_client_from_outside_reaches_a_node_port_with_its_backend_on_either_node(
    cluster: Cluster, client: str, address: str
) -> None:
    for name in (*cluster.site.pods, "node-a", "node-b"):
        port = cluster.services[name].node_port
        assert tcp_echo("onprem", address, port, source=client).told.startswith(name), name
        assert udp_echo("onprem", address, port, source=client).told.startswith(name), name


@pytest.mark.parametrize("client", [PARTNER, "192.168.50.10"])
@pytest.mark.parametrize("pod", KINDS)
def test_a_node_port_with_local_policy_keeps_the_clients_address(cluster: Cluster, client: str, pod: str) -> None:
    port = cluster.local[pod].node_port
    assert tcp_echo("onprem", A0, port, source=client).told == f"{pod} {client}"
    assert udp_echo("onprem", A0, port, source=client).told == f"{pod} {client}"


@pytest.mark.parametrize("pod", KINDS)
def test_a_node_port_with_local_policy_keeps_the_address_of_a_pod_of_another_node(cluster: Cluster, pod: str) -> None:
    for client in ("b0-prefix", "b1-single"):
        assert tcp_echo(client, A0, cluster.local[pod].node_port).told == f"{pod} {cluster.site.pods[client]}"


@pytest.mark.parametrize("client", KINDS)
def test_a_service_without_endpoints_refuses_at_once(cluster: Cluster, client: str) -> None:
    empty = cluster.services["nobody"]
    assert tcp_echo(client, empty.cluster_ip).told == "refused"
    assert tcp_echo(client, A0, empty.node_port).told == "refused"
    assert tcp_echo(client, B0, empty.node_port).told == "refused"
    assert tcp_echo("onprem", A0, empty.node_port, source=PARTNER).told == "refused"


@pytest.mark.parametrize("pod", KINDS)
def test_a_reset_that_the_node_sends_in_a_pods_name_leaves_by_the_pods_interface(cluster: Cluster, pod: str) -> None:
    reject = ["-d", cluster.site.pods[pod], "-p", "tcp", "--dport", str(PORT), "-j", "REJECT"]
    reject += ["--reject-with", "tcp-reset"]
    netns.run(A, ["iptables", "-I", "FORWARD", *reject])
    try:
        for client in ("b0-single", "b1-prefix", "a0-single" if pod != "a0-single" else "a1-single"):
            assert tcp_echo(client, cluster.site.pods[pod]).told == "refused"
        assert tcp_echo("onprem", cluster.site.pods[pod], source=PARTNER).told == "refused"
        assert tcp_echo("onprem", A0, cluster.local[pod].node_port, source=PARTNER).told == "refused"
    finally:
        netns.run(A, ["iptables", "-D", "FORWARD", *reject])


def test_answers_to_clients_in_the_nodes_own_subnet_use_the_gateway(cluster: Cluster) -> None:
    for pod in KINDS:
        assert tcp_echo("b1-single", A0, cluster.local[pod].node_port).told.startswith(pod)
    for neighbour in cluster.site.a.sh("ip", "-4", "neigh", "show", "nud", "all").splitlines():
        if " dev eth" in neighbour:
            assert neighbour.startswith("10.0.1.1 "), neighbour
