"""Who reaches whom, and as whom, with two wired nodes. The fabric drops and counts what leaves a wrong interface."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.netns.dataplane.conftest import Site
from tests.netns.dataplane.site import EIP, INTERNET, ONPREM, PARTNER, A, B
from tests.sandbox.echo import Failure, tcp_echo, udp_echo
from tests.sandbox.ping import ping

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
        assert tcp_echo(one, site.pods[other]).told == f"{other} {site.pods[one]}", (one, other)
        assert udp_echo(one, site.pods[other]).told == f"{other} {site.pods[one]}", (one, other)


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_pings_a_pod_of_the_same_and_of_the_other_node(site: Site, pod: str) -> None:
    for other in ("a0-single", "a1-prefix", "b0-prefix", "b1-single"):
        assert ping(pod, site.pods[other]).ok, other


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_reaches_every_address_of_both_nodes(site: Site, pod: str) -> None:
    for address, name in ((A0, "node-a"), (A1, "node-a"), (B0, "node-b"), (B1, "node-b")):
        assert tcp_echo(pod, address).told == f"{name} {site.pods[pod]}"
        assert udp_echo(pod, address).told == f"{name} {site.pods[pod]}"
        assert ping(pod, address).ok


def test_a_node_reaches_its_own_pods_and_those_of_others_from_its_primary_address(site: Site) -> None:
    for node, address in ((A, A0), (B, B0)):
        for pod in site.pods:
            assert tcp_echo(node, site.pods[pod]).told == f"{pod} {address}"
            assert udp_echo(node, site.pods[pod]).told == f"{pod} {address}"
            assert ping(node, site.pods[pod]).ok


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_reaches_the_internet_as_its_node(site: Site, pod: str) -> None:
    assert tcp_echo(pod, INTERNET).told == f"internet {EIP}"
    assert udp_echo(pod, INTERNET).told == f"internet {EIP}"
    assert ping(pod, INTERNET).ok


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_keeps_its_address_to_a_destination_in_the_no_snat_list(site: Site, pod: str) -> None:
    assert tcp_echo(pod, ONPREM).told == f"onprem {site.pods[pod]}"
    assert udp_echo(pod, ONPREM).told == f"onprem {site.pods[pod]}"


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_is_its_node_to_a_destination_outside_the_no_snat_list(site: Site, pod: str) -> None:
    assert tcp_echo(pod, PARTNER).told == f"onprem {A0}"
    assert udp_echo(pod, PARTNER).told == f"onprem {A0}"


@pytest.mark.parametrize("pod", KINDS)
def test_a_client_outside_the_no_snat_list_reaches_a_pod_directly(site: Site, pod: str) -> None:
    for source in (PARTNER, ONPREM):
        assert tcp_echo("onprem", site.pods[pod], source=source).told == f"{pod} {source}"
    assert ping("onprem", site.pods[pod], source=PARTNER).ok


@pytest.mark.parametrize("pod", KINDS)
def test_a_closed_port_of_a_pod_refuses_at_once(site: Site, pod: str) -> None:
    for client in ("a0-single", "b1-prefix", B):
        assert tcp_echo(client, site.pods[pod], CLOSED).told == "refused"
        assert udp_echo(client, site.pods[pod], CLOSED).told == "refused"
    assert tcp_echo("onprem", site.pods[pod], CLOSED, source=PARTNER).told == "refused"


@pytest.mark.parametrize("address", [A0, A1])
def test_a_closed_port_of_each_address_of_a_node_refuses_at_once(site: Site, address: str) -> None:
    for client in ("a0-single", "a1-prefix", "a1-single", "b0-single", "b1-prefix", B):
        assert tcp_echo(client, address, CLOSED).told == "refused"
        assert udp_echo(client, address, CLOSED).told == "refused"
    assert tcp_echo("onprem", address, CLOSED, source=PARTNER).told == "refused"


def test_an_address_of_a_block_that_no_pod_has_is_unreachable_at_once_and_does_not_loop(site: Site) -> None:
    for client in ("a1-single", "b1-prefix"):
        for free in ("10.0.1.62", "10.0.1.81"):  # no more: the kernel allows few such errors in a row
            assert tcp_echo(client, free).told.startswith("unreachable")


@pytest.mark.parametrize("pod", KINDS)
def test_big_packets_arrive_and_the_pod_hears_which_ones_are_too_big(site: Site, pod: str) -> None:
    assert ping(pod, site.pods["b1-prefix"], size=8900).ok
    for far in (ONPREM, PARTNER):  # with the pod's own address, and with the node's
        refused = ping(pod, far, size=1500)
        assert (refused.failure, refused.mtu) == (Failure.TOO_BIG, 1446), far


def test_a_traceroute_from_a_pod_shows_its_node_first(site: Site) -> None:
    for pod in ("a0-prefix", "a1-single"):
        hop = ping(pod, site.pods["b1-prefix"], ttl=1)
        assert (hop.failure, hop.server) == (Failure.EXPIRED, A0)


def test_traffic_inside_the_subnet_uses_the_gateway_and_asks_for_no_neighbour(site: Site) -> None:
    for client in ("a0-single", A):
        assert tcp_echo(client, site.pods["b1-prefix"]).told.startswith("b1-prefix")
    for neighbour in site.a.sh("ip", "-4", "neigh", "show", "nud", "all").splitlines():
        if " dev eth" in neighbour:
            assert neighbour.startswith("10.0.1.1 "), neighbour
