"""The agent's socket, given any frame, environment and configuration: one valid answer each time, and nothing leaks."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from berth.contract import Order, Policy
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.journal import Journal
from berth_node.measures import Measures
from berth_node.server import Server
from berth_node.verbs import Verbs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz import inputs
from tests.sandbox.cni import VERSIONS, parse_error, parse_result, parse_versions
from tests.sandbox.waiting import wait_for
from tests.unit.node.kernel import FakeKernel
from tests.unit.node.make import all_blocks, interface, record

_A = TypeVar("_A")
_R = TypeVar("_R")
_LIMIT = 10.0


@dataclass
class Node:
    ready: bool = True
    refusal: str = ""

    def pool_changed(self) -> None:
        pass

    def why_not_ready(self) -> str:
        return "nothing is known yet"


@dataclass
class Agent:
    """Server, verbs and desk as in the agent; a pretended kernel. ``netns`` is a real namespace's descriptor."""

    folder: Path
    netns: int
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    kernel: FakeKernel = field(default_factory=FakeKernel)

    def __post_init__(self) -> None:
        self.path = self.folder / "cni.sock"
        self.desk = Desk(Journal.open(self.folder / "journal"), DurableFile(self.folder / "d", "i-1"), lambda: 1000.0)
        self.desk.start((), Policy())
        known = record(interface(0, "10.0.0.16/28"), policy=Policy(cooldown_seconds=0, warm_addresses=16))
        self.desk.refresh(known, all_blocks(known))
        self.thread = ThreadPoolExecutor(1)
        self.server = Server(
            self.path,
            Verbs(self.desk, self.kernel, self.rtnl, Node(), patience=0.01),
            Measures().requests,
        )

    def rtnl(self, call: Callable[[_A], _R], argument: _A, /) -> Awaitable[_R]:
        return asyncio.get_running_loop().run_in_executor(self.thread, call, argument)

    def ask(self, text: bytes, descriptors: Sequence[int]) -> tuple[bytes, bytes]:
        """Send one frame; returns the answer's text and what is in its memfd."""

        async def there() -> tuple[bytes, bytes]:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
                peer.connect(str(self.path))
                socket.send_fds(peer, [text], descriptors)
                peer.setblocking(False)
                readable, loop = asyncio.Event(), asyncio.get_running_loop()
                loop.add_reader(peer, readable.set)
                try:
                    async with asyncio.timeout(_LIMIT):
                        await readable.wait()
                finally:
                    loop.remove_reader(peer)
                answer, received, _, _ = socket.recv_fds(peer, 64, 2)
                assert len(received) == 1, (answer, received)
                with os.fdopen(received[0], "rb") as body:
                    return answer, os.pread(body.fileno(), 1 << 20, 0)

        return self.loop.run_until_complete(there())

    def request(self, environment: dict[str, str], stdin: bytes, *, netns: bool = True) -> tuple[int, bytes]:
        """What the plugin would send of them: exit status and output."""
        variables = b"".join(os.fsencode(f"{k}={v}") + b"\0" for k, v in environment.items())
        request = memfd(variables + b"\0" + stdin)
        try:
            text, output = self.ask(
                b"berth/1 0" if netns else b"berth/1 2", [request, *([self.netns] if netns else [])]
            )
        finally:
            os.close(request)
        assert text in (b"berth/1 0", b"berth/1 1")
        return int(text[-1:]), output

    def settle(self) -> None:
        """Until every request is done with."""

        tasks = set(self.server._tasks)
        if tasks:
            done, late = self.loop.run_until_complete(asyncio.wait(tasks, timeout=_LIMIT))
            assert not late
            assert not [task.exception() for task in done if task.exception()]


def memfd(content: bytes) -> int:
    made = os.memfd_create("request")
    os.truncate(made, len(content))
    os.pwrite(made, content, 0)
    return made


def descriptors_open() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    with subprocess.Popen(["unshare", *user, "--net", "cat"], stdin=subprocess.PIPE) as place:
        path, ours = f"/proc/{place.pid}/ns/net", os.readlink("/proc/self/ns/net")
        wait_for("a network namespace", lambda: os.readlink(path) != ours, 10, 0.01)
        netns = os.open(path, os.O_RDONLY)
        made = Agent(tmp_path_factory.mktemp("a"), netns)

        async def serve() -> None:
            made.server.open()

        made.loop.run_until_complete(serve())
        yield made
        made.loop.run_until_complete(made.server.close())
        made.loop.close()
        made.thread.shutdown()
        os.close(netns)
        assert place.stdin
        place.stdin.close()


def expect_error(output: bytes) -> int:
    code, _, _ = parse_error(output, "")
    assert code != 999, output  # which is how the agent says that it was not ready for something
    return code


