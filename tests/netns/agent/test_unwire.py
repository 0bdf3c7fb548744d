"""A DEL that waits for nobody: the plugin takes the pod from the kernel as the agent has left word, and tells it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from berth_node.names import host_ifname

from tests.netns.agent.conftest import RUN, Site, eventually
from tests.netns.agent.real import NODE, real_node
from tests.sandbox import netns
from tests.sandbox.ping import ping

WHO: Final[dict[str, Any]] = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u1"}
WORD: Final = RUN / "unwire" / host_ifname("pod-a", "eth0", "default", "web")
REAPED: Final = 0x62657274


@pytest.fixture
def kernel(plugin: Path, tmp_path: Path) -> Iterator[Site]:
    with real_node(plugin, tmp_path) as made:
        yield made


@pytest.fixture
def pod(kernel: Site) -> str:
    """A pod's address; the agent has left word of it."""
    address = kernel.add("pod-a", **WHO)
    eventually(WORD.exists, "word is left")
    return address


def living() -> list[str]:
    """The node's pod links that no DEL has been to."""
    links = json.loads(netns.run(NODE, ["ip", "-j", "-d", "link"]).stdout)
    return [k["ifname"] for k in links if k["ifname"].startswith("eni") and k.get("group") != str(REAPED)]


def routes() -> str:
    return netns.run(NODE, ["ip", "route", "show", "table", "all", "proto", "190"]).stdout


def held(site: Site) -> list[str]:
    return [pod["address"] for pod in site.ask("pods")["pods"]]


def stop(site: Site) -> None:
    """It is there, and hears nothing."""
    assert site.process
    site.process.send_signal(signal.SIGSTOP)


def nothing_left(site: Site, address: str) -> None:
    eventually(lambda: held(site) == [], "the address is free")
    eventually(lambda: "eni" not in netns.run(NODE, ["ip", "link"]).stdout, "the links are gone")
    assert f"{address} dev" not in routes()


def test_a_del_is_over_before_the_agent_has_heard_of_it(kernel: Site, pod: str) -> None:
    stop(kernel)
    answer = kernel.call("DEL", "pod-a", **WHO)
    assert (answer.code, answer.text) == (0, "")
    assert f"{pod} dev" not in routes()
    assert living() == []
    assert kernel.process
    kernel.process.send_signal(signal.SIGCONT)
    nothing_left(kernel, pod)
    eventually(lambda: not WORD.exists(), "word is taken back")
    assert kernel.add("pod-b") != pod, "it cools"


def test_an_agent_that_dies_with_the_del_unread_frees_the_address_at_its_next_start(kernel: Site, pod: str) -> None:
    stop(kernel)
    assert kernel.call("DEL", "pod-a", **WHO).code == 0
    kernel.stop(signal.SIGKILL)
    kernel.start()
    nothing_left(kernel, pod)
    assert not WORD.exists()
    assert kernel.add("pod-b") != pod, "it cools"


@pytest.mark.long
def test_without_an_agent_the_pod_is_taken_away_and_the_del_kept(kernel: Site, pod: str) -> None:
    kernel.stop(signal.SIGKILL)
    assert kernel.call("DEL", "pod-a", **WHO).code == 0
    assert living() == []
    assert len(list((RUN / "spool").iterdir())) == 1
    kernel.start()
    nothing_left(kernel, pod)
    eventually(lambda: not list((RUN / "spool").iterdir()), "the kept DEL is done")


def test_a_late_del_of_an_earlier_container_leaves_the_later_ones_pod(kernel: Site, pod: str) -> None:
    assert kernel.call("DEL", "pod-a", **WHO).code == 0
    nothing_left(kernel, pod)
    address = kernel.add("pod-b", **WHO)
    eventually(lambda: WORD.exists() and b"pod-b" in WORD.read_bytes(), "word is left of the later one")
    assert kernel.call("DEL", "pod-a", **WHO).code == 0
    assert held(kernel) == [address]
    assert ping("pod-b", "10.0.1.5").ok


def test_word_that_is_out_of_date_takes_nothing_away(kernel: Site, pod: str) -> None:
    """The route by which it says that this link is still the pod's is not there any more, so the link is let be."""
    word = WORD.read_bytes()
    assert kernel.call("DEL", "pod-a", **WHO).code == 0
    nothing_left(kernel, pod)
    eventually(lambda: not WORD.exists(), "word is taken back")
    other = kernel.add("pod-b")
    WORD.write_bytes(word)
    assert kernel.call("DEL", "pod-a", **WHO).code == 0
    assert held(kernel) == [other]
    assert ping("pod-b", "10.0.1.5").ok


@pytest.mark.long
def test_what_a_plugin_that_died_has_left_the_agent_takes_away(kernel: Site, pod: str) -> None:
    """Between its two parts: the routes are gone, the link is not."""
    netns.run(NODE, ["ip", "route", "del", pod, "table", _table(pod)])
    assert kernel.call("DEL", "pod-a", **WHO).code == 0
    nothing_left(kernel, pod)


def _table(address: str) -> str:
    (line,) = (line for line in routes().splitlines() if line.startswith(f"{address} "))
    return line.partition(" table ")[2].split()[0]


@pytest.mark.long
def test_word_is_left_again_by_the_next_agent(kernel: Site, pod: str) -> None:
    kernel.stop()
    WORD.unlink()
    kernel.start()
    eventually(WORD.exists, "word is left")
    stop(kernel)
    assert kernel.call("DEL", "pod-a", **WHO).code == 0
    assert living() == []
    assert kernel.process
    kernel.process.send_signal(signal.SIGCONT)
    nothing_left(kernel, pod)


def test_pods_whose_end_needs_more_are_the_agents(kernel: Site) -> None:
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    kernel.call("ADD", "pod-p", runtimeConfig=ports)
    kernel.call("ADD", "pod-n", CNI_IFNAME="net1")
    kernel.add("pod-a", **WHO)
    eventually(WORD.exists, "word is left")
    assert list(WORD.parent.iterdir()) == [WORD]
    assert WORD.stat().st_mode & 0o777 == 0o600


@pytest.mark.long
def test_no_word_is_left_where_plugins_are_to_do_nothing(kernel: Site, pod: str) -> None:
    kernel.settings["plugin_makes_links"] = False
    kernel.stop()
    kernel.start()
    assert not WORD.exists(), "an earlier agent's"
    kernel.add("pod-b")
    sent = len(kernel.cloud.reports)
    eventually(lambda: len(kernel.cloud.reports) > sent + 2, "more than two seconds have passed")
    assert list(WORD.parent.iterdir()) == []
    assert kernel.call("DEL", "pod-a", **WHO).code == 0
    assert pod not in held(kernel)
