"""What the kernel tells of IPv6: others' changes of what Berth made, and never its own doing."""

from __future__ import annotations

import select
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from berth_node.ipv6 import beside, prefix_of
from berth_node.seams import Change, Notices

from tests.netns.dataplane.site import A, Node, attachment, layout_of, nodes
from tests.netns.dataplane.site6 import alone, dual_nodes, dual_pods
from tests.sandbox.fabric import Fabric
from tests.sandbox.waiting import eventually

LAYOUT = layout_of(dual_nodes(), A)
FOUR, SIX = dual_pods(A)["a1-prefix"]
WEB = attachment("dp-web", FOUR, address6=SIX)
HOST = WEB.host_ifname


@dataclass
class Listening:
    node: Node
    notices: Notices

    def told(self) -> list[Change]:
        """All that is told until nothing more comes."""
        told = []
        while select.select(self.notices.descriptors, [], [], 0.1)[0]:
            if change := self.notices.read():
                told.append(change)
        return told


@pytest.fixture
def listening() -> Iterator[Listening]:
    with Fabric() as fabric:
        fabric.apply(dual_nodes())
        with nodes(A) as made:
            node = made[A]
            node.call(node.dataplane.configure, LAYOUT)
            node.call(node.dataplane.attach, attachment("dp-web", FOUR, address6=SIX, netns_fd=node.pod("dp-web")))
            found = Listening(node, node.dataplane.notices())
            assert eventually(lambda: found.told() == [])
            yield found


LOSSES = (
    "ip -6 rule del priority 1000",
    "ip -6 route flush table 300000001",
    "ip -6 route flush table 300000002",
    "ip -6 route del unreachable 2001:db8:1:1:b::/80 table 300000000",
    "nft delete table ip6 berth",
    "nft flush chain ip6 berth choose",
)


@pytest.mark.parametrize("command", LOSSES)
def test_a_loss_is_told(listening: Listening, command: str) -> None:
    listening.node.sh(*command.split())
    assert True in [change.lost for change in listening.told()]


OTHERS = (
    f"ip -6 route del {SIX} table 300000000",
    f"ip -6 neigh del {SIX} dev {HOST}",
    f"ip link set {HOST} down",
    f"ip link del {HOST}",
)


@pytest.mark.parametrize("command", OTHERS)
def test_what_may_come_of_a_link_that_goes_asks_for_a_look_and_blames_nobody(
    listening: Listening, command: str
) -> None:
    listening.node.sh(*command.split())
    told = listening.told()
    assert told
    assert not any(change.lost for change in told)


SILENT = (
    "ip -6 route add 2001:db8:8::/64 dev eth0",
    "ip -6 route add 2001:db8:8::/64 dev eth0 table 77",
    "ip -6 rule add priority 999 from 2001:db8:8::/64 lookup main",
    "ip -6 addr add 2001:db8:8::1/128 dev eth0 nodad",
    "ip -6 neigh add fe80::99 lladdr 02:00:00:00:00:99 dev eth0",
    "nft add table ip6 other",
)


@pytest.mark.parametrize("command", SILENT)
def test_what_others_do_among_themselves_is_not_told(listening: Listening, command: str) -> None:
    listening.node.sh(*command.split())
    assert listening.told() == []


def test_wiring_unwiring_and_mending_pods_of_either_kind_is_not_told(listening: Listening) -> None:
    node, pods = listening.node, []
    for n in range(50, 56):
        name, four, descriptor = f"dp-{n}", f"10.0.1.{n}", node.pod(f"dp-{n}")
        both = attachment(name, four, address6=beside(prefix_of(SIX), four), netns_fd=descriptor)
        pods.append(attachment(name, alone("a1", n), netns_fd=descriptor) if n % 2 else both)
    for pod in pods:
        node.call(node.dataplane.attach, pod)
        assert node.call(node.dataplane.check, pod) == ()
    assert node.call(node.dataplane.configure, LAYOUT) == ()
    assert node.call(node.dataplane.repair, [WEB, *pods]) == ()
    for pod in pods:
        node.call(node.dataplane.detach, pod)
    assert eventually(lambda: node.sh("ip", "-o", "link").count("eni") == 1)
    assert listening.told() == []
