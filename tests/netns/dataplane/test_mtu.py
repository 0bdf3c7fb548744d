"""One MTU a node: the primary interface's. Other interfaces and pods follow it."""

from __future__ import annotations

import json

from tests.netns.dataplane.site import ONPREM, A, Node, attachment, layout_of, two_nodes
from tests.sandbox import netns
from tests.sandbox.echo import Failure
from tests.sandbox.ping import ping
from tests.sandbox.waiting import eventually

LAYOUT = layout_of(two_nodes(), A)
MTU, HEADERS = 1400, 28  # below what the way to ONPREM carries


def test_before_the_primary_link_was_seen_every_path_carries_a_pods_packets(bare: Node) -> None:
    assert bare.dataplane.primary_mtu() == 1500
    bare.call(bare.dataplane.configure, LAYOUT)
    assert bare.dataplane.primary_mtu() == 1500


def test_a_pod_on_a_secondary_interface_sends_packets_of_the_primarys_size_and_no_bigger(node: Node) -> None:
    node.sh("ip", "link", "set", "eth0", "mtu", str(MTU))
    assert node.call(node.dataplane.configure, LAYOUT) == ()
    assert node.dataplane.primary_mtu() == MTU
    assert json.loads(node.sh("ip", "-j", "link", "show", "eth1"))[0]["mtu"] == MTU
    for name, address in (("first", "10.0.1.33"), ("second", "10.0.1.49")):
        made = attachment(name, address, mtu=node.dataplane.primary_mtu(), netns_fd=node.pod(f"dp-{name}"))
        node.call(node.dataplane.attach, made)
    assert eventually(lambda: netns.settled(*netns.names()))
    for target in ("10.0.1.33", ONPREM):
        assert ping("dp-second", target, size=MTU - HEADERS).ok, target
        assert ping("dp-second", target, size=MTU - HEADERS + 1).failure is Failure.TOO_BIG, target
