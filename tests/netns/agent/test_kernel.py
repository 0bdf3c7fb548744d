"""The whole agent with the real data plane, as ``berth-node agent``: pods that can talk, before and after a restart."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.agent.conftest import PREFIX, Site, eventually
from tests.netns.agent.real import NODE, real_node
from tests.sandbox import netns
from tests.sandbox.ping import ping


@pytest.fixture
def kernel(plugin: Path, tmp_path: Path) -> Iterator[Site]:
    with real_node(plugin, tmp_path) as made:
        yield made


def test_pods_reach_each_other_and_their_node(kernel: Site) -> None:
    first, second = kernel.add("pod-a"), kernel.add("pod-b")
    assert ping("pod-a", second).ok
    assert ping("pod-b", first).ok
    assert ping("pod-a", "10.0.1.5").ok
    assert kernel.ask("status")["problems"] == []


def test_check_passes_and_finds_what_was_taken_away(kernel: Site) -> None:
    result = kernel.call("ADD", "pod-a").body
    assert kernel.call("CHECK", "pod-a", prevResult=result).code == 0
    netns.ip_batch("pod-a", ["route del default"])
    assert kernel.call("CHECK", "pod-a", prevResult=result).body["code"] == 100


def test_after_del_nothing_leads_to_the_pod_and_its_link_is_soon_gone(kernel: Site) -> None:
    body = kernel.call("ADD", "pod-a").body
    host = body["interfaces"][0]["name"]
    assert host in netns.run(NODE, ["ip", "-4", "route", "show", "table", "all"]).stdout
    assert kernel.call("DEL", "pod-a").code == 0
    assert host not in netns.run(NODE, ["ip", "-4", "route", "show", "table", "all"]).stdout
    eventually(lambda: host not in netns.run(NODE, ["ip", "link"]).stdout, "the link reaped")
    assert kernel.call("DEL", "pod-a").code == 0


@pytest.mark.parametrize("lost", [(), ("pods.journal",)])
def test_pods_go_on_over_a_killed_agent_and_a_lost_journal(kernel: Site, lost: tuple[str, ...]) -> None:
    first = kernel.add("pod-a")
    kernel.stop(signal.SIGKILL)
    for name in lost:
        Path("/run/berth", name).unlink()
        kernel.serve(PREFIX, revision=2, cooldown=3)  # what no pod holds cools in full
    kernel.start()
    assert [p["address"] for p in kernel.ask("pods")["pods"]] == [first]
    second = kernel.add("pod-b")
    assert second != first
    assert ping("pod-b", first).ok
    assert kernel.call("ADD", "pod-a").body["interfaces"][1]["mac"].count(":") == 5
    assert kernel.call("DEL", "pod-a").code == 0
    eventually(lambda: len(kernel.ask("pods")["pods"]) == 1, "one pod is left")


# Berth's own look on a timer is a minute away: what comes back within seconds came back by what the kernel told.
SOON = 15.0


@pytest.mark.parametrize(
    "command",
    [
        "ip route flush table 300000000",
        "ip rule del priority 1000",
        "ip rule del priority 1011",
        "nft flush ruleset",
        "nft flush chain ip berth choose",
        "ip link set HOST down",
        "ip neigh flush dev HOST nud permanent",
    ],
)
def test_what_something_else_takes_away_comes_back_by_itself(kernel: Site, command: str) -> None:
    result = kernel.call("ADD", "pod-a").body
    second = kernel.add("pod-b")
    assert ping("pod-a", second).ok
    netns.run(NODE, command.replace("HOST", result["interfaces"][0]["name"]).split())
    eventually(lambda: kernel.call("CHECK", "pod-a", prevResult=result).code == 0 and _whole(), "all is there", SOON)
    assert ping("pod-a", second).ok
    eventually(lambda: kernel.ask("status")["problems"] == [], "no problem is told", SOON)


def _whole() -> bool:
    rules = netns.run(NODE, ["ip", "rule"]).stdout
    table = netns.run(NODE, ["nft", "list", "table", "ip", "berth"], check=False).stdout
    return "1000:" in rules and "1011:" in rules and "vmap @singles" in table


def test_an_agent_that_starts_mends_pods_though_nobody_says_what_the_node_should_be(kernel: Site) -> None:
    result = kernel.call("ADD", "pod-a").body
    second = kernel.add("pod-b")
    kernel.stop()
    netns.ip_batch(NODE, ["route flush table 300000000"])
    kernel.cloud.record = None
    kernel.cloud.interfaces = []
    for copy in Path("/var/lib/berth").glob("record.*.json"):
        copy.unlink()
    kernel.start()
    assert kernel.call("CHECK", "pod-a", prevResult=result).code == 0
    assert ping("pod-a", second).ok


def test_a_program_that_keeps_undoing_the_work_is_told_and_slows_the_agent_down(kernel: Site) -> None:
    first, second = kernel.add("pod-a"), kernel.add("pod-b")
    undone = 0

    def undo() -> bool:
        nonlocal undone
        if "1000:" in netns.run(NODE, ["ip", "rule"]).stdout:
            netns.ip_batch(NODE, ["rule del priority 1000"])
            undone += 1
        return any("keeps undoing" in problem for problem in kernel.ask("status")["problems"])

    eventually(undo, "the fight is told", 60.0)
    assert undone >= 5
    eventually(lambda: "1000:" in netns.run(NODE, ["ip", "rule"]).stdout, "the last word is Berth's", SOON)
    assert ping("pod-a", second).ok
    assert ping("pod-b", first).ok


def test_the_next_pod_of_an_address_gets_none_of_the_last_ones_connections(kernel: Site) -> None:
    kernel.serve("10.0.1.9/32", revision=2, cooldown=0)
    eventually(lambda: kernel.ask("status")["assigned"] == 1, "only one address is left")
    address = kernel.add("pod-a")
    with netns.open_socket(NODE, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("10.0.1.5", 7000))
        server.listen()
        with netns.open_socket("pod-a", socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(("10.0.1.5", 7000))
            assert f"src={address}" in _connections()
            assert kernel.call("DEL", "pod-a").code == 0
            assert kernel.add("pod-b") == address
            assert f"src={address}" not in _connections()


def _connections() -> str:
    return netns.run(NODE, ["cat", "/proc/net/nf_conntrack"]).stdout
