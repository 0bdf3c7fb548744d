"""The table of host ports: there with the first pod that has some, and again whatever becomes of it."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from berth_node.dataplane.ports import TABLE
from berth_node.portmap import PortMapping
from berth_node.seams import Attachment

from tests.netns.dataplane.site import ONPREM, A, Node, attachment, layout_of, lent, two_nodes
from tests.netns.dataplane.watch import changes
from tests.sandbox import netns
from tests.sandbox.echo import PORT, EchoServers, read_answer
from tests.sandbox.waiting import eventually

A0 = "10.0.1.10"
LAYOUT = layout_of(two_nodes(), A)
WEB = lent("web", "10.0.1.33", PortMapping("tcp", 8080, 80), PortMapping("udp", 53, 5353, A0))


def _table(node: Node) -> str:
    return netns.run(node.name, ["nft", "-s", "list", "table", "ip", TABLE], check=False).stdout


def _attach(node: Node, one: Attachment) -> Attachment:
    made = replace(one, netns_fd=node.pod(f"dp-{one.container_id}"))
    node.call(node.dataplane.attach, made)
    return made


def _configure(node: Node) -> list[str]:
    return [f"{p.where}: {p.message}" for p in node.call(node.dataplane.configure, LAYOUT)]


def test_without_host_ports_there_is_no_table_and_nft_is_not_asked(node: Node) -> None:
    _configure(node)
    _attach(node, attachment("plain", "10.0.1.34"))
    with changes(node.name) as seen:
        node.call(node.dataplane.detach, attachment("plain", "10.0.1.34"))
    assert not [change for change in seen if change.startswith("nft")]
    assert _table(node) == ""


def test_a_pods_ports_come_with_it_and_go_with_it(node: Node) -> None:
    _configure(node)
    web = _attach(node, WEB)
    other = _attach(node, lent("other", "10.0.1.34", PortMapping("sctp", 8080, 80)))
    assert "tcp . 8080 : 10.0.1.33 . 80" in _table(node)
    assert f"{A0} . udp . 53 : 10.0.1.33 . 5353" in _table(node)
    assert "sctp . 8080 : 10.0.1.34 . 80" in _table(node)
    node.call(node.dataplane.detach, web)
    assert "10.0.1.33" not in _table(node)
    assert "10.0.1.34" in _table(node)
    node.call(node.dataplane.detach, other)
    assert "elements" not in _table(node)
    assert _configure(node) == []
    assert _table(node) == ""


def test_a_later_container_of_the_pod_takes_its_ports_over_and_the_first_ones_delete_leaves_them(node: Node) -> None:
    _configure(node)
    first = _attach(node, WEB)
    _attach(node, replace(WEB, container_id="later", address="10.0.1.35"))
    assert "10.0.1.33" not in _table(node)
    node.call(node.dataplane.detach, first)
    assert "tcp . 8080 : 10.0.1.35 . 80" in _table(node)


def _ask_from(port: int, host_port: int) -> str:
    """What one datagram from this port of a client outside hears."""
    with netns.open_socket("onprem", kind=socket.SOCK_DGRAM) as sock:
        sock.settimeout(2.0)
        sock.bind((ONPREM, port))
        sock.connect((A0, host_port))
        sock.send(b"who?")
        return read_answer(sock).told


def test_a_udp_client_that_keeps_sending_reaches_the_pod_that_has_the_port_now(node: Node) -> None:
    _configure(node)
    mapped = PortMapping("udp", 8053, PORT)
    with EchoServers() as servers:
        assert _ask_from(4444, 8053) == "refused"  # conntrack remembers it as a flow to the node itself
        for name, address in (("first", "10.0.1.33"), ("second", "10.0.1.34")):
            made = _attach(node, lent(name, address, mapped))
            servers.add(f"dp-{made.container_id}", name=name)
            assert eventually(lambda wanted=f"{name} {ONPREM}": _ask_from(4444, 8053) == wanted)  # type: ignore[misc]
            node.call(node.dataplane.detach, made)


SABOTAGE = (
    "flush ruleset",
    f"delete table ip {TABLE}",
    f"flush chain ip {TABLE} back",
    f"flush map ip {TABLE} by_port",
    f"flush set ip {TABLE} pods",
    f"delete element ip {TABLE} by_address {{ {A0} . udp . 53 }}",
    f"add element ip {TABLE} by_port {{ tcp . 22 : 10.0.1.33 . 22 }}",
    f"insert rule ip {TABLE} lent accept",
)


@pytest.mark.parametrize("command", SABOTAGE)
def test_each_piece_that_is_destroyed_comes_back(node: Node, command: str) -> None:
    _configure(node)
    _attach(node, WEB)
    before = _table(node)
    node.sh("nft", *command.split())
    assert _table(node) != before
    assert _configure(node) == []
    assert _table(node) == before
    with changes(node.name) as seen:
        assert _configure(node) == []
    assert seen == []


@pytest.mark.parametrize("command", ["", *SABOTAGE[:4]])
def test_a_restarted_agent_restores_what_it_adopts(node: Node, command: str) -> None:
    _configure(node)
    made = _attach(node, WEB)
    before = _table(node)
    if command:
        node.sh("nft", *command.split())
    node.restart()
    node.call(node.dataplane.adopt, node.call(node.dataplane.survey))
    assert _configure(node) == []
    assert _table(node) == before
    assert node.call(node.dataplane.check, made) == ()


def test_what_a_restarted_agent_does_not_adopt_goes(node: Node) -> None:
    _configure(node)
    _attach(node, WEB)
    node.restart()
    assert _configure(node) == []
    assert _table(node) == ""


def test_of_two_containers_of_a_pod_the_later_one_has_the_port_after_a_restart_too(node: Node) -> None:
    first = lent("web", "10.0.1.33", PortMapping("tcp", 8080, 80))
    later = lent("web", "10.0.1.35", PortMapping("tcp", 8080, 81))
    node.call(node.dataplane.adopt, [first, later])
    assert _configure(node) == []
    assert "tcp . 8080 : 10.0.1.35 . 81" in _table(node)
    node.call(node.dataplane.detach, first)
    assert _configure(node) == []
    assert "tcp . 8080 : 10.0.1.35 . 81" in _table(node)


def test_a_pod_whose_ports_are_forgotten_loses_the_way_to_the_nodes_loopback(node: Node) -> None:
    def setting() -> str:
        return node.sh("cat", f"/proc/sys/net/ipv4/conf/{WEB.host_ifname}/route_localnet").strip()

    _configure(node)
    _attach(node, WEB)
    assert setting() == "1"
    node.restart()
    node.call(node.dataplane.adopt, [replace(WEB, ports=""), attachment("gone", "10.0.1.40")])
    assert setting() == "0"


@pytest.mark.parametrize("command", SABOTAGE[:4])
def test_a_pod_comes_and_goes_while_the_table_is_damaged(node: Node, command: str) -> None:
    _configure(node)
    web = _attach(node, WEB)
    node.sh("nft", *command.split())
    _attach(node, lent("other", "10.0.1.34", PortMapping("tcp", 8081, 80)))
    assert "tcp . 8081 : 10.0.1.34 . 80" in _table(node)
    node.sh("nft", *command.split())
    node.call(node.dataplane.detach, web)
    assert "10.0.1.33" not in _table(node)


def test_check_names_the_mapping_that_is_missing(node: Node) -> None:
    _configure(node)
    made = _attach(node, WEB)
    assert node.call(node.dataplane.check, made) == ()
    node.sh("nft", *SABOTAGE[5].split())
    told = [f"{p.where}: {p.message}" for p in node.call(node.dataplane.check, made)]
    assert told == [f"host port {A0}:53/udp: nftables does not lead it to 10.0.1.33"]
    node.sh("nft", *SABOTAGE[2].split())
    assert [p.where for p in node.call(node.dataplane.check, made)] == [f"nftables table ip {TABLE}"]
