"""containerd calls the plugin: sandboxes come, talk and go."""

from __future__ import annotations

from tests.netns.agent.conftest import Site
from tests.runtime.conftest import ADDRESS, NODE
from tests.sandbox import netns
from tests.sandbox.containerd import Containerd, PodSpec
from tests.sandbox.ping import ping


def test_a_sandbox_gets_an_address_talks_and_gives_it_back(site: Site, containerd: Containerd) -> None:
    pod = PodSpec("web")
    one, other = containerd.run(pod), containerd.run(PodSpec("db"))
    first, second = containerd.status(one), containerd.status(other)
    [shown] = [p for p in site.ask("pods")["pods"] if p["container_id"] == one]
    assert (shown["address"], shown["namespace"], shown["name"]) == (first.address, "default", "web")
    assert ping(first.netns, second.address).ok
    assert ping(second.netns, first.address).ok
    assert ping(first.netns, ADDRESS).ok
    assert ping(NODE, first.address).ok
    containerd.stop_sandbox(one)
    assert [p["container_id"] for p in site.ask("pods")["pods"]] == [other]
    assert not ping(second.netns, first.address, timeout=1).ok
    assert not containerd.status(one).ready
    containerd.remove_sandbox(one)
    assert containerd.list() == (other,)
    assert f"{first.address} " not in netns.run(NODE, ["ip", "route", "show", "table", "all"]).stdout
