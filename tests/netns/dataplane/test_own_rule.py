"""The rule of a pod with an interface of its own: made, told of, mended, known again, swept, taken away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from berth_node.seams import Attachment

from tests.netns.dataplane.site import A, Node, nodes
from tests.netns.dataplane.test_own_interface import OWN, POD, TABLE, layout, rules_of, world
from tests.netns.dataplane.watch import changes
from tests.sandbox.fabric import Fabric
from tests.sandbox.waiting import eventually


@pytest.fixture
def lone() -> Iterator[Node]:
    with Fabric() as fabric:
        fabric.apply(world())
        with nodes(A) as made:
            yield made[A]


def _wire(node: Node) -> None:
    assert node.call(node.dataplane.configure, layout()) == ()
    node.call(node.dataplane.attach, replace(POD, netns_fd=node.pod("own")))


def _problems(node: Node) -> list[str]:
    found = node.call(node.dataplane.check, replace(POD, netns_fd=node.descriptor("own")))
    return [f"{p.where}: {p.message}" for p in found]


SABOTAGE = (
    "ip rule del priority 990",
    "ip rule del priority 991",
    "ip rule del priority 992",
    "nft flush chain ip berth choose",
    f"ip route flush table {TABLE}",
    f"ip route del {OWN} table {TABLE}",
    f"ip addr add {OWN}/24 dev eth1",
    "nft flush ruleset",
    "nft flush map ip berth mine",
)


@pytest.mark.parametrize("command", SABOTAGE)
def test_each_piece_that_is_taken_away_is_told_and_comes_back(lone: Node, command: str) -> None:
    _wire(lone)
    assert _problems(lone) == []
    rules, routes = lone.sh("ip", "rule"), lone.sh("ip", "route", "show", "table", str(TABLE))
    lone.sh(*command.split())
    if "addr add" not in command:
        assert _problems(lone) != []
    assert lone.call(lone.dataplane.configure, layout()) == ()
    assert lone.call(lone.dataplane.repair, [POD]) == ()
    assert _problems(lone) == []
    assert (lone.sh("ip", "rule"), lone.sh("ip", "route", "show", "table", str(TABLE))) == (rules, routes)
    assert f"{OWN}/" not in lone.sh("ip", "-4", "-o", "addr")
    with changes(lone.name) as seen:
        lone.call(lone.dataplane.configure, layout())
        lone.call(lone.dataplane.repair, [POD])
    assert seen == []


def test_a_restarted_agent_knows_the_pod_from_the_kernel_and_leaves_its_rule(lone: Node) -> None:
    _wire(lone)
    before = lone.sh("ip", "rule")
    lone.restart()
    (found,) = lone.call(lone.dataplane.survey)
    assert (found.address, found.table) == (OWN, TABLE)
    assert lone.call(lone.dataplane.configure, layout()) == ()
    assert lone.call(lone.dataplane.repair, []) == (), "an older list takes nothing from what the kernel knows"
    assert lone.sh("ip", "rule") == before


def test_a_pod_that_is_taken_down_takes_its_rule_and_route_along(lone: Node) -> None:
    _wire(lone)
    lone.call(lone.dataplane.detach, POD)
    assert rules_of(lone) == []
    assert OWN not in lone.sh("ip", "route", "show", "table", str(TABLE))
    lone.call(lone.dataplane.detach, POD)


def test_a_list_from_before_a_del_brings_no_rule_back(lone: Node) -> None:
    """The agent lists its pods, then a DEL comes, then the list is looked through."""
    _wire(lone)
    lone.call(lone.dataplane.detach, POD)
    lone.call(lone.dataplane.repair, [POD])
    assert rules_of(lone) == [], "the link is buried"
    assert eventually(lambda: POD.host_ifname not in lone.sh("ip", "link"))
    lone.sh("ip", "link", "add", POD.host_ifname, "type", "veth", "peer", "name", "strange")
    lone.call(lone.dataplane.repair, [POD])
    assert rules_of(lone) == [], "another link has the name"
    lone.sh("ip", "link", "del", POD.host_ifname)
    lone.call(lone.dataplane.repair, [POD])
    assert rules_of(lone) == [], "there is no link"
    next_one = replace(POD, container_id="another", address="10.0.1.34", table=0, netns_fd=lone.pod("next"))
    lone.call(lone.dataplane.attach, next_one)
    lone.call(lone.dataplane.repair, [POD])
    assert rules_of(lone) == [], "another pod has the name"


def test_a_rule_of_a_pod_that_is_gone_is_swept(lone: Node) -> None:
    lone.call(lone.dataplane.configure, layout())
    lone.sh(*f"ip rule add priority 990 iif enigone fwmark 0/0x80 lookup {TABLE} protocol 190".split())
    assert len(rules_of(lone)) == 1
    lone.call(lone.dataplane.repair, [])
    assert rules_of(lone) == []


def test_a_refused_pod_leaves_no_rule(lone: Node) -> None:
    lone.call(lone.dataplane.configure, layout())
    closed = os.open("/dev/null", os.O_RDONLY)
    wanted: Attachment = replace(POD, netns_fd=closed)
    with pytest.raises(Exception, match="wiring"):
        lone.call(lone.dataplane.attach, wanted)
    os.close(closed)
    assert rules_of(lone) == []
