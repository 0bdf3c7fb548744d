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


def test_after_del_the_pods_link_is_gone(kernel: Site) -> None:
    body = kernel.call("ADD", "pod-a").body
    host = body["interfaces"][0]["name"]
    assert host in netns.run(NODE, ["ip", "link"]).stdout
    assert kernel.call("DEL", "pod-a").code == 0
    assert host not in netns.run(NODE, ["ip", "link"]).stdout
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
