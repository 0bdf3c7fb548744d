"""The kernel tells what others change, and nothing of what Berth itself does comes back to it."""

from __future__ import annotations

import json
import os
import select

import pytest
from berth_node.dataplane import pairs
from berth_node.dataplane.messages import REAP_GROUP, VethEnd, host_route, packed, veth
from berth_node.dataplane.pods import PODS_TABLE
from berth_node.dataplane.rtnl import Rtnl
from berth_node.seams import FIRST_PAIR_INDEX, Change, Notices

from tests.netns.dataplane.site import A, Node, attachment, layout_of, two_nodes
from tests.sandbox import netns
from tests.sandbox.waiting import eventually
from tests.sandbox.world import netns_path

LAYOUT = layout_of(two_nodes(), A)
HOST = attachment("dp-web", "10.0.1.33").host_ifname


def _ports(number: int) -> str:
    return f"tcp:{8000 + number}:80"


PORTS = _ports(0)


def _told(notices: Notices) -> list[Change]:
    """Everything told so far; nothing of it is left."""
    told = []
    while select.select(notices.descriptors, [], [], 0)[0]:
        if change := notices.read():
            told.append(change)
    return told


def _configured(node: Node) -> Notices:
    node.call(node.dataplane.configure, LAYOUT)
    node.call(node.dataplane.attach, attachment("dp-web", "10.0.1.33", netns_fd=node.pod("dp-web"), ports=PORTS))
    notices = node.dataplane.notices()
    _told(notices)
    return notices


def test_what_a_plugin_asks_for_is_not_told_and_what_others_ask_for_is(node: Node) -> None:
    """A plugin's socket has a port of its own range."""
    notices, there = _configured(node), os.open(netns_path("dp-web"), os.O_RDONLY)
    for port, heard in ((pairs.PORTS << 16 | 4242, False), (0, True)):
        with netns.inside(node.name), Rtnl() as rtnl:
            rtnl._socket.bind((port, 0))
            host = VethEnd(f"eni{port:08x}", b"\x02\xbe\x40\x00\x00" + bytes([heard]), FIRST_PAIR_INDEX + 2 * heard)
            pod = VethEnd(f"eth{7 + heard}", b"\x02\xbf\x40\x00\x00" + bytes([heard]), host.index + 1)
            rtnl.batch([veth(host, pod, there, 1500)])
            rtnl.batch([host_route(host.index, packed("10.0.1.34"), PODS_TABLE)])
        assert bool(_told(notices)) is heard
    os.close(there)


LOSSES = (
    "ip rule del priority 1000",
    "ip rule flush",
    "ip route flush table 300000000",
    "ip route flush table 300000002",
    "ip route replace default via 10.0.1.2 dev eth1 onlink table 300000002",
    "ip route replace 10.0.1.33 dev lo table 300000000",
    "nft flush ruleset",
    "nft delete table ip berth",
    "nft flush chain ip berth choose",
    "nft delete element ip berth no_snat { 10.0.0.0/16 }",
)


@pytest.mark.parametrize("command", LOSSES)
def test_a_loss_is_told(node: Node, command: str) -> None:
    notices = _configured(node)
    node.sh(*command.split())
    assert [change.lost for change in _told(notices)] == [True]


OTHERS = (
    f"ip link set {HOST} down",
    f"ip link del {HOST}",
    f"ip neigh del 10.0.1.33 dev {HOST}",
    f"ip neigh flush dev {HOST} nud permanent",
    f"ip neigh replace 10.0.1.33 lladdr 02:00:00:00:00:77 dev {HOST} nud permanent",
    "ip link set eth1 down",
    "ip link set eth1 mtu 1500",
    "ip link add other type veth peer name far",
    "ip addr flush dev eth1",
    "ip addr add 10.0.1.70/32 dev eth1",
    "nft insert rule ip berth choose accept",
    "nft delete table ip berth-ports",
)