_bodies = st.binary(max_size=60) | st.just(b"\0") | st.just(b"CNI_COMMAND=ADD\0\0{}")
_kinds = st.lists(_bodies | st.sampled_from(["pipe", "folder", "unreadable", "huge", "socket"]), max_size=3)


def descriptor(kind: bytes | str) -> int:
    if isinstance(kind, bytes):
        return memfd(kind)
    if kind == "pipe":
        ours, theirs = os.pipe()
        os.close(theirs)
        return ours
    if kind == "socket":
        return socket.socket().detach()
    if kind == "huge":
        made = memfd(b"")
        os.truncate(made, 1 << 40)
        return made
    return os.open("/", os.O_RDONLY) if kind == "folder" else os.open("/dev/null", os.O_WRONLY)


@settings(settings.get_profile("fuzz"))
@given(
    st.sampled_from([b"berth/1 0", b"berth/1 ", b"berth/2 0", b"berth/1 -1"]) | st.binary(min_size=1, max_size=90),
    _kinds,
)
@example("berth/1 ²".encode(), [b"CNI_COMMAND=STATUS\0\0{}"])
@example(b"berth/1 " + b"9" * 50, [b"CNI_COMMAND=ADD\0CNI_CONTAINERID=a\0CNI_IFNAME=e\0CNI_NETNS=/x\0\0"])
def test_any_frame_is_answered_and_no_descriptor_is_kept(agent: Agent, text: bytes, kinds: list[bytes | str]) -> None:
    before, sent = descriptors_open(), [descriptor(kind) for kind in kinds]
    try:
        answer, output = agent.ask(text, sent)
    finally:
        for one in sent:
            os.close(one)
    agent.settle()
    assert descriptors_open() == before
    if answer == b"berth/1 1":
        expect_error(output)
    else:
        assert answer == b"berth/1 0"


@settings(settings.get_profile("fuzz"))
@given(inputs.environments, inputs.stdin, st.booleans())
@example({"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a", "CNI_IFNAME": "\udcff", "CNI_NETNS": "/x"}, b"{}", True)
def test_any_request_is_done_or_refused_with_a_valid_error(
    agent: Agent, environment: dict[str, str], stdin: bytes, netns: bool
) -> None:
    clean(agent)
    code, output = agent.request(environment, stdin, netns=netns)
    if code:
        expect_error(output)
    elif environment["CNI_COMMAND"] == "ADD":
        parse_any_result(stdin, output, environment)
    elif environment["CNI_COMMAND"] == "VERSION":
        parse_versions(output, "1.1.0")
    else:
        assert output == b""


_usable = st.fixed_dictionaries({"cniVersion": st.sampled_from(VERSIONS), "name": st.just("berth")})


@settings(settings.get_profile("fuzz"))
@given(_usable, inputs.configurations)
def test_any_configuration_of_a_version_we_speak_gives_a_result_of_it_or_a_valid_error(
    agent: Agent, usable: dict[str, Any], more: dict[str, Any]
) -> None:
    clean(agent)
    environment = {"CNI_CONTAINERID": "pod-a", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/x"}
    stdin = json.dumps({**more, **usable}).encode()
    code, output = agent.request({"CNI_COMMAND": "ADD", **environment}, stdin)
    if code:
        expect_error(output)
        assert not agent.kernel.links, "refused, yet the pod is wired"
    else:
        parse_any_result(stdin, output, environment)
    code, output = agent.request({"CNI_COMMAND": "CHECK", **environment}, stdin)
    assert not code or expect_error(output)


def parse_any_result(stdin: bytes, output: bytes, environment: dict[str, str]) -> None:
    """Strictly, unless what is wrong came with the previous result, whose content is another plugin's."""
    config = json.loads(stdin)
    if not config.get("prevResult"):
        parse_result(output, config["cniVersion"], environment["CNI_IFNAME"], environment["CNI_NETNS"])
        return
    result = json.loads(output)
    assert all(isinstance(i, dict) for key in ("interfaces", "ips", "routes") for i in result[key])
    assert isinstance(result["dns"], dict)
    assert result["ips"][-1]["interface"] == len(result["interfaces"]) - 1


def clean(agent: Agent) -> None:
    """Every pod goes: nothing of one example may be in the next."""
    agent.settle()
    for key in list(agent.desk.entries):
        body = json.dumps({"cniVersion": "1.1.0", "name": "berth"}).encode()
        agent.request({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": key[0], "CNI_IFNAME": key[1]}, body, netns=False)
    assert not agent.desk.entries
    assert not agent.kernel.links
    assert agent.desk.order() > Order()
