"""A node's IPv6 routing is a function of the layout: made, made again, and taken away without a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from berth_node.install.kernel import clean
from berth_node.seams import NodeLayout

from tests.netns.dataplane.site import A, Node, attachment, layout_of, nodes
from tests.netns.dataplane.site6 import A0, dual_nodes, dual_pods
from tests.netns.dataplane.watch import changes
from tests.sandbox import netns
from tests.sandbox.fabric import Fabric
from tests.sandbox.waiting import eventually

LAYOUT = layout_of(dual_nodes(), A)
IPV4 = replace(LAYOUT, ipv6=False, interfaces=tuple(replace(i, ipv6_blocks=()) for i in LAYOUT.interfaces))
SETTINGS = ("conf/all/forwarding", "conf/eth0/accept_ra", "conf/eth1/accept_ra")


@pytest.fixture
def node() -> Iterator[Node]:
    """Node A in a VPC of its own; it has heard of the router, and is not configured."""
    with Fabric() as fabric:
        fabric.apply(dual_nodes())
        assert eventually(lambda: _defaults(A) == {"eth0"})
        with nodes(A) as made:
            yield made[A]


def _defaults(where: str) -> set[str]:
    shown = json.loads(netns.run(where, ["ip", "-6", "-j", "route", "show", "default"]).stdout)
    return {route["dev"] for route in shown}


def _lines(node: Node, *command: str) -> list[str]:
    return sorted(line.strip() for line in node.sh(*command).splitlines())


def _state(node: Node) -> dict[str, object]:
    """Everything of IPv6 that configure() is to bring about."""
    return {
        "rules": [line for line in _lines(node, "ip", "-6", "rule") if "proto 190" in line],
        "routes": _lines(node, "ip", "-6", "route", "show", "table", "all", "proto", "190"),
        "own": _lines(node, "ip", "-6", "-o", "addr", "show", "scope", "global"),
        "nftables": node.sh("nft", "list", "ruleset", "ip6"),
        "settings": [node.sh("cat", f"/proc/sys/net/ipv6/{name}").strip() for name in SETTINGS],
    }


def _configure(node: Node, layout: NodeLayout = LAYOUT) -> list[str]:
    return [f"{p.where}: {p.message}" for p in node.call(node.dataplane.configure, layout)]


def test_configuring_twice_writes_nothing_the_second_time(node: Node) -> None:
    assert _configure(node) == []
    four, six = dual_pods(A)["a1-prefix"]
    node.call(node.dataplane.attach, attachment("web", four, address6=six, netns_fd=node.pod("dp-web")))
    before = _state(node)
    with changes(node.name) as seen:
        assert _configure(node) == []
    assert seen == []
    assert _state(node) == before


def test_the_way_out_that_the_router_advertised_outlives_forwarding(node: Node) -> None:
    with changes(node.name) as seen:
        assert _configure(node) == []
    assert "rtnetlink message 25" not in seen  # RTM_DELROUTE: it was there all the time
    assert _state(node)["settings"] == ["1", "2", "0"]
    assert _defaults(A) == {"eth0"}
    assert A0 in node.sh("ip", "-6", "addr", "show", "dev", "eth0")


def test_advertisements_that_somebody_else_listens_to_are_left_to_them(node: Node) -> None:
    netns.sysctl(A, {"ipv6/conf/eth0/accept_ra": 0})  # as systemd-networkd does
    assert _configure(node) == []
    assert _state(node)["settings"] == ["1", "0", "0"]


def test_without_ipv6_nothing_of_it_is_there(node: Node) -> None:
    netns.sysctl(A, {"ipv6/conf/all/forwarding": 0})
    before = _state(node)
    assert _configure(node, IPV4) == []
    assert _state(node) == before
    assert before["rules"] == before["routes"] == []
    assert before["nftables"] == ""


@pytest.mark.parametrize("restarted", [False, True])
def test_what_the_policy_no_longer_asks_for_is_swept(node: Node, restarted: bool) -> None:
    _configure(node)
    if restarted:
        node.restart()
    assert _configure(node, IPV4) == []
    state = _state(node)
    assert (state["rules"], state["routes"], state["nftables"]) == ([], [], "")
    with changes(node.name) as seen:
        assert _configure(node, IPV4) == []
    assert seen == []
    assert _configure(node) == []  # and comes back
    assert len(_state(node)["rules"]) == 6  # type: ignore[arg-type]


def test_uninstall_takes_all_of_it_away(node: Node) -> None:
    _configure(node)
    four, six = dual_pods(A)["a1-prefix"]
    node.call(node.dataplane.attach, attachment("web", four, address6=six, netns_fd=node.pod("dp-web")))
    assert node.call(clean) == ()
    state = _state(node)
    assert (state["rules"], state["routes"], state["nftables"]) == ([], [], "")
    assert "eni" not in node.sh("ip", "link")


SABOTAGE = (
    "ip -6 rule del priority 1000",
    "ip -6 rule del priority 1010",
    "ip -6 rule del priority 1011",
    "ip -6 rule del priority 1020",
    "ip -6 rule del priority 1030",
    "ip -6 rule add priority 1020 from 2001:db8:9::/80 lookup 300000002 protocol 190",
    "ip -6 route flush table 300000000",
    "ip -6 route flush table 300000001",
    "ip -6 route flush table 300000002",
    "ip -6 route del unreachable 2001:db8:1:1:b::/80 table 300000000",
    "ip -6 route replace default via fe80::2 dev eth1 table 300000002 proto 190",
    "ip -6 route replace default via fe80:ec2::1 dev eth0 table 300000002 proto 190",
    "ip -6 route add 2001:db8:9::/64 dev eth0 table 77 proto 190",
    "ip -6 route add blackhole 2001:db8:9::/64 table 77 proto 190",
    "ip -6 addr add 2001:db8:1:1:b::7/128 dev eth1 nodad",
    "sysctl -q net.ipv6.conf.all.forwarding=0",
    "sysctl -q net.ipv6.conf.eth0.accept_ra=1",
    "nft delete table ip6 berth",
    "nft flush ruleset",
    "nft flush chain ip6 berth choose",
    "nft add element ip6 berth pods { 2001:db8:77::/64 }",
    "nft insert rule ip6 berth entry accept",
)


@pytest.mark.parametrize("command", SABOTAGE)
def test_each_piece_that_is_destroyed_comes_back(node: Node, command: str) -> None:
    _configure(node)
    before = _state(node)
    node.sh(*command.split())
    assert _state(node) != before
    assert _configure(node) == []
    assert _state(node) == before
    with changes(node.name) as seen:
        assert _configure(node) == []
    assert seen == []


def test_what_others_made_stays(node: Node) -> None:
    foreign = (
        "ip -6 rule add priority 1020 from 2001:db8:8::/64 lookup 77",
        "ip -6 route add 2001:db8:8::/64 dev eth0 table 77",
        "ip -6 route add 2001:db8:8::/64 dev eth0 table 300000002",
        "ip -6 addr add 2001:db8:8::9/128 dev lo nodad",
        "nft add table ip6 other",
        "nft add chain ip6 other choose { type filter hook prerouting priority -95; }",
    )
    for command in foreign:
        node.sh(*command.split())
    assert _configure(node) == []
    assert _configure(node, IPV4) == []
    assert "from 2001:db8:8::/64 lookup 77" in node.sh("ip", "-6", "rule")
    for table in ("77", "300000002"):
        assert "2001:db8:8::/64" in node.sh("ip", "-6", "route", "show", "table", table)
    assert "2001:db8:8::9" in node.sh("ip", "-6", "addr")
    assert "table ip6 other" in node.sh("nft", "list", "ruleset")


def test_an_interface_whose_link_is_gone_leads_its_pods_nowhere(node: Node) -> None:
    _configure(node)
    node.sh("ip", "link", "set", "eth1", "address", "02:00:00:00:0e:99")
    assert _configure(node) == [f"{LAYOUT.interfaces[1].mac}: no link has this MAC (device index 1): not there yet"]
    command = ["ip", "-6", "route", "get", "2001:db8:ffff::10", "from", "2001:db8:1:1:b::9", "iif", "lo"]
    assert netns.run(A, command, check=False).returncode != 0


def test_an_interface_that_comes_while_forwarding_is_on_hears_no_router(node: Node) -> None:
    first, second = LAYOUT.interfaces
    _configure(node, replace(LAYOUT, interfaces=(first,)))
    node.sh("ip", "link", "set", "eth1", "up")
    assert _configure(node) == []
    assert _defaults(A) == {"eth0"}
    assert second.ipv6_blocks[0] in node.sh("ip", "-6", "rule")


@pytest.mark.parametrize("gone", ["rules", "routes", "nftables"])
def test_check_names_what_a_pod_lacks_of_the_node(node: Node, gone: str) -> None:
    _configure(node)
    four, six = dual_pods(A)["a1-prefix"]
    web = attachment("web", four, address6=six, netns_fd=node.pod("dp-web"))
    node.call(node.dataplane.attach, web)
    assert node.call(node.dataplane.check, web) == ()
    command, told = {
        "rules": (
            "ip -6 rule del priority 1020 from 2001:db8:1:1:b::/80",
            "rule 1020: from 2001:db8:1:1:b::/80 lookup",
        ),
        "routes": ("ip -6 route flush table 300000002", "table 300000002: ::/0 via fe80:ec2::1 is missing"),
        "nftables": ("nft flush chain ip6 berth choose", "nftables: the table ip6 berth is not as Berth loaded it"),
    }[gone]
    node.sh(*command.split())
    assert told in " ".join(f"{p.where}: {p.message}" for p in node.call(node.dataplane.check, web))


def test_rules_grow_with_prefixes_and_never_with_pods(node: Node) -> None:
    _configure(node)
    before = len(_state(node)["rules"])  # type: ignore[arg-type]
    pods = [attachment(f"p{n}", f"10.0.1.{n}", address6=f"2001:db8:1:1:b:0:a00:{n:x}") for n in range(49, 60)]
    for pod in pods:
        node.call(node.dataplane.attach, replace(pod, netns_fd=node.pod(f"dp-{pod.name}")))
    assert _configure(node) == []
    assert len(_state(node)["rules"]) == before  # type: ignore[arg-type]
