"""IPv6: who reaches whom and as whom, with two wired nodes. What leaves a wrong interface is dropped and counted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.netns.dataplane.site import A, B
from tests.netns.dataplane.site6 import A0, B0, Site, alone, dual_site
from tests.sandbox import netns
from tests.sandbox.echo import PORT, tcp_echo, udp_echo
from tests.sandbox.fabric import INTERNET_ADDRESS6

KINDS = ("a0-prefix", "a1-prefix", "a0-alone", "a1-alone")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with dual_site() as made:
        yield made


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
def test_a_pod_reaches_both_nodes(site: Site, pod: str) -> None:
    for address, name in ((A0, "node-a"), (B0, "node-b")):
        assert tcp_echo(pod, address).told == f"{name} {site.pods[pod]}"
        assert udp_echo(pod, address).told == f"{name} {site.pods[pod]}"


def test_a_node_reaches_its_own_pods_and_those_of_others_from_its_own_address(site: Site) -> None:
    for node, address in ((A, A0), (B, B0)):
        for pod in site.pods:
            assert tcp_echo(node, site.pods[pod]).told == f"{pod} {address}"
            assert udp_echo(node, site.pods[pod]).told == f"{pod} {address}"


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_reaches_the_internet_as_itself(site: Site, pod: str) -> None:
    assert tcp_echo(pod, INTERNET_ADDRESS6).told == f"internet {site.pods[pod]}"
    assert udp_echo(pod, INTERNET_ADDRESS6).told == f"internet {site.pods[pod]}"


@pytest.mark.parametrize("pod", KINDS)
def test_a_closed_port_of_a_pod_refuses_at_once(site: Site, pod: str) -> None:
    for client in ("a0-single", "b1-prefix", B):
        assert tcp_echo(client, site.pods[pod], 9).told == "refused"
        assert udp_echo(client, site.pods[pod], 9).told == "refused"


def test_an_address_of_a_prefix_that_no_pod_has_is_unreachable_at_once_and_does_not_loop(site: Site) -> None:
    for client in ("a1-prefix", "b1-prefix"):
        for place in ("a0", "a1"):
            assert tcp_echo(client, alone(place, 99)).told.startswith("unreachable")


NODE_PORT = 30080


@pytest.mark.parametrize("pod", KINDS)
def test_a_node_port_is_answered_by_the_primary_wherever_the_backend_is(site: Site, pod: str) -> None:
    """Clients of another subnet, of the node's own and on the node itself keep their addresses."""
    rule = f"ip6 daddr {A0} meta l4proto {{ tcp, udp }} th dport {NODE_PORT} dnat to [{site.pods[pod]}]:{PORT}"
    chain = f"chain in {{ type nat hook prerouting priority -100; {rule}\n }}"
    netns.nft(A, f"table ip6 proxy {{ {chain}\n }}\n")
    try:
        for client in ("b0-prefix", "b1-prefix", "b1-alone", "a0-single", "a1-single"):
            assert tcp_echo(client, A0, NODE_PORT).told == f"{pod} {site.pods[client]}", client
            assert udp_echo(client, A0, NODE_PORT).told == f"{pod} {site.pods[client]}", client
        assert tcp_echo(B, A0, NODE_PORT).told == f"{pod} {B0}"
    finally:
        netns.nft(A, "delete table ip6 proxy\n")


@pytest.mark.parametrize("pod", ["a0-prefix", "a1-prefix"])
def test_a_reset_that_the_node_sends_in_a_pods_name_leaves_by_the_right_interface(site: Site, pod: str) -> None:
    """To a client of the pod by the pod's interface, to one of a NodePort by the primary."""
    reject = f"ip6 daddr {site.pods[pod]} tcp dport {PORT} reject with tcp reset"
    filtering = f"chain stop {{ type filter hook forward priority 0; {reject}\n }}"
    rule = f"ip6 daddr {A0} tcp dport {NODE_PORT} dnat to [{site.pods[pod]}]:{PORT}"
    chain = f"chain in {{ type nat hook prerouting priority -100; {rule}\n }}"
    netns.nft(A, f"table ip6 proxy {{ {chain}\n {filtering}\n }}\n")
    try:
        for client in ("b0-single", "b1-prefix", "a0-single" if pod != "a0-single" else "a1-single"):
            assert tcp_echo(client, site.pods[pod]).told == "refused"
            assert tcp_echo(client, A0, NODE_PORT).told == "refused"
    finally:
        netns.nft(A, "delete table ip6 proxy\n")


def test_traffic_inside_the_subnet_uses_the_gateway_and_asks_for_no_neighbour(site: Site) -> None:
    for client in ("a0-single", A):
        assert tcp_echo(client, site.pods["b1-prefix"]).told.startswith("b1-prefix")
    for line in site.a.sh("ip", "-6", "neigh", "show", "nud", "all").splitlines():
        if " dev eth" in line and not line.startswith("ff"):
            assert line.startswith("fe80"), line
