"""The node's routing is a function of the layout: whatever is there before, and however often it is asked for."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from berth_node.seams import NodeLayout

from tests.netns.dataplane.site import A, Node, attachment, layout_of, two_nodes
from tests.netns.dataplane.watch import changes
from tests.sandbox import netns

LAYOUT = layout_of(two_nodes(), A)
SETTINGS = ("ip_forward", "conf/all/rp_filter", "conf/default/rp_filter", "conf/eth0/rp_filter", "conf/eth1/rp_filter")


def _state(node: Node) -> dict[str, object]:
    """Everything that configure() is to bring about."""
    lists = {
        "rules": node.sh("ip", "-4", "rule"),
        "routes": node.sh("ip", "-4", "route", "show", "table", "all"),
        "addresses": node.sh("ip", "-4", "-o", "addr"),
        "links": re.sub(r"^\d+: ", "", node.sh("ip", "-o", "link"), flags=re.MULTILINE),
    }
    state: dict[str, object] = {name: sorted(text.splitlines()) for name, text in lists.items()}
    state["nftables"] = node.sh("nft", "list", "ruleset")
    state["settings"] = [node.sh("cat", f"/proc/sys/net/ipv4/{name}").strip() for name in SETTINGS]
    return state


def _configure(node: Node, layout: NodeLayout = LAYOUT) -> list[str]:
    return [f"{p.where}: {p.message}" for p in node.call(node.dataplane.configure, layout)]


def test_configuring_twice_writes_nothing_the_second_time(node: Node) -> None:
    assert _configure(node) == []
    node.call(node.dataplane.attach, attachment("web", "10.0.1.33", netns_fd=node.pod("dp-web")))
    before = _state(node)
    with changes(node.name) as seen:
        assert _configure(node) == []
    assert seen == []
    assert _state(node) == before


def test_a_restarted_agent_rewrites_its_table_once_and_nothing_else(node: Node) -> None:
    _configure(node)
    before = _state(node)
    node.restart()
    with changes(node.name) as seen:
        assert _configure(node) == []
    assert not [change for change in seen if change.startswith("rtnetlink")]
    with changes(node.name) as seen:
        assert _configure(node) == []
    assert seen == []
    assert _state(node) == before


SABOTAGE = (
    "ip rule del priority 1000",
    "ip rule del priority 1010",
    "ip rule del priority 1011",
    "ip rule del priority 1020",
    "ip rule del priority 1021",
    "ip rule del priority 1022",
    "ip rule del priority 1030",
    "ip rule flush",
    "ip route flush table 300000000",
    "ip route flush table 300000001",
    "ip route flush table 300000002",
    "ip route del unreachable 10.0.1.48/28 table 300000000",
    "ip route replace default via 10.0.1.2 dev eth1 onlink table 300000002 proto 190",
    "ip route replace default via 10.0.1.1 dev eth0 onlink table 300000002 proto 190",
    "ip route add 10.9.0.0/16 via 10.0.1.1 dev eth0 onlink table 77 proto 190",
    "ip route replace blackhole default table 300000002 proto 190",
    "ip route add blackhole 10.9.0.0/16 table 77 proto 190",
    "ip rule add priority 1020 from 10.0.9.0/28 lookup 300000002 protocol 190",
    "ip addr del 10.0.1.20/32 dev eth1",
    "ip addr flush dev eth1",
    "ip addr add 10.0.1.70/32 dev eth1",
    "ip addr add 10.0.1.34/24 dev eth0",
    "ip link set eth1 down",
    "ip link set eth1 mtu 1500",
    "sysctl -q net.ipv4.ip_forward=0",
    "sysctl -q net.ipv4.conf.all.rp_filter=1",
    "sysctl -q net.ipv4.conf.eth1.rp_filter=0",
    "nft delete table ip berth",
    "nft flush ruleset",
    "nft flush chain ip berth choose",
    "nft flush map ip berth singles",
    "nft delete element ip berth no_snat { 10.0.0.0/16 }",
    "nft add element ip berth pods { 10.77.0.0/16 }",
    "nft insert rule ip berth choose accept",
)


@pytest.mark.parametrize("command", SABOTAGE)
def test_each_piece_that_is_destroyed_comes_back(node: Node, command: str) -> None:
    _configure(node)
    before = _state(node)
    node.sh(*command.split())
    assert _state(node) != before
    if command == "ip rule flush":  # takes the kernel's own ones too, and those are not Berth's to mend
        for table, priority in (("main", "32766"), ("default", "32767")):
            node.sh("ip", "rule", "add", "priority", priority, "lookup", table)
    assert _configure(node) == []
    after = _state(node)
    assert {k: v for k, v in after.items() if k != "rules"} == {k: v for k, v in before.items() if k != "rules"}
    assert _ours(node, "rule") == [line for line in before["rules"] if "proto 190" in line]  # type: ignore[attr-defined]
    with changes(node.name) as seen:
        _configure(node)
    assert seen == []


def _ours(node: Node, what: str) -> list[str]:
    return sorted(line for line in node.sh("ip", "-4", what).splitlines() if "proto 190" in line)


def test_what_others_made_stays(node: Node) -> None:
    foreign = (
        "ip rule add priority 1020 from 10.0.1.48/28 lookup 77",
        "ip rule add priority 999 from 10.8.0.0/16 lookup main protocol 4",
        "ip route add 10.8.0.0/16 via 10.0.1.1 dev eth0 table 77",
        "ip route add 10.8.1.0/24 via 10.0.1.1 dev eth0 table 300000002",
        "ip addr add 10.44.0.1/24 dev eth0",
        "ip addr add 169.254.20.10/32 dev lo",
        "nft add table ip other",
        "nft add chain ip other choose { type filter hook prerouting priority -95; }",
        "nft add rule ip other choose meta mark set 0x100",
        "nft add table inet berth",
        "iptables -t mangle -A PREROUTING -j MARK --set-mark 0x200/0xf00",
    )
    for command in foreign:
        node.sh(*command.split())
    before = _state(node)
    assert _configure(node) == []
    assert _configure(node, NodeLayout(())) == []
    after = _state(node)
    after["settings"] = before["settings"]
    for name in ("rules", "routes", "nftables"):
        lines, kept = _lines(before[name]), _lines(after[name])
        assert not [line for line in lines if line not in kept], name
    left = [line.split(":")[0] for line in _ours(node, "rule")]
    assert left == ["1000", "1011"]  # running pods keep their routes even if the layout is empty
    assert "table ip berth" in str(after["nftables"])
    assert not _ours(node, "route")


def _lines(value: object) -> list[str]:
    return value.splitlines() if isinstance(value, str) else list(value)  # type: ignore[call-overload]


def test_a_rule_that_only_resembles_one_of_ours_is_not_taken_for_it(node: Node) -> None:
    lookalikes = (
        "ip rule add from 10.0.1.48/28 ipproto tcp priority 1020 lookup 300000002 protocol 190",
        "ip rule add from 10.0.1.48/28 priority 1020 lookup 300000002 suppress_prefixlength 0 protocol 190",
        "ip rule add from 10.0.1.48/28 priority 1020 unreachable protocol 190",
    )
    for command in lookalikes:
        node.sh(*command.split())
    assert _configure(node) == []
    assert "1020:\tfrom 10.0.1.48/28 lookup 300000002 proto 190" in _ours(node, "rule")
    assert len([line for line in _ours(node, "rule") if "from 10.0.1.48/28" in line]) == len(lookalikes) + 1


def test_a_rule_that_the_kernel_takes_for_ours_is_reported(node: Node) -> None:
    lookalike = "ip rule add not from 10.0.1.48/28 priority 1020 lookup 300000002 protocol 190"
    node.sh(*lookalike.split())
    assert _configure(node) == [
        "rule 1020: another rule with protocol 190 is in its place; remove that one (ip rule del)"
    ]


def test_blocks_come_and_go(node: Node) -> None:
    _configure(node)
    first, second = LAYOUT.interfaces
    changed = replace(LAYOUT, interfaces=(first, replace(second, blocks=("10.0.1.96/28", "10.0.1.71/32"))))
    assert _configure(node, changed) == []
    state = str(_state(node))
    assert "from 10.0.1.96/28 lookup 300000002" in state
    assert "unreachable 10.0.1.96/28" in state
    assert "10.0.1.48/28" not in state
    assert "10.0.1.70" not in state
    assert _configure(node) == []
    assert "10.0.1.96" not in str(_state(node))


def test_a_pods_route_outlives_every_configuration_of_its_node(node: Node) -> None:
    _configure(node)
    web = attachment("web", "10.0.1.49", netns_fd=node.pod("dp-web"))
    node.call(node.dataplane.attach, web)
    for layout in (replace(LAYOUT, interfaces=LAYOUT.interfaces[:1]), NodeLayout(()), LAYOUT):
        _configure(node, layout)
        assert node.call(node.dataplane.check, web) == ()


def test_an_interface_that_is_not_there_yet_is_a_problem_and_the_others_work(node: Node) -> None:
    coming = replace(LAYOUT.interfaces[1], mac="02:00:00:00:0e:02", device_index=2, primary_address="10.0.1.200")
    coming = replace(coming, blocks=("10.0.1.208/28",))
    layout = replace(LAYOUT, interfaces=(*LAYOUT.interfaces, coming))
    assert _configure(node, layout) == [
        "02:00:00:00:0e:02: no link has this MAC (device index 2): not there yet",
    ]
    # its traffic has nowhere to go, rather than by another interface, where EC2 would drop it
    found = netns.run(A, ["ip", "route", "get", "1.1.1.1", "from", "10.0.1.209", "iif", "lo"], check=False)
    assert "unreachable" in found.stderr.lower() or "no route" in found.stderr.lower()
    node.sh("ip", "link", "add", "eth2", "address", coming.mac, "type", "veth", "peer", "name", "far")
    assert _configure(node, layout) == []
    assert "via 10.0.1.1 dev eth2" in node.sh("ip", "route", "show", "table", "300000003")
    assert "10.0.1.200/32" in node.sh("ip", "addr", "show", "dev", "eth2")


def test_a_link_that_shares_an_interfaces_mac_is_not_taken_for_it(node: Node) -> None:
    _configure(node)
    before = _state(node)
    node.sh("ip", "link", "add", "shadow", "address", LAYOUT.interfaces[1].mac, "type", "veth", "peer", "name", "far")
    _configure(node)
    assert _state(node)["routes"] == before["routes"]
    node.sh("ip", "link", "del", "shadow")


def test_a_primary_interface_without_its_address_is_a_problem_left_to_the_system(node: Node) -> None:
    node.sh("ip", "addr", "del", "10.0.1.10/24", "dev", "eth0")
    assert _configure(node) == ["eth0: it lacks its primary address 10.0.1.10; the OS configures it"]


def test_a_secondary_interface_that_the_system_configured_loses_its_on_link_route(node: Node) -> None:
    node.sh("ip", "addr", "add", "10.0.1.20/24", "dev", "eth1")
    node.sh("ip", "link", "set", "eth1", "up")
    assert _configure(node) == []
    assert "dev eth1" not in node.sh("ip", "route")
    assert [line.split()[3] for line in node.sh("ip", "-4", "-o", "addr", "show", "eth1").splitlines()] == [
        "10.0.1.20/32"
    ]


def test_pod_addresses_that_the_system_configured_are_removed_and_the_primary_address_stays(node: Node) -> None:
    # as cloud-init does: all addresses of an interface, and here a pod's is the first and so owns the subnet
    node.sh("ip", "addr", "flush", "dev", "eth0")
    for address in ("10.0.1.80/24", "10.0.1.10/24", "10.0.1.81/24"):
        node.sh("ip", "addr", "add", address, "dev", "eth0")
    node.sh("ip", "route", "add", "default", "via", "10.0.1.1", "dev", "eth0")
    assert _configure(node) == []
    assert [line.split()[3] for line in node.sh("ip", "-4", "-o", "addr", "show", "eth0").splitlines()] == [
        "10.0.1.10/24"
    ]
    assert "default via 10.0.1.1 dev eth0" in node.sh("ip", "route")


def test_a_pod_address_on_a_link_that_is_no_interface_of_ours_is_reported(node: Node) -> None:
    node.sh("ip", "addr", "add", "10.0.1.80/32", "dev", "lo")
    assert _configure(node) == ["lo: it has the pod address 10.0.1.80; remove it there (ip addr del)"]


def test_marks_stay_with_their_interface_when_another_one_comes_in_between(node: Node) -> None:
    first, second = LAYOUT.interfaces
    later = replace(second, device_index=3)
    _configure(node, replace(LAYOUT, interfaces=(first, later)))
    before = [line for line in _ours(node, "rule") if "/0x7f" in line]
    between = replace(second, mac="02:00:00:00:0e:02", device_index=2, primary_address="10.0.1.200", blocks=())
    _configure(node, replace(LAYOUT, interfaces=(first, later, between)))
    after = [line for line in _ours(node, "rule") if "/0x7f" in line]
    assert set(before) < set(after)


def test_without_snat_there_is_no_rewriting_and_nothing_leaves_by_main(node: Node) -> None:
    assert _configure(node, replace(LAYOUT, snat=False)) == []
    table = node.sh("nft", "list", "table", "ip", "berth")
    assert "snat" not in table.replace("no_snat", "")
    assert "goto external" not in table


def test_a_missing_nft_program_is_a_problem_that_says_what_to_install(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert _configure(node) == ["nftables: the nft program is missing; install nftables"]
