"""CHECK names whatever the node's side lacks for a pod, piece by piece, and is content when it is there again."""

from __future__ import annotations

import pytest

from tests.netns.dataplane.site import A, Node, attachment, layout_of, two_nodes
from tests.netns.dataplane.watch import changes

LAYOUT = layout_of(two_nodes(), A)
SABOTAGE = {
    "ip rule del priority 1000": "rule 1000: lookup 300000000 is missing",
    "ip rule del priority 1010": "rule 1010: to 10.0.1.0/24 fwmark 0x80/0x80 lookup 300000001 is missing",
    "ip rule del priority 1011": "rule 1011: fwmark 0x80/0x80 lookup 254 is missing",
    "ip rule del from 10.0.1.48/28 priority 1020": "rule 1020: from 10.0.1.48/28 lookup 300000002 is missing",
    "ip rule del priority 1021 lookup 300000002": "rule 1021: fwmark 0x2/0x7f lookup 300000002 is missing",
    "ip route del unreachable 10.0.1.48/28 table 300000000": "table 300000000: unreachable 10.0.1.48/28 is missing",
    "ip route del 10.0.1.1 table 300000002": "table 300000002: 10.0.1.1/32 on the link is missing",
    "ip route del default dev eth1 table 300000002": "table 300000002: 0.0.0.0/0 via 10.0.1.1 is missing",
    "ip route replace default via 10.0.1.2 dev eth1 onlink table 300000002 proto 190": (
        "table 300000002: 0.0.0.0/0 via 10.0.1.1 is missing"
    ),
    "ip route del unreachable default table 300000002": "table 300000002: unreachable 0.0.0.0/0 is missing",
    "ip link set eth1 address 02:00:00:00:00:55": (
        "02:00:00:00:0d:a1: the interface of 10.0.1.49 has no link with this MAC"
    ),
    "nft flush ruleset": "nftables: the table ip berth is not as Berth loaded it",
    "nft flush chain ip berth rewrite": "nftables: the table ip berth is not as Berth loaded it",
    "nft delete element ip berth no_snat { 10.0.0.0/16 }": "nftables: the table ip berth is not as Berth loaded it",
    "nft insert rule ip berth choose accept": "nftables: the table ip berth is not as Berth loaded it",
}


@pytest.mark.parametrize("command", SABOTAGE)
def test_check_names_what_the_node_lacks(node: Node, command: str) -> None:
    node.call(node.dataplane.configure, LAYOUT)
    pod = attachment("dp-web", "10.0.1.49", netns_fd=node.pod("dp-web"))
    node.call(node.dataplane.attach, pod)
    with changes(node.name) as seen:
        assert node.call(node.dataplane.check, pod) == ()
    assert seen == []
    node.sh(*command.split())
    assert SABOTAGE[command] in [f"{p.where}: {p.message}" for p in node.call(node.dataplane.check, pod)]
    if " address " in command:
        node.sh("ip", "link", "set", "eth1", "address", LAYOUT.interfaces[1].mac)
    node.call(node.dataplane.configure, LAYOUT)
    assert node.call(node.dataplane.check, pod) == ()


def test_check_passes_over_what_other_interfaces_lack(node: Node) -> None:
    node.call(node.dataplane.configure, LAYOUT)
    pod = attachment("dp-web", "10.0.1.33", netns_fd=node.pod("dp-web"))
    node.call(node.dataplane.attach, pod)
    node.sh("ip", "route", "flush", "table", "300000002")
    node.sh("ip", "rule", "del", "from", "10.0.1.48/28", "priority", "1020")
    assert node.call(node.dataplane.check, pod) == ()


def test_check_before_the_first_configuration_looks_at_the_pod_alone(node: Node) -> None:
    pod = attachment("dp-web", "10.0.1.33", netns_fd=node.pod("dp-web"))
    node.call(node.dataplane.attach, pod)
    assert node.call(node.dataplane.check, pod) == ()
