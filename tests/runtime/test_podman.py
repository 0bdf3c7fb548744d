"""Podman uses what the agent wrote for containerd, beside it and after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.agent.conftest import Site, eventually
from tests.runtime.conftest import ADDRESS, FAR, FAR_ADDRESS, NODE
from tests.runtime.test_collection import collecting, deletes_lost
from tests.runtime.test_sandboxes import pods
from tests.sandbox.containerd import Containerd, PodSpec
from tests.sandbox.echo import EchoServers, tcp_echo
from tests.sandbox.ping import ping
from tests.sandbox.podman import Podman


@pytest.fixture(scope="module")
def engine() -> Iterator[Podman]:
    with Podman(NODE, Path("/run/berth-sandbox/podman")) as made:
        yield made


@pytest.fixture
def podman(site: Site, containerd: Containerd, engine: Podman) -> Iterator[Podman]:
    """With no container before, and none after."""
    yield engine
    engine("rm", "--all", "--force", "--time", "0")


def test_a_container_gets_an_address_talks_to_pods_and_gives_it_back(
    site: Site, containerd: Containerd, podman: Podman
) -> None:
    container, sandbox = podman.run("web"), containerd.status(containerd.run(PodSpec("db")))
    shown = pods(site)[container.id]
    assert (shown["address"], shown["name"]) == (container.address, "web")
    assert container.gateway == "169.254.1.1"
    assert container.mac.startswith("02:")
    assert ping(container.netns, sandbox.address).ok
    assert ping(sandbox.netns, container.address).ok
    assert ping(container.netns, ADDRESS).ok
    assert ping(NODE, container.address).ok
    podman.remove("web")
    assert list(pods(site)) == [sandbox.id]
    assert not ping(NODE, container.address, timeout=0.5).ok


def test_a_published_port_leads_to_its_container(site: Site, podman: Podman) -> None:
    container = podman.run("web", "--publish=30081:8080")
    with EchoServers() as servers:
        servers.add(container.netns, 8080, name="web")
        assert tcp_echo(FAR, ADDRESS, 30081).told == f"web {FAR_ADDRESS}"
        podman.remove("web")
        assert not tcp_echo(FAR, ADDRESS, 30081, timeout=1).ok


def test_a_container_restarted_by_podman_is_wired_again(site: Site, podman: Podman) -> None:
    before = podman.run("web")
    podman("restart", "--time", "0", "web")
    after = podman.inspect("web")
    assert after.id == before.id
    assert after.address != before.address  # which cools down
    assert ping(NODE, after.address).ok
    assert [p["address"] for p in pods(site).values()] == [after.address]


def test_a_container_outlives_the_agent_and_is_not_collected(
    site: Site, containerd: Containerd, podman: Podman
) -> None:
    container, kept, lost = podman.run("web"), containerd.run(PodSpec("kept")), containerd.run(PodSpec("lost"))
    with collecting(site):
        with deletes_lost():
            containerd.remove(lost)
        eventually(lambda: lost not in pods(site), "the lost pod is collected: the looks were made")
        assert set(pods(site)) == {container.id, kept}
        assert ping(NODE, container.address).ok


def test_podman_takes_a_list_that_asks_for_annotations_and_gives_none(site: Site, podman: Podman) -> None:
    container = podman.run("web", "--annotation=berth/note=x")
    assert pods(site)[container.id]["annotations"] == {}
