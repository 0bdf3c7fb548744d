"""A booted node without an agent, and fake plugins for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.sandbox import netns
from tests.sandbox.node import Node
from tests.sandbox.runtime import Runtime

HEAD = f"""#!{sys.executable} -IS
import json, os, sys
command = os.environ["CNI_COMMAND"]
config = json.load(sys.stdin)
with open("/run/berth/calls", "a") as log:
    log.write(json.dumps({{"plugin": os.path.basename(sys.argv[0]), "env": dict(os.environ), "config": config,
                          "netns": os.readlink("/proc/self/ns/net"), "pid": os.getpid(),
                          "pod": os.environ.get("CNI_NETNS") and os.path.exists(os.environ["CNI_NETNS"])}}) + "\\n")
def fail(code, msg, **more):
    print(json.dumps({{"cniVersion": config.get("cniVersion", ""), "code": code, "msg": msg, **more}}))
    sys.exit(1)
def result(**more):
    ip = {{"address": "10.9.0.2/32", "gateway": "169.254.1.1", "interface": 0}}
    if config["cniVersion"] < "1":
        ip["version"] = "4"
    base = {{"cniVersion": config["cniVersion"], "ips": [ip], "routes": [{{"dst": "0.0.0.0/0"}}], "dns": {{}},
            "interfaces": [{{"name": os.environ["CNI_IFNAME"], "sandbox": os.environ["CNI_NETNS"]}}]}}
    print(json.dumps(base | more))
"""
WELL_BEHAVED = """
if command == "ADD":
    result()
elif command == "VERSION":
    versions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    print(json.dumps({"cniVersion": config["cniVersion"], "supportedVersions": versions}))
"""
CHAINED = """
if command == "ADD":
    print(json.dumps(config["prevResult"] | {"dns": {"search": ["chained"]}}))
"""


class FakeNode:
    """A node with its runtime, and what its fake plugins were called with."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.runtime = Runtime(node, timeout=20)

    def plugin(self, name: str, body: str, tmp_path: Path) -> None:
        script = tmp_path / name
        script.write_text(HEAD + body)
        self.node.install_plugin(script, name)

    def configure(self, *plugins: dict[str, Any], file: str = "10-test.conflist", **top: Any) -> None:
        document = {"cniVersion": "1.1.0", "name": "pods", "plugins": list(plugins)} | top
        (self.node.dir / "net.d" / file).write_text(json.dumps(document))

    def calls(self, command: str = "") -> list[dict[str, Any]]:
        lines = (self.node.dir / "run" / "calls").read_text().splitlines()
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if command in ("", call["env"]["CNI_COMMAND"])]


@pytest.fixture
def node() -> Iterator[Node]:
    before, instance = netns.names(), f"i-{uuid4().hex[:17]}"
    netns.create(instance)
    made = Node(instance)
    made.boot()
    yield made
    made.shutdown()
    for name in netns.names() - before:  # its own, and those of pods
        netns.delete(name)


@pytest.fixture
def fake(node: Node, tmp_path: Path) -> FakeNode:
    """With two plugins: ``first``, which makes a result, and ``second``, which is chained to it."""
    fake = FakeNode(node)
    fake.plugin("first", WELL_BEHAVED, tmp_path)
    fake.plugin("second", CHAINED, tmp_path)
    fake.configure({"type": "first"}, {"type": "second"})
    return fake


@pytest.fixture
def body(fake: FakeNode, tmp_path: Path) -> Callable[[str], FakeNode]:
    """The node with ``first`` alone, of this body."""

    def replaced(text: str) -> FakeNode:
        fake.plugin("first", text, tmp_path)
        fake.configure({"type": "first"})
        return fake

    return replaced
