"""The plugin makes a pod's links and finishes them, the agent decides: with the real plugin, and with one that dies."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from berth_node.dataplane import messages, pairs
from berth_node.dataplane.pods import macs
from berth_node.dataplane.rtnl import NLM_F_ACK, Rtnl, pack
from berth_node.names import host_ifname
from berth_node.seams import FIRST_PAIR_INDEX

from tests.netns.agent.conftest import RUN, Answer, Site, eventually
from tests.netns.agent.real import NODE, real_node
from tests.netns.dataplane.watch import changes
from tests.sandbox import netns
from tests.sandbox.ping import ping
from tests.sandbox.world import netns_path

INDEX: Final = FIRST_PAIR_INDEX + 4242
MTU: Final = 1500  # of the node's interface
WHO: Final[dict[str, Any]] = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u1"}


@pytest.fixture
def kernel(plugin: Path, tmp_path: Path) -> Iterator[Site]:
    with real_node(plugin, tmp_path) as made:
        eventually((RUN / "pair").exists, "the form is there")
        yield made


def links() -> dict[str, int]:
    """The node's pod links: index by name, whatever has become of them."""
    found = json.loads(netns.run(NODE, ["ip", "-j", "link"]).stdout)
    return {link["ifname"]: link["ifindex"] for link in found if link["ifname"].startswith("eni")}


def held(site: Site) -> list[str]:
    return [pod["address"] for pod in site.ask("pods")["pods"]]


def by_plugin(body: Any) -> bool:
    """Whether the plugin made the link of this result."""
    return links()[body["interfaces"][0]["name"]] >= FIRST_PAIR_INDEX


@dataclass
class Plugin:
    """A plugin that can stop anywhere."""

    site: Site
    container: str = "pod-x"
    peer: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.name = host_ifname(self.container, "eth0", "default", "web")
        self.path = self.site.pod(self.container)

    def ask(self, mtu: int = MTU) -> None:
        """The request, which says that the pair is being made."""
        variables = self.site.environment("ADD", self.container, **WHO) | {"BERTH_TAKES": "short"}
        variables["BERTH_LINK"] = f"{INDEX} {mtu} {self.name}"
        config = json.dumps({"cniVersion": "1.1.0", "name": "berth", "type": "berth"})
        body = "".join(f"{k}={v}\0" for k, v in variables.items()) + "\0" + config
        memory = os.memfd_create("request")
        os.write(memory, body.encode())
        pod = os.open(self.path, os.O_RDONLY)
        self.peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peer.settimeout(20)
        self.peer.connect(str(RUN / "cni.sock"))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory, pod]))
        self.peer.sendmsg([b"berth/1 0"], [rights])
        os.close(memory)
        os.close(pod)

    def make(self, mtu: int = MTU) -> None:
        """The pair, as the form has it."""
        host, pod = macs(INDEX)
        with netns.inside(NODE), Rtnl() as rtnl, self.path.open() as there:
            ends = messages.VethEnd(self.name, host, INDEX), messages.VethEnd("eth0", pod, INDEX + 1)
            rtnl.batch([messages.veth(*ends, there.fileno(), mtu)])

    def answer(self) -> bytes:
        return self.peer.recv(1 << 16)

    def carry_out(self, answer: bytes, parts: int = 3) -> None:
        """The first of the batches that the answer has."""
        head, _, rest = answer.partition(b"\n")
        sizes = [int(size) for size in head.split()[2:5]]
        for place, size in enumerate(sizes[:parts]):
            batch, rest = rest[:size], rest[size:]
            with netns.inside(self.container if place == 1 else NODE), Rtnl() as rtnl:
                rtnl._socket.send(batch)
                rtnl._socket.recv(1 << 15)

    def hang_up(self) -> None:
        self.peer.close()


@pytest.fixture
def plugin_x(kernel: Site) -> Iterator[Plugin]:
    made = Plugin(kernel)
    yield made
    made.hang_up()


def nothing_left(site: Site) -> None:
    eventually(lambda: held(site) == [], "the address is free")
    eventually(lambda: links() == {}, "the links are gone")
    routes = netns.run(NODE, ["ip", "route", "show", "table", "all", "proto", "190"]).stdout
    assert "10.0.1.16 dev" not in routes


# ------------------------------------------------------------------------------------------------- the real plugin


