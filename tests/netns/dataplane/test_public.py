"""Pods with a public address of their own, with real packets: seen as it, reached by it, by their own interface."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.netns.dataplane.conftest import Site
from tests.netns.dataplane.site import INTERNET, PARTNER, A, B, Node, attachment, layout_of, nodes, pods_of, two_nodes
from tests.sandbox import netns
from tests.sandbox.echo import PORT, EchoServers, tcp_echo, udp_echo
from tests.sandbox.fabric import Fabric
from tests.sandbox.ping import ping
from tests.sandbox.waiting import eventually
from tests.sandbox.world import Route, World

NODE_EIP = "203.0.113.10"
PUBLIC = {"a0-single": "203.0.113.80", "a1-single": "203.0.113.70"}
OTHERS = ("a0-prefix", "a1-prefix")


def world() -> World:
    """Node A's subnet has the internet gateway; its primary and two of its pods have a public address each."""
    plain = two_nodes()
    routes = (Route("10.0.0.0/16", "local"), Route("0.0.0.0/0", "igw-1"), Route("172.30.9.0/24", "vgw-1"))
    subnets = tuple(replace(s, routes=routes) if s.id == "subnet-a" else s for s in plain.subnets)
    pods = pods_of(plain, A)
    changed = []
    for eni in plain.enis:
        public = tuple((pods[name], address) for name, address in PUBLIC.items() if pods[name] in eni.addresses)
        own = NODE_EIP if eni.id.endswith("da0") else eni.public_address
        changed.append(replace(eni, public=public, public_address=own))
    return replace(plain, subnets=subnets, enis=tuple(changed))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    there = world()
    with Fabric() as fabric, EchoServers() as servers:
        fabric.apply(there)
        with nodes(A, B) as made:
            found = Site(fabric, servers, made[A], made[B])
            for node in (found.a, found.b):
                _wire(found, there, node)
            for address in (INTERNET, PARTNER):
                servers.add("internet" if address == INTERNET else "onprem", address=address, name="outside")
            assert eventually(lambda: netns.settled(*netns.names()))
            yield found


def _wire(site: Site, there: World, node: Node) -> None:
    public = tuple(pods_of(there, A)[name] for name in PUBLIC) if node.name == A else ()
    assert node.call(node.dataplane.configure, layout_of(there, node.name, public=public)) == ()
    for name, address in pods_of(there, node.name).items():
        node.call(node.dataplane.attach, attachment(name, address, netns_fd=node.pod(name)))
        site.servers.add(name, name=name)
        site.pods[name] = address


@pytest.fixture(autouse=True)
def nothing_dropped(site: Site) -> Iterator[None]:
    before = site.fabric.counters()
    yield
    assert site.fabric.counters() == before


@pytest.mark.parametrize("pod", PUBLIC)
def test_the_internet_sees_the_pods_own_public_address(site: Site, pod: str) -> None:
    assert tcp_echo(pod, INTERNET).told == f"outside {PUBLIC[pod]}"
    assert udp_echo(pod, INTERNET).told == f"outside {PUBLIC[pod]}"
    assert ping(pod, INTERNET).ok


@pytest.mark.parametrize("pod", PUBLIC)
def test_the_internet_reaches_the_pod_by_it(site: Site, pod: str) -> None:
    assert tcp_echo("internet", PUBLIC[pod]).told == f"{pod} {INTERNET}"
    assert udp_echo("internet", PUBLIC[pod]).told == f"{pod} {INTERNET}"
    assert ping("internet", PUBLIC[pod]).ok


@pytest.mark.parametrize("pod", PUBLIC)
def test_a_closed_port_refuses_in_its_name(site: Site, pod: str) -> None:
    assert tcp_echo("internet", PUBLIC[pod], 9).told == "refused"


@pytest.mark.parametrize("pod", OTHERS)
def test_pods_beside_it_reach_the_internet_as_their_node(site: Site, pod: str) -> None:
    assert tcp_echo(pod, INTERNET).told == f"outside {NODE_EIP}"
    assert udp_echo(pod, INTERNET).told == f"outside {NODE_EIP}"


@pytest.mark.parametrize("pod", PUBLIC)
def test_inside_it_is_a_pod_like_any_other(site: Site, pod: str) -> None:
    for other in (*OTHERS, "b0-prefix", "b1-single"):
        assert tcp_echo(pod, site.pods[other]).told == f"{other} {site.pods[pod]}"
        assert tcp_echo(other, site.pods[pod]).told == f"{pod} {site.pods[other]}"


def test_a_destination_outside_the_no_snat_list_sees_its_private_address(site: Site) -> None:
    """Only an internet gateway knows of public addresses: behind a VPN the pod is what it is."""
    assert tcp_echo("a1-single", PARTNER).told == f"outside {site.pods['a1-single']}"


def test_a_flow_that_the_node_rewrites_goes_on_when_the_pod_gets_its_address(site: Site) -> None:
    there = world()
    wanted = layout_of(there, A, public=tuple(site.pods[name] for name in PUBLIC))
    assert site.a.call(site.a.dataplane.configure, replace(wanted, public=())) == ()
    try:
        with netns.open_socket("internet") as listener, netns.open_socket("a1-single") as client:
            listener.settimeout(5)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((INTERNET, PORT + 1))
            listener.listen()
            client.settimeout(5)
            client.connect((INTERNET, PORT + 1))
            server, (seen, _) = listener.accept()
            with server:
                assert seen == NODE_EIP
                assert site.a.call(site.a.dataplane.configure, wanted) == ()
                server.settimeout(5)
                for one, other in ((client, server), (server, client)):
                    one.send(b"still here?")
                    assert other.recv(100) == b"still here?"
    finally:
        site.a.call(site.a.dataplane.configure, wanted)
    assert tcp_echo("a1-single", INTERNET).told == f"outside {PUBLIC['a1-single']}"
