"""Who reaches whom, and as whom, with two wired nodes. The fabric drops and counts what leaves a wrong interface."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.netns.dataplane.conftest import Site
from tests.netns.dataplane.site import EIP, INTERNET, ONPREM, PARTNER, A, B
from tests.sandbox import netns
from tests.sandbox.icmp import ping
from tests.sandbox.traffic import tcp, udp

CLOSED = 9
A0, A1, B0, B1 = "10.0.1.10", "10.0.1.20", "10.0.2.10", "10.0.1.120"
KINDS = ("a0-prefix", "a0-single", "a1-prefix", "a1-single")


@pytest.fixture(autouse=True)
def nothing_dropped(site: Site) -> Iterator[None]:
    before = site.fabric.counters()
    yield
    assert site.fabric.counters() == before


def test_every_pod_reaches_every_pod_with_its_own_address(site: Site) -> None:
    for one, other in itertools.permutations(site.pods, 2):
        assert tcp(one, site.pods[other]) == f"{other} {site.pods[one]}", (one, other)
        assert udp(one, site.pods[other]) == f"{other} {site.pods[one]}", (one, other)


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_pings_a_pod_of_the_same_and_of_the_other_node(site: Site, pod: str) -> None:
    for other in ("a0-single", "a1-prefix", "b0-prefix", "b1-single"):
        assert ping(pod, site.pods[other]), other


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_reaches_every_address_of_both_nodes(site: Site, pod: str) -> None:
    for address, name in ((A0, "node-a"), (A1, "node-a"), (B0, "node-b"), (B1, "node-b")):
        assert tcp(pod, address) == f"{name} {site.pods[pod]}"
        assert ping(pod, address)
    # an unconnected socket may answer from another of the node's addresses, so that is not asked of it
    assert udp(pod, A0) == f"node-a {site.pods[pod]}"
    assert udp(pod, B0) == f"node-b {site.pods[pod]}"


def test_a_node_reaches_its_own_pods_and_those_of_others_from_its_primary_address(site: Site) -> None:
    for node, address in ((A, A0), (B, B0)):
        for pod in site.pods:
            assert tcp(node, site.pods[pod]) == f"{pod} {address}"
            assert udp(node, site.pods[pod]) == f"{pod} {address}"
            assert ping(node, site.pods[pod])


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_reaches_the_internet_as_its_node(site: Site, pod: str) -> None:
    assert tcp(pod, INTERNET) == f"internet {EIP}"
    assert udp(pod, INTERNET) == f"internet {EIP}"
    assert ping(pod, INTERNET)


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_keeps_its_address_to_a_destination_in_the_no_snat_list(site: Site, pod: str) -> None:
    assert tcp(pod, ONPREM) == f"onprem {site.pods[pod]}"
    assert udp(pod, ONPREM) == f"onprem {site.pods[pod]}"


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_is_its_node_to_a_destination_outside_the_no_snat_list(site: Site, pod: str) -> None:
    assert tcp(pod, PARTNER) == f"onprem {A0}"
    assert udp(pod, PARTNER) == f"onprem {A0}"


@pytest.mark.parametrize("pod", KINDS)
def test_a_client_outside_the_no_snat_list_reaches_a_pod_directly(site: Site, pod: str) -> None:
    for source in (PARTNER, ONPREM):
        assert tcp("onprem", site.pods[pod], source=source) == f"{pod} {source}"
    assert netns.run("onprem", ["ping", "-c1", "-W2", "-I", PARTNER, site.pods[pod]]).returncode == 0


@pytest.mark.parametrize("pod", KINDS)
def test_a_closed_port_of_a_pod_refuses_at_once(site: Site, pod: str) -> None:
    for client in ("a0-single", "b1-prefix", B):
        assert tcp(client, site.pods[pod], CLOSED) == "refused"
        assert udp(client, site.pods[pod], CLOSED) == "refused"
    assert tcp("onprem", site.pods[pod], CLOSED, source=PARTNER) == "refused"


@pytest.mark.parametrize("address", [A0, A1])
def test_a_closed_port_of_each_address_of_a_node_refuses_at_once(site: Site, address: str) -> None:
    for client in ("a0-single", "a1-prefix", "a1-single", "b0-single", "b1-prefix", B):
        assert tcp(client, address, CLOSED) == "refused"
        assert udp(client, address, CLOSED) == "refused"
    assert tcp("onprem", address, CLOSED, source=PARTNER) == "refused"


def test_an_address_of_a_block_that_no_pod_has_is_unreachable_at_once_and_does_not_loop(site: Site) -> None:
    for client in ("a1-single", "b1-prefix"):
        for free in ("10.0.1.62", "10.0.1.81"):  # no more: the kernel allows few such errors in a row
            assert tcp(client, free).startswith("unreachable")


@pytest.mark.parametrize("pod", KINDS)
def test_big_packets_arrive_and_the_pod_hears_which_ones_are_too_big(site: Site, pod: str) -> None:
    netns.run(pod, ["ping", "-c1", "-W2", "-M", "do", "-s", "8900", site.pods["b1-prefix"]])
    for far in (ONPREM, PARTNER):  # with the pod's own address, and with the node's
        refused = netns.run(pod, ["ping", "-c1", "-W2", "-M", "do", "-s", "1500", far], check=False)
        assert "mtu = 1446" in refused.stdout, far


def test_a_traceroute_from_a_pod_shows_its_node_first(site: Site) -> None:
    for pod in ("a0-prefix", "a1-single"):
        hop = netns.run(pod, ["ping", "-c1", "-W2", "-t1", "-n", site.pods["b1-prefix"]], check=False)
        assert "Time to live exceeded" in hop.stdout


def test_traffic_inside_the_subnet_uses_the_gateway_and_asks_for_no_neighbour(site: Site) -> None:
    for client in ("a0-single", A):
        assert tcp(client, site.pods["b1-prefix"]).startswith("b1-prefix")
    for neighbour in site.a.sh("ip", "-4", "neigh", "show", "nud", "all").splitlines():
        if " dev eth" in neighbour:
            assert neighbour.startswith("10.0.1.1 "), neighbour
