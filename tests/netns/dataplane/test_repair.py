"""Pods' own pieces on the host come back, with live pods that talk; what is another's stays; what is nobody's goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
from berth_node.dataplane.messages import REAP_GROUP
from berth_node.dataplane.repair import HostSide, Repair
from berth_node.dataplane.rtnl import Rtnl
from berth_node.seams import Attachment

from tests.netns.dataplane.site import A as NODE
from tests.netns.dataplane.site import Node, attachment, layout_of, nodes, two_nodes
from tests.netns.dataplane.watch import changes
from tests.sandbox.fabric import Fabric
from tests.sandbox.ping import ping
from tests.sandbox.waiting import eventually

LAYOUT = layout_of(two_nodes(), NODE)
FIRST, SECOND = "10.0.1.33", "10.0.1.49"


@dataclass
class Pair:
    """A configured node with a pod on each interface."""

    node: Node
    pods: tuple[Attachment, ...]

    def mend(self) -> list[str]:
        problems = self.node.call(self.node.dataplane.configure, LAYOUT)
        problems += self.node.call(self.node.dataplane.repair, self.pods)
        return [f"{p.where}: {p.message}" for p in problems]

    def whole(self) -> bool:
        return all(self.node.call(self.node.dataplane.check, pod) == () for pod in self.pods)

    def talks(self) -> bool:
        return ping("dp-first", SECOND).ok and ping("dp-second", FIRST).ok


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Fabric() as fabric:
        fabric.apply(two_nodes())
        with nodes(NODE) as made:
            node = made[NODE]
            node.call(node.dataplane.configure, LAYOUT)
            pods = []
            for name, address in (("dp-first", FIRST), ("dp-second", SECOND)):
                pods.append(attachment(name, address, netns_fd=node.pod(name)))
                node.call(node.dataplane.attach, pods[-1])
            yield Pair(node, tuple(pods))


HOST = attachment("dp-first", FIRST).host_ifname
SABOTAGE = (
    "ip route flush table 300000000",
    f"ip route del {FIRST} table 300000000",
    f"ip route replace {FIRST} dev lo table 300000000",
    f"ip route replace unreachable {FIRST} table 300000000 proto 190",
    f"ip neigh del {FIRST} dev {HOST}",
    f"ip neigh replace {FIRST} lladdr 02:00:00:00:00:77 dev {HOST} nud permanent",
    f"ip neigh flush dev {HOST} nud permanent",
    f"ip link set {HOST} down",
    f"ip link set {HOST} address 02:00:00:00:00:77",
    f"ip link set {HOST} alias something",
    "ip rule flush",
    "ip rule del priority 1000",
    "ip addr flush dev eth1",
    "nft flush ruleset",
    "sysctl -q net.ipv4.ip_forward=0",
)


@pytest.mark.parametrize("command", SABOTAGE)
def test_each_piece_that_is_destroyed_comes_back_and_pods_talk_again(pair: Pair, command: str) -> None:
    assert pair.talks()
    before = _state(pair.node)
    pair.node.sh(*command.split())
    assert _state(pair.node) != before
    if command == "ip rule flush":  # the kernel's own ones are not Berth's to mend
        for table, priority in (("main", "32766"), ("default", "32767")):
            pair.node.sh("ip", "rule", "add", "priority", priority, "lookup", table)
    assert pair.mend() == []
    assert pair.whole()
    assert pair.talks()
    assert eventually(lambda: _state(pair.node) == before)
    with changes(NODE) as seen:
        assert pair.mend() == []
    assert seen == []


def _state(node: Node) -> list[list[str]]:
    """What a flushed piece is missing from. Rules are compared by content: the kernel's own ones come back unnamed."""
    rules = [line.replace("from all lookup", "lookup") for line in node.sh("ip", "-4", "rule").splitlines()]
    commands = (
        ["ip", "-4", "route", "show", "table", "all"],
        ["ip", "-4", "neigh", "show", "nud", "permanent"],
        ["ip", "-o", "link"],
        ["ip", "-4", "-o", "addr"],
        ["nft", "list", "ruleset"],
        ["sysctl", "net.ipv4.ip_forward"],
    )
    return [
        sorted(line for line in rules if "190" in line),
        *(sorted(node.sh(*command).splitlines()) for command in commands),
    ]


def test_a_pod_whose_link_is_gone_is_told_and_the_others_are_mended(pair: Pair) -> None:
    pair.node.sh("ip", "link", "del", HOST)
    pair.node.sh("ip", "route", "flush", "table", "300000000")
    assert pair.mend() == [f"{HOST}: the host link of {FIRST} is gone; delete the pod"]
    assert pair.node.call(pair.node.dataplane.check, pair.pods[1]) == ()


