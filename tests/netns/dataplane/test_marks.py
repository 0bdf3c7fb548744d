"""Marks share their words with other programs, and connections outlive a change of the rules."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from berth_node.seams import NodeLayout

from tests.netns.dataplane.conftest import Site
from tests.netns.dataplane.site import EIP, INTERNET, PARTNER, A, layout_of, two_nodes
from tests.sandbox import netns
from tests.sandbox.echo import PORT, tcp_echo, udp_echo

LAYOUT = layout_of(two_nodes(), A)
KINDS = ("a0-prefix", "a0-single", "a1-prefix", "a1-single")

WITNESS = """
table ip witness {
  counter seen { }
  counter lost { }
  chain others { type filter hook prerouting priority -160;
    meta mark set meta mark | 0xffffff00
    ct mark set ct mark | 0xffffff00
  }
  chain local { type route hook output priority -160;
    meta mark set meta mark | 0xffffff00
    ct mark set ct mark | 0xffffff00
  }
  chain after { type filter hook postrouting priority 300;
    counter name seen
    meta mark & 0xffffff00 != 0xffffff00 counter name lost
    ct mark & 0xffffff00 != 0xffffff00 counter name lost
  }
}
"""


@pytest.fixture(autouse=True)
def nothing_dropped(site: Site) -> Iterator[None]:
    before = site.fabric.counters()
    yield
    assert site.fabric.counters() == before


@pytest.fixture
def restored(site: Site) -> Iterator[None]:
    yield
    assert site.a.call(site.a.dataplane.configure, LAYOUT) == ()


def _everything_works(site: Site) -> None:
    for pod in KINDS:
        assert tcp_echo(pod, INTERNET).told == f"internet {EIP}"
        assert tcp_echo(pod, site.pods["b1-prefix"]).told == f"b1-prefix {site.pods[pod]}"
        assert tcp_echo("onprem", site.pods[pod], source=PARTNER).told == f"{pod} {PARTNER}"
        assert tcp_echo(pod, "10.0.1.20").told == f"node-a {site.pods[pod]}"


def test_no_bit_of_anothers_mark_is_touched(site: Site) -> None:
    netns.nft(A, WITNESS)
    try:
        _everything_works(site)
        listed = json.loads(site.a.sh("nft", "-j", "list", "counters"))["nftables"]
    finally:
        site.a.sh("nft", "delete", "table", "ip", "witness")
    counted = {c["counter"]["name"]: c["counter"]["packets"] for c in listed if "counter" in c}
    assert counted["seen"] > 50
    assert counted["lost"] == 0


@pytest.mark.parametrize(
    ("interface_mask", "connection_mark"), [(0x7F0000, 0x800000), (0x3, 0x8), (0x7F000000, 1 << 31)]
)
def test_marks_may_be_anywhere(site: Site, restored: None, interface_mask: int, connection_mark: int) -> None:
    moved = replace(LAYOUT, interface_mask=interface_mask, connection_mark=connection_mark)
    assert site.a.call(site.a.dataplane.configure, moved) == ()
    _everything_works(site)


def test_too_narrow_a_mask_is_a_problem_that_names_the_interface(site: Site, restored: None) -> None:
    (problem,) = site.a.call(site.a.dataplane.configure, replace(LAYOUT, interface_mask=0x100))
    assert problem.where == LAYOUT.interfaces[1].mac
    assert "widen it" in problem.message
    assert tcp_echo("a1-prefix", site.pods["b0-prefix"]).told.startswith("b0-prefix")


def test_without_snat_a_pod_keeps_its_address_everywhere(site: Site, restored: None) -> None:
    assert site.a.call(site.a.dataplane.configure, replace(LAYOUT, snat=False)) == ()
    for pod in KINDS:
        assert tcp_echo(pod, PARTNER).told == f"onprem {site.pods[pod]}"
        assert tcp_echo(pod, INTERNET).told == f"internet {EIP}"  # by the NAT gateway


def test_a_pod_reaches_an_address_of_the_node_outside_the_no_snat_list_with_its_own(site: Site) -> None:
    site.a.sh("ip", "addr", "add", "169.254.20.10/32", "dev", "lo")  # where a node-local DNS cache listens
    for pod in KINDS:
        assert tcp_echo(pod, "169.254.20.10").told == f"node-a {site.pods[pod]}"


@pytest.mark.parametrize("pod", KINDS)
@pytest.mark.parametrize("outward", [True, False])
def test_a_connection_outlives_every_change_of_the_rules(site: Site, restored: None, pod: str, outward: bool) -> None:
    where, address = ("internet", INTERNET) if outward else (pod, site.pods[pod])
    with netns.open_socket(where) as listener, netns.open_socket(pod if outward else "onprem") as client:
        for sock in (listener, client):
            sock.settimeout(5)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT + 1))
        listener.listen()
        client.bind(("" if outward else PARTNER, 0))
        client.connect((address, PORT + 1))
        server, _ = listener.accept()
        with server:
            server.settimeout(5)
            for layout in (_fewer(LAYOUT), replace(LAYOUT, no_snat_cidrs=("0.0.0.0/0",)), LAYOUT):
                assert site.a.call(site.a.dataplane.configure, layout) == ()
                for one, other in ((client, server), (server, client)):
                    one.send(b"still here?")
                    assert other.recv(100) == b"still here?"


def test_an_unanswered_flow_keeps_its_way_when_the_no_snat_list_changes(site: Site, restored: None) -> None:
    with (
        netns.open_socket("a1-prefix", kind=socket.SOCK_DGRAM) as client,
        netns.open_socket("onprem", kind=socket.SOCK_DGRAM) as server,
    ):
        server.settimeout(5)
        server.bind((PARTNER, PORT + 2))
        client.connect((PARTNER, PORT + 2))
        everything = replace(LAYOUT, no_snat_cidrs=("0.0.0.0/0",))
        for layout in (everything, LAYOUT):
            assert site.a.call(site.a.dataplane.configure, layout) == ()
            client.send(b"anybody?")
            # begun with its own address and by its own interface, it goes on so
            assert server.recvfrom(100)[1][0] == site.pods["a1-prefix"]


def _fewer(layout: NodeLayout) -> NodeLayout:
    """Another block comes, and a free single address goes."""
    first, second = layout.interfaces
    first = replace(first, blocks=tuple(b for b in first.blocks if b != "10.0.1.81/32"))
    return replace(layout, interfaces=(first, replace(second, blocks=(*second.blocks, "10.0.1.96/28"))))


def test_dns_like_traffic_to_the_outside_needs_no_answer_to_be_routed(site: Site) -> None:
    for pod in KINDS:
        assert udp_echo(pod, INTERNET).told == f"internet {EIP}"