def test_the_plugin_makes_the_links_and_the_pod_is_as_the_agent_makes_it(kernel: Site) -> None:
    first = kernel.call("ADD", "pod-a", **WHO).body
    assert by_plugin(first)
    kernel.settings["plugin_makes_links"] = False
    kernel.stop()
    assert not (RUN / "pair").exists()
    kernel.start()
    second = kernel.call("ADD", "pod-b").body
    assert not by_plugin(second)
    for body in (first, second):
        host, pod = body["interfaces"]
        assert [set(i) for i in (host, pod)] == [{"name", "mac", "mtu"}, {"name", "mac", "mtu", "sandbox"}]
        assert kernel.call("CHECK", Path(pod["sandbox"]).name, prevResult=body).code == 0
    addresses = [body["ips"][0]["address"].removesuffix("/32") for body in (first, second)]
    assert ping("pod-a", addresses[1]).ok
    assert ping("pod-b", addresses[0]).ok
    assert kernel.ask("status")["problems"] == []
    for container in ("pod-a", "pod-b"):
        assert kernel.call("DEL", container).code == 0
    eventually(lambda: links() == {}, "the links are gone")


def test_an_add_that_is_asked_again_gives_what_is_there(kernel: Site) -> None:
    first = kernel.call("ADD", "pod-a", **WHO).body
    assert kernel.call("ADD", "pod-a", **WHO).body == first
    assert len(links()) == 1


def test_pods_that_need_more_than_links_are_wired_by_the_agent(kernel: Site) -> None:
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    with changes(NODE) as seen:
        body = kernel.call("ADD", "pod-a", runtimeConfig=ports).body
    assert not by_plugin(body)
    assert len(links()) == 1
    assert "rtnetlink message 17" not in seen, "RTM_DELLINK: a pair was in its way"
    other = kernel.call("ADD", "pod-b", CNI_IFNAME="net1").body
    assert not by_plugin(other)


def test_a_plugin_in_another_namespace_than_the_agents_makes_nothing(kernel: Site) -> None:
    kernel.inside, before = "", netns.run(NODE, ["ip", "-o", "link"]).stdout.count("\n")
    body = kernel.call("ADD", "pod-a", **WHO).body
    assert not by_plugin(body)
    assert netns.run(NODE, ["ip", "-o", "link"]).stdout.count("\n") == before + 1


def test_the_nodes_own_namespace_gets_no_pair(kernel: Site) -> None:
    """A runtime's mistake, which the agent refuses: for a moment there would be an eth0 on the node."""
    assert kernel.process
    kernel.process.send_signal(signal.SIGSTOP)  # it is not to answer, nor to make anything
    kernel.inside = "by-hand-node"
    kernel.pod(kernel.inside)
    (RUN / "pair").write_bytes(pairs.form(netns_path(kernel.inside).stat().st_ino, MTU))
    with changes(kernel.inside) as seen:
        plugin = kernel.popen(kernel.environment("ADD", kernel.inside, **WHO), b"{}")
        eventually(lambda: _waits_for_an_answer(plugin.pid), "the plugin has done all that it can")
    assert seen == []
    plugin.kill()


def _waits_for_an_answer(pid: int) -> bool:
    return Path(f"/proc/{pid}/wchan").read_text() in ("unix_stream_read_generic", "__skb_wait_for_more_packets")


def test_a_pod_made_again_under_its_name_before_the_old_link_is_gone(kernel: Site) -> None:
    """The name is taken: the kernel refuses the plugin's pair, and the agent makes way for its own."""
    kernel.call("ADD", "pod-a", **WHO)
    for number in range(5):
        kernel.call("DEL", f"pod-{'ab'[number % 2]}")
        answer = kernel.call("ADD", f"pod-{'ba'[number % 2]}", **WHO)
        assert answer.code == 0, answer.text
        netns.delete(f"pod-{'ab'[number % 2]}")
        kernel.pods.remove(f"pod-{'ab'[number % 2]}")
    assert len(held(kernel)) == 1


def test_what_is_in_the_way_is_told_as_the_agent_tells_it(kernel: Site) -> None:
    kernel.pod("pod-a")
    netns.ip_batch("pod-a", ["link add eth0 type veth peer name far"])
    answer = kernel.call("ADD", "pod-a", **WHO)
    assert (answer.code, "already has an interface eth0" in answer.body["msg"]) == (1, True)
    assert links() == {}
    assert held(kernel) == []


def test_an_add_that_fails_leaves_no_links(kernel: Site) -> None:
    """The plugin has made its pair long before the agent says that there is no address."""
    kernel.settings["add_wait_seconds"] = 1
    kernel.stop()
    kernel.serve("10.0.1.40/32", revision=3)
    kernel.start()
    kernel.add("pod-a")
    answer = kernel.call("ADD", "pod-b", **WHO)
    assert (answer.code, answer.body["code"]) == (1, 11)
    assert len(links()) == 1