def test_the_link_of_another_container_is_left_alone(pair: Pair) -> None:
    first = pair.pods[0]
    later = attachment("dp-first", "10.0.1.40", container_id="later", netns_fd=pair.node.pod("dp-later"))
    pair.node.call(pair.node.dataplane.detach, first)
    pair.node.call(pair.node.dataplane.attach, later)
    assert eventually(lambda: str(REAP_GROUP) not in pair.node.sh("ip", "link"))
    with changes(NODE) as seen:
        found = pair.mend()  # with the list of before
    assert found == [f"{HOST}: the link belongs to 10.0.1.40 of another container; delete the pod"]
    assert seen == []
    assert pair.node.call(pair.node.dataplane.check, later) == ()


def test_a_link_that_a_del_has_just_taken_down_is_not_taken_up_again(pair: Pair) -> None:
    first = pair.pods[0]
    pair.node.sh("ip", "link", "set", first.host_ifname, "down", "group", str(REAP_GROUP))
    with changes(NODE) as seen:
        found = pair.mend()  # with the list of before
    assert found == [f"{HOST}: the host link of {first.address} is gone; delete the pod"]
    assert seen == []


def test_a_pod_that_the_list_does_not_have_yet_is_left_alone(pair: Pair) -> None:
    new = attachment("dp-new", "10.0.1.41", netns_fd=pair.node.pod("dp-new"))
    pair.node.call(pair.node.dataplane.attach, new)
    with changes(NODE) as seen:
        assert pair.mend() == []
    assert seen == []


def test_routes_of_ours_that_no_pod_has_are_swept_and_others_routes_stay(pair: Pair) -> None:
    pair.node.sh("ip", "route", "add", "10.0.1.44", "dev", "lo", "table", "300000000", "proto", "190")
    pair.node.sh("ip", "route", "add", "10.0.1.45", "dev", "lo", "table", "300000000")
    assert pair.mend() == []
    routes = pair.node.sh("ip", "route", "show", "table", "300000000")
    assert "10.0.1.44" not in routes
    assert "10.0.1.45" in routes
    assert pair.whole()


def test_a_link_of_ours_that_says_nothing_is_swept_after_a_minute(pair: Pair) -> None:
    node, now = pair.node, 1000.0
    number = 1 << 21
    ours = f"02:be:{number.to_bytes(4, 'big').hex(':')}"
    node.sh(*f"ip link add orphan index {number} address {ours} type veth peer name orphan-pod".split())
    stranger = "02:00:00:00:00:99"
    node.sh(*f"ip link add stranger address {stranger} type veth peer name stranger-pod".split())
    kernel = node.call(Rtnl)
    repair = Repair(kernel, clock=lambda: now)

    def links() -> str:
        return node.sh("ip", "-o", "link")

    assert node.call(repair.run, pair.pods) == ()
    now += 59.0
    assert node.call(repair.run, pair.pods) == ()
    assert "orphan" in links()
    now += 1.0
    assert node.call(repair.run, pair.pods) == ()
    assert f"group {REAP_GROUP}" in next(line for line in links().splitlines() if " orphan@" in line)
    assert pair.mend() == []  # the data plane's own reaper takes what is queued
    assert eventually(lambda: " orphan@" not in links())
    assert "stranger" in links()
    assert pair.talks()
    kernel.close()


def test_a_pod_that_its_plugin_takes_away_while_the_kernel_is_read_is_not_mended(pair: Pair) -> None:
    """Its link was there when links were read, its route was not when routes were."""

    class Reading(Repair):
        def _read(self, families: Iterable[int]) -> HostSide:
            found = super()._read(families)
            pair.node.sh("ip", "link", "set", HOST, "group", str(REAP_GROUP))
            return found

    pair.node.sh("ip", "route", "del", FIRST, "table", "300000000")
    kernel = pair.node.call(Rtnl)
    assert pair.node.call(Reading(kernel).run, pair.pods) == ()
    assert FIRST not in pair.node.sh("ip", "route", "show", "table", "300000000")
    assert pair.node.call(Repair(kernel).run, pair.pods[1:]) == ()
    kernel.close()


def test_a_nodes_pods_are_mended_in_one_look_however_many(bare: Node) -> None:
    many = [attachment(f"dp-{n}", f"10.0.2.{n}", netns_fd=bare.pod(f"dp-many-{n}")) for n in range(110)]
    for one in many:
        bare.call(bare.dataplane.attach, one)
    bare.sh("ip", "route", "flush", "table", "300000000")
    assert bare.call(bare.dataplane.repair, many) == ()
    assert all(bare.call(bare.dataplane.check, one) == () for one in many)
