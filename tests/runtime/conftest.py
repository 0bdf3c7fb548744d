"""A node with the real agent, the real plugin and Debian's containerd, all in one private world.

One containerd and one agent serve all tests: each leaves no sandbox behind. `make runtime` installs what is needed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts import build_plugin
from tests.netns.agent.conftest import MAC, Site, eventually, node
from tests.sandbox import netns, world_ns
from tests.sandbox.containerd import CNI_BIN, Containerd, missing_tools

_HERE = Path(__file__).parent
NODE = "runtime-node"
ADDRESS = "10.0.1.5"
FAR, FAR_ADDRESS = "runtime-far", "10.0.1.1"
PREFIXES = tuple(f"10.0.1.{16 * n}/28" for n in range(1, 9))
COOLDOWN = 5
NEEDED = ("containerd", "ctr", "runc", "containerd-shim-runc-v2")


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Runs the same pytest in a private world, unless this is one."""
    if world_ns.in_world():
        return None
    return world_ns.run([sys.executable, "-m", "pytest", *config.invocation_params.args])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is below this directory outside a private world. Tools that are missing are an error, not a skip."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.netns)
            if not world_ns.in_world():
                item.add_marker(pytest.mark.skip(reason="not in a private world: run `make runtime`"))


def install_plugin() -> None:
    """The real plugin at its real path, atomically: one being executed is not disturbed."""
    draft = CNI_BIN / ".berth.new"
    shutil.copy(build_plugin.build(os.uname().machine), draft)
    draft.replace(CNI_BIN / "berth")


@contextmanager
def one_interface() -> Iterator[None]:
    """The node's namespace with one interface, and at its far end another machine of the subnet."""
    for name in (NODE, FAR):
        netns.create(name)
    try:
        netns.ip_batch(
            NODE,
            [
                f"link add eth0 address {MAC} type veth peer name eth0 netns {FAR}",
                f"addr add {ADDRESS}/24 dev eth0",
                "link set eth0 up",
                f"route add default via {FAR_ADDRESS}",
            ],
        )
        netns.ip_batch(FAR, [f"addr add {FAR_ADDRESS}/24 dev eth0", "link set eth0 up"])
        yield
    finally:
        for name in (NODE, FAR):
            netns.delete(name)


@pytest.fixture(scope="package")
def whole_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Containerd]]:
    """The agent serves 128 addresses; containerd has found the configuration that the agent wrote."""
    missing = missing_tools(*NEEDED)
    assert not missing, f"{', '.join(missing)} not installed: make runtime installs them"
    CNI_BIN.mkdir(parents=True, exist_ok=True)
    install_plugin()
    with one_interface(), node(CNI_BIN / "berth", tmp_path_factory.mktemp("node"), NODE) as site:
        site.serve(*PREFIXES, cooldown=COOLDOWN)
        with Containerd(NODE, Path("/run/berth-sandbox/containerd")) as containerd:
            site.start()
            site.ready()
            eventually(containerd.network_ready, "containerd takes the CNI configuration up")
            yield site, containerd


@pytest.fixture
def site(whole_node: tuple[Site, Containerd]) -> Site:
    return whole_node[0]


@pytest.fixture
def containerd(whole_node: tuple[Site, Containerd]) -> Iterator[Containerd]:
    """With no sandbox before, and none after."""
    site, found = whole_node
    assert found.list() == ()
    yield found
    for sandbox in found.list():
        found.remove(sandbox)
    eventually(lambda: site.ask("pods")["pods"] == [], "no pod is left")