def test_a_plugin_that_waited_for_an_address_uses_its_pair(kernel: Site) -> None:
    kernel.stop()
    kernel.serve("10.0.1.40/32", revision=3, cooldown=1)
    kernel.start()
    kernel.add("pod-a")
    kernel.pod("pod-b")
    config = json.dumps({"cniVersion": "1.1.0", "name": "berth", "type": "berth"})
    waiting = kernel.popen(kernel.environment("ADD", "pod-b", **WHO), config.encode())
    eventually(lambda: len(links()) == 2, "the pair is there")
    assert kernel.call("DEL", "pod-a").code == 0
    answer = kernel.finish(waiting)
    assert answer.code == 0, answer.text
    assert by_plugin(answer.body)
    assert ping("pod-b", "10.0.1.5").ok


# ------------------------------------------------------------------------------------------ plugins that die


def test_a_plugin_that_dies_with_the_answer_unread_leaves_nothing(plugin_x: Plugin, kernel: Site) -> None:
    plugin_x.ask()
    plugin_x.make()
    assert plugin_x.answer().startswith(b"berth/1 wire ")
    assert held(kernel) == ["10.0.1.16"]
    plugin_x.hang_up()
    nothing_left(kernel)


@pytest.mark.long
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_plugin_that_dies_before_it_says_what_came_of_it_leaves_nothing(
    plugin_x: Plugin, kernel: Site, parts: int
) -> None:
    plugin_x.ask()
    plugin_x.make()
    plugin_x.carry_out(plugin_x.answer(), parts)
    plugin_x.hang_up()
    nothing_left(kernel)
    assert kernel.add("pod-b", **WHO) != "10.0.1.16", "what the pod may have used cools"


@pytest.mark.long
def test_a_plugin_that_was_refused_gets_the_agents_own_answer(plugin_x: Plugin, kernel: Site) -> None:
    plugin_x.ask()
    plugin_x.answer()
    plugin_x.peer.send(b"berth/1 refused 0 5")
    code, _, printed = plugin_x.answer().partition(b"\n")
    assert code == b"berth/1 0"
    assert json.loads(printed)["ips"][0]["address"] == "10.0.1.16/32"
    assert links()[plugin_x.name] < FIRST_PAIR_INDEX
    assert ping(plugin_x.container, "10.0.1.5").ok


@pytest.mark.long
@pytest.mark.parametrize("verdict", [b"berth/1 well", b"", b"berth/1 refused"])
def test_a_verdict_that_is_none_undoes_the_pod(plugin_x: Plugin, kernel: Site, verdict: bytes) -> None:
    plugin_x.ask()
    plugin_x.make()
    plugin_x.answer()
    if verdict:
        plugin_x.peer.send(verdict)
    else:
        plugin_x.peer.shutdown(socket.SHUT_WR)
    nothing_left(kernel)


@pytest.mark.long
def test_a_pair_of_another_mtu_or_name_is_not_used(plugin_x: Plugin, kernel: Site) -> None:
    plugin_x.ask(mtu=9001)
    plugin_x.make(mtu=9001)
    code, _, printed = plugin_x.answer().partition(b"\n")
    assert code == b"berth/1 0"
    assert json.loads(printed)["interfaces"][0]["mtu"] == MTU
    assert links()[plugin_x.name] < FIRST_PAIR_INDEX


def test_a_del_does_not_wait_for_a_plugin_that_hangs(plugin_x: Plugin, kernel: Site) -> None:
    plugin_x.ask()
    plugin_x.make()
    plugin_x.carry_out(plugin_x.answer(), 1)
    assert kernel.call("DEL", plugin_x.container).code == 0
    nothing_left(kernel)
    answer = Answer(1, plugin_x.answer().partition(b"\n")[2].decode() or "{}")
    assert not answer.body or answer.body["code"] == 11


@pytest.mark.long
def test_a_del_that_comes_with_the_verdict_finds_the_pod(plugin_x: Plugin, kernel: Site) -> None:
    plugin_x.ask()
    plugin_x.make()
    plugin_x.carry_out(plugin_x.answer())
    plugin_x.peer.send(b"berth/1 wired")
    assert kernel.call("DEL", plugin_x.container).code == 0
    nothing_left(kernel)


@pytest.mark.long
def test_a_refusal_after_a_long_wait_is_no_hang_up(plugin_x: Plugin, kernel: Site) -> None:
    """By then a hang-up is watched for, and what the plugin says makes its connection readable too."""
    kernel.stop()
    kernel.serve("10.0.1.40/32", revision=3, cooldown=1)
    kernel.start()
    kernel.add("pod-a")
    plugin_x.ask()
    eventually(lambda: kernel.cloud.reports and kernel.cloud.reports[-1].waiting, "it waits, and that is reported")
    assert kernel.call("DEL", "pod-a").code == 0
    assert plugin_x.answer().startswith(b"berth/1 wire ")
    plugin_x.peer.send(b"berth/1 refused 0 17")
    assert plugin_x.answer().startswith(b"berth/1 0")
    assert held(kernel) == ["10.0.1.40"]
    assert ping(plugin_x.container, "10.0.1.5").ok


