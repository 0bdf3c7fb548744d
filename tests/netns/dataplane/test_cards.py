"""Interfaces on a second network card, and one that is somebody else's: real packets, source check on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from tests.netns.dataplane.site import EIP, INTERNET, ONPREM, A, Node, attachment, layout_of, nodes, two_nodes
from tests.sandbox import netns
from tests.sandbox.echo import EchoServers, tcp_echo
from tests.sandbox.fabric import Fabric
from tests.sandbox.waiting import eventually
from tests.sandbox.world import Eni, World

CARD = Eni(
    id="eni-0000000000000dc1",
    mac="02:00:00:00:0d:c1",
    subnet_id="subnet-a",
    addresses=("10.0.1.30",),
    prefixes=("10.0.1.192/28",),
    instance_id=A,
    device_index=1,
    network_card=1,
)
"""Device index 1 as on the first card: the pair of card and index is what is unique (EC2, AttachNetworkInterface)."""
THEIRS = Eni(
    id="eni-0000000000000df1",
    mac="02:00:00:00:0d:f1",
    subnet_id="subnet-b",
    addresses=("10.0.2.200", "10.0.2.201"),
    instance_id=A,
    device_index=5,
)
"""Attached by somebody for a purpose of his own, who routes it himself: no record of the node lists it."""
OWN_ROUTING = (
    "addr add 10.0.2.200/24 dev eth5",
    "addr add 10.0.2.201/32 dev eth5",
    "link set eth5 up",
    "rule add from 10.0.2.200 lookup 5 priority 5000",
    "rule add from 10.0.2.201 lookup 5 priority 5000",
    "route add default via 10.0.2.1 dev eth5 table 5",
)


@dataclass
class Site:
    fabric: Fabric
    servers: EchoServers
    node: Node
    world: World

    def pod(self, name: str, address: str) -> None:
        self.node.call(self.node.dataplane.attach, attachment(name, address, netns_fd=self.node.pod(name)))
        self.servers.add(name, name=name)
        assert eventually(lambda: netns.settled(*netns.names()))


@pytest.fixture
def site() -> Iterator[Site]:
    """Node A with both; its layout has the one on the second card and not the other."""
    world = two_nodes()
    with Fabric() as fabric, EchoServers() as servers, ExitStack() as stack:
        fabric.apply(replace(world, enis=(*world.enis, CARD, THEIRS)))
        made = stack.enter_context(nodes(A))
        netns.ip_batch(A, OWN_ROUTING)
        found = Site(fabric, servers, made[A], replace(world, enis=(*world.enis, CARD)))
        assert found.node.call(found.node.dataplane.configure, layout_of(found.world, A)) == ()
        servers.add("onprem", address=ONPREM, name="onprem")
        for where in ("internet", A):
            servers.add(where, name=where)
        yield found
        assert fabric.counters()["source_check_drops"] == 0


def test_a_pod_on_the_second_card_of_an_instance_has_its_address_everywhere(site: Site) -> None:
    site.pod("card1", "10.0.1.193")
    site.pod("card0", "10.0.1.49")
    for source, own, other, address in (
        ("card1", "10.0.1.193", "card0", "10.0.1.49"),
        ("card0", "10.0.1.49", "card1", "10.0.1.193"),
    ):
        assert tcp_echo(source, address).told == f"{other} {own}"
        assert tcp_echo(source, ONPREM).told == f"onprem {own}"
        assert tcp_echo(source, INTERNET).told == f"internet {EIP}"
    assert tcp_echo("onprem", "10.0.1.193", source=ONPREM).told == f"card1 {ONPREM}"


def test_an_interface_that_is_somebody_elses_keeps_its_own_addresses_rules_and_routes(site: Site) -> None:
    kept = ("rule", "show", "priority", "5000"), ("route", "show", "table", "5"), ("-br", "addr", "show", "dev", "eth5")
    before = [site.node.sh("ip", *what) for what in kept]
    site.pod("pod", "10.0.1.33")
    for address in THEIRS.addresses:
        assert tcp_echo("onprem", address, source=ONPREM).told == f"{A} {ONPREM}"
        assert tcp_echo("pod", address).told == f"{A} 10.0.1.33"
    assert tcp_echo(A, ONPREM, source="10.0.2.201").told == "onprem 10.0.2.201"
    assert [site.node.sh("ip", *what) for what in kept] == before
    assert "10.0.2.20" in before[2]
