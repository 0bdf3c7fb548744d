"""What Cilium, Calico, Tailscale and firewalld have in the kernel stays as it is, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth_node.portmap import PortMapping
from berth_node.seams import NodeLayout

from tests.netns.dataplane.site import A, Node, attachment, layout_of, lent, two_nodes
from tests.netns.dataplane.watch import changes
from tests.sandbox.foreign import CILIUM, TAILSCALE, Neighbour, calico, firewalld, theirs
from tests.sandbox.foreign.tailscale import OTHER_SITE

LAYOUT = layout_of(two_nodes(), A)
WEB = lent("web", "10.0.1.33", PortMapping("tcp", 8080, 80))
NEIGHBOURS = (CILIUM, TAILSCALE, calico([WEB.host_ifname]), firewalld(["10.0.0.0/16"]))
each = pytest.mark.parametrize("neighbour", NEIGHBOURS, ids=lambda n: n.name)


def _configure(node: Node, layout: NodeLayout = LAYOUT) -> list[str]:
    return [f"{p.where}: {p.message}" for p in node.call(node.dataplane.configure, layout)]


@each
def test_nothing_of_a_program_that_was_there_before_is_touched(node: Node, neighbour: Neighbour) -> None:
    neighbour.apply(node.name)
    before = theirs(node.name)
    assert before["nftables"]
    assert _configure(node) == []
    assert theirs(node.name) == before
    node.call(node.dataplane.attach, attachment("plain", "10.0.1.34", netns_fd=node.pod("dp-plain")))
    node.call(node.dataplane.attach, replace(WEB, netns_fd=node.pod("dp-web")))
    assert theirs(node.name) == before
    node.sh("nft", "flush", "table", "ip", "berth")
    node.sh("nft", "delete", "table", "ip", "berth-ports")
    assert _configure(node) == []
    node.restart()
    node.call(node.dataplane.adopt, node.call(node.dataplane.survey))
    assert _configure(node) == []
    node.call(node.dataplane.detach, WEB)
    assert _configure(node) == []
    assert _configure(node, NodeLayout(())) == []
    assert theirs(node.name) == before


@each
def test_a_program_that_comes_later_changes_nothing_that_must_be_mended(node: Node, neighbour: Neighbour) -> None:
    assert _configure(node) == []
    neighbour.apply(node.name)
    before = theirs(node.name)
    with changes(node.name) as seen:
        assert _configure(node) == []
    assert seen == []
    neighbour.remove(node.name)
    with changes(node.name) as seen:
        assert _configure(node) == []
    assert seen == []
    assert before != theirs(node.name)


def test_the_nodes_own_traffic_keeps_tailscales_routes_and_pods_keep_theirs(node: Node) -> None:
    TAILSCALE.apply(node.name)
    _configure(node)
    node.call(node.dataplane.attach, attachment("plain", "10.0.1.49", netns_fd=node.pod("dp-plain")))
    there = OTHER_SITE.replace("0.0/16", "0.9")
    assert "dev tailscale0" in node.sh("ip", "route", "get", there)
    assert "dev eth0" in node.sh("ip", "route", "get", there, "mark", "0x80000")
    link = attachment("plain", "").host_ifname
    assert "dev eth1" in node.sh("ip", "route", "get", there, "from", "10.0.1.49", "iif", link)
    # what docs/operations.md tells those who want pods to use them
    node.sh("ip", "rule", "add", "priority", "900", "to", OTHER_SITE, "lookup", "52")
    assert "dev tailscale0" in node.sh("ip", "route", "get", there, "from", "10.0.1.49", "iif", link)
    assert _configure(node) == []
    assert "dev tailscale0" in node.sh("ip", "route", "get", there, "from", "10.0.1.49", "iif", link)