# --------------------------------------------------------------------------- the real plugin and an agent that lies


@dataclass
class Liar:
    """An agent whose batches the kernel refuses; what it was told, and what links there were then."""

    answer: bytes
    closes: bool = False
    asked: int = 0
    told: bytes = b""
    links: dict[str, int] = field(default_factory=lambda: {"none": 0})

    def serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    _, descriptors, _, _ = socket.recv_fds(connection, 64, 2)
                    body = os.pread(descriptors[0], 1 << 16, 0)
                    for descriptor in descriptors:
                        os.close(descriptor)
                    self.asked += 1
                    index = int(body.partition(b"BERTH_LINK=")[2].split(b" ", 1)[0])
                    up, none = messages.link_up(index), messages.link_up(index + 1000)
                    batches_ = [pack(up, 2, NLM_F_ACK), pack(none, 2, NLM_F_ACK), b""]
                    sizes = " ".join(str(len(b)) for b in batches_)
                    connection.send(f"berth/1 wire {sizes} 0\n".encode() + b"".join(batches_))
                    if not self.closes:
                        self.told = connection.recv(64)
                        self.links = links()
                    connection.send(self.answer)


@pytest.mark.parametrize("closes", [False, True])
def test_a_plugin_that_is_refused_has_no_pair_any_more_when_it_says_so(kernel: Site, closes: bool) -> None:
    """Else the agent might take it for the pod's, and the plugin delete it then. Nor does it ask again after the
    answer that is there already."""
    kernel.stop()
    (RUN / "pair").write_bytes(pairs.form(netns_path(NODE).stat().st_ino, MTU))
    liar = Liar(b'berth/1 1\n{"code": 11}', closes)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(RUN / "cni.sock"))
        listener.listen()
        thread = threading.Thread(target=liar.serve, args=(listener,))
        thread.start()
        answer = kernel.call("ADD", "pod-a", **WHO)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert (answer.code, answer.body) == (1, {"code": 11})
    assert liar.asked == 1
    assert links() == {}
    if not closes:
        assert (liar.told, liar.links) == (b"berth/1 refused 1 19", {})


# ------------------------------------------------------------------------------------------- agents that die


def test_a_pod_that_is_whole_stays_when_the_agent_died_before_it_heard_so(plugin_x: Plugin, kernel: Site) -> None:
    plugin_x.ask()
    plugin_x.make()
    plugin_x.carry_out(plugin_x.answer())
    kernel.stop(signal.SIGKILL)
    kernel.start()
    assert held(kernel) == ["10.0.1.16"]
    assert ping(plugin_x.container, "10.0.1.5").ok
    assert kernel.call("ADD", plugin_x.container, **WHO).body["ips"][0]["address"] == "10.0.1.16/32"
    assert kernel.call("DEL", plugin_x.container).code == 0
    nothing_left(kernel)


@pytest.mark.long
@pytest.mark.parametrize("parts", [0, 1])
def test_a_pod_that_is_not_whole_goes_when_the_agent_dies(plugin_x: Plugin, kernel: Site, parts: int) -> None:
    """And what its plugin does later is refused: no other pod's address is ever led to it."""
    plugin_x.ask()
    plugin_x.make()
    answer = plugin_x.answer()
    plugin_x.carry_out(answer, parts)
    kernel.stop(signal.SIGKILL)
    kernel.start()
    nothing_left(kernel)
    if parts == 0:
        plugin_x.carry_out(answer, 1)
        nothing_left(kernel)


@pytest.mark.long
def test_the_real_plugin_asks_the_next_agent_and_gets_its_pod(kernel: Site) -> None:
    """Stopped at any point of its life: here while its request is in the socket of an agent that never reads it."""
    assert kernel.process
    kernel.process.send_signal(signal.SIGSTOP)
    config = json.dumps({"cniVersion": "1.1.0", "name": "berth", "type": "berth"})
    kernel.pod("pod-a")
    waiting = kernel.popen(kernel.environment("ADD", "pod-a", **WHO), config.encode())
    eventually(lambda: len(links()) == 1, "the pair is there")
    kernel.stop(signal.SIGKILL)
    kernel.start()
    answer = kernel.finish(waiting)
    assert answer.code == 0, answer.text
    assert ping("pod-a", "10.0.1.5").ok
    assert held(kernel) == ["10.0.1.16"]
    assert len(links()) == 1


@pytest.mark.long
def test_what_a_plugin_makes_is_no_news_to_the_agent(kernel: Site) -> None:
    before = kernel.log().count("\n")
    for container in ("pod-a", "pod-b", "pod-c"):
        kernel.add(container)
    assert "made again" not in kernel.log()
    looks = [line for line in kernel.log().splitlines()[before:] if '"level": "warning"' in line]
    assert looks == []