@pytest.mark.parametrize("command", OTHERS)
def test_a_change_around_berths_own_pieces_asks_for_a_look(node: Node, command: str) -> None:
    notices = _configured(node)
    node.sh(*command.split())
    told = _told(notices)
    assert told
    assert not any(change.lost for change in told)


@pytest.mark.parametrize("command", [command for command in OTHERS if HOST in command])
def test_what_concerns_a_pods_link_alone_is_told_so(node: Node, command: str) -> None:
    """As when a runtime removes the pod's namespace, which takes the link with it."""
    notices = _configured(node)
    index = json.loads(node.sh("ip", "-j", "link", "show", HOST))[0]["ifindex"]
    node.sh(*command.split())
    assert {change.links for change in _told(notices)} == {frozenset((index,))}


def test_a_pods_link_and_something_else_ask_for_a_look(node: Node) -> None:
    notices = _configured(node)
    node.sh("ip", "link", "set", HOST, "down")
    node.sh("ip", "link", "set", "eth1", "mtu", "1500")
    assert [change.links for change in _told(notices)] == [frozenset()]


SILENT = (
    "ip route add 10.8.0.0/16 via 10.0.1.1 dev eth0",
    "ip route add 10.8.0.0/16 via 10.0.1.1 dev eth0 table 77",
    "ip rule add priority 999 from 10.8.0.0/16 lookup main",
    "ip neigh add 10.0.1.99 lladdr 02:00:00:00:00:99 dev eth0",
    "nft add table ip other",
    "nft add table ip berthling",
)


@pytest.mark.parametrize("command", SILENT)
def test_what_others_do_among_themselves_is_not_told(node: Node, command: str) -> None:
    notices = _configured(node)
    node.sh(*command.split())
    assert _told(notices) == []


def test_wiring_and_unwiring_pods_and_mending_them_is_not_told(node: Node) -> None:
    notices = _configured(node)
    pods = [attachment(f"dp-{n}", f"10.0.1.{n}", netns_fd=node.pod(f"dp-{n}"), ports=_ports(n)) for n in range(34, 44)]
    for pod in pods:
        node.call(node.dataplane.attach, pod)
        assert node.call(node.dataplane.check, pod) == ()
    node.sh("ip", "route", "flush", "table", "300000001")
    assert _told(notices)
    node.call(node.dataplane.configure, LAYOUT)
    assert node.call(node.dataplane.repair, pods) == ()
    for pod in pods:
        node.call(node.dataplane.detach, pod)
    assert eventually(lambda: str(REAP_GROUP) not in node.sh("ip", "link"))
    assert _told(notices) == []


def test_only_nftables_leaves_open_whose_doing_it_was(node: Node) -> None:
    notices = _configured(node)
    node.sh("nft", "flush", "ruleset")
    node.call(node.dataplane.configure, LAYOUT)
    assert [change.maybe_ours for change in _told(notices)] == [True]
    node.sh("nft", "flush", "ruleset")
    node.sh("ip", "rule", "del", "priority", "1000")
    assert [change.maybe_ours for change in _told(notices)] == [False]


def test_more_than_the_kernel_can_keep_counts_as_a_change(node: Node) -> None:
    notices = _configured(node)
    rules = [f"priority 5000 from 10.9.{n // 200}.{n % 200} lookup main" for n in range(4000)]
    netns.ip_batch(node.name, [f"rule add {rule}" for rule in rules])
    assert [change.what for change in _told(notices)] == ["more than could be read"]
    node.sh("ip", "rule", "del", "priority", "1000")
    assert [change.lost for change in _told(notices)] == [True]


def test_what_berth_does_itself_wakes_nobody(node: Node) -> None:
    notices = _configured(node)
    pods = [attachment(f"dp-quiet-{n}", f"10.0.1.{36 + n}", netns_fd=node.pod(f"dp-quiet-{n}")) for n in range(4)]
    for pod in pods:
        node.call(node.dataplane.attach, pod)
        assert not select.select(notices.descriptors, [], [], 0.05)[0]
    node.sh("ip", "rule", "del", "priority", "1000")
    assert [change.lost for change in _told(notices)] == [True]
