"""containerd calls the plugin: sandboxes come, talk and go, whatever is restarted or gives up meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from berth_node.cri import CriError

from tests.netns.agent.conftest import Site, eventually
from tests.runtime.conftest import ADDRESS, COOLDOWN, FAR, FAR_ADDRESS, NODE, PREFIXES
from tests.sandbox import netns
from tests.sandbox.containerd import Containerd, PodSpec
from tests.sandbox.echo import EchoServers, tcp_echo
from tests.sandbox.ping import ping

MANY = 110


def pods(site: Site) -> dict[str, dict[str, Any]]:
    """What the agent has, by container id."""
    return {pod["container_id"]: pod for pod in site.ask("pods")["pods"]}


def routes() -> str:
    return netns.run(NODE, ["ip", "route", "show", "table", "all"]).stdout


def test_a_sandbox_gets_an_address_talks_and_gives_it_back(site: Site, containerd: Containerd) -> None:
    one, other = containerd.run(PodSpec("web")), containerd.run(PodSpec("db"))
    first, second = containerd.status(one), containerd.status(other)
    shown = pods(site)[one]
    assert (shown["address"], shown["namespace"], shown["name"]) == (first.address, "default", "web")
    assert ping(first.netns, second.address).ok
    assert ping(second.netns, first.address).ok
    assert ping(first.netns, ADDRESS).ok
    assert ping(NODE, first.address).ok
    containerd.stop_sandbox(one)
    assert list(pods(site)) == [other]
    assert not ping(second.netns, first.address, timeout=1).ok
    assert not containerd.status(one).ready
    containerd.remove_sandbox(one)
    assert containerd.list() == (other,)
    assert f" {first.address} " not in routes()


def test_the_same_pod_name_comes_back_at_once_and_its_old_sandbox_is_removed_later(
    site: Site, containerd: Containerd
) -> None:
    """kubelet stops a sandbox, runs the next attempt, and removes the old one when it tidies up: a late second DEL."""
    pod = PodSpec("same")
    old = containerd.run(pod)
    before = containerd.status(old)
    containerd.stop_sandbox(old)
    new = containerd.run(replace(pod, attempt=1))
    after = containerd.status(new)
    assert after.address != before.address  # which cools down
    containerd.remove_sandbox(old)
    assert list(pods(site)) == [new]
    assert ping(NODE, after.address).ok
    assert ping(after.netns, ADDRESS).ok
    # a StatefulSet's pod: the same name, another pod
    containerd.remove(new)
    next_one = containerd.run(PodSpec("same"))
    assert ping(NODE, containerd.status(next_one).address).ok


def test_a_host_port_leads_to_its_sandbox_without_portmap(site: Site, containerd: Containerd) -> None:
    sandbox = containerd.run(PodSpec("web", ports=((30080, 8080),)))
    pod = containerd.status(sandbox)
    with EchoServers() as servers:
        servers.add(pod.netns, 8080, name="web")
        assert tcp_echo(FAR, ADDRESS, 30080).told == f"web {FAR_ADDRESS}"
        containerd.remove(sandbox)
        assert not tcp_echo(FAR, ADDRESS, 30080, timeout=1).ok


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_sandboxes_outlive_a_restart_of_containerd_and_are_deleted_after_it(
    site: Site, containerd: Containerd, number: int
) -> None:
    sandbox, other = containerd.run(PodSpec("kept")), containerd.run(PodSpec("other"))
    seen = containerd.status(sandbox)
    containerd.stop(number)
    assert ping(NODE, seen.address).ok
    containerd.start()
    assert containerd.status(sandbox) == seen
    containerd.remove(sandbox)
    assert list(pods(site)) == [other]
    assert ping(NODE, containerd.status(containerd.run(PodSpec("fresh"))).address).ok


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_containerd_goes_on_while_the_agent_is_down_and_after(site: Site, containerd: Containerd, number: int) -> None:
    kept, gone = containerd.run(PodSpec("kept")), containerd.run(PodSpec("gone"))
    address = containerd.status(kept).address
    site.stop(number)
    try:
        assert ping(NODE, address).ok
        containerd.remove(gone)  # DEL succeeds: the plugin keeps it for the next agent
        assert containerd.list() == (kept,)
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(containerd.run, PodSpec("waits"))
            eventually(lambda: len(netns.names()) >= 4, "the ADD's namespace is made")
            site.start()
            new = coming.result(30)
    finally:
        if site.process is None:
            site.start()
    assert set(pods(site)) == {kept, new}
    assert containerd.status(kept).address == address
    assert ping(containerd.status(new).netns, address).ok


def test_a_runtime_that_gives_up_while_an_add_waits_for_an_address_leaves_nothing(
    site: Site, containerd: Containerd
) -> None:
    site.serve("10.0.1.9/32", revision=2, cooldown=COOLDOWN)
    try:
        eventually(lambda: site.ask("status")["free"] == 1, "one address is left")
        holder = containerd.run(PodSpec("holder"))
        pod = PodSpec("starved")
        with ThreadPoolExecutor(1) as pool:
            giving_up = pool.submit(containerd.run, pod, timeout=3)
            eventually(lambda: site.ask("status")["waiting"] == 1, "the ADD waits")
            with pytest.raises(CriError, match="timed out"):
                giving_up.result(30)
        eventually(lambda: site.ask("status")["waiting"] == 0, "nobody waits any more")
        eventually(lambda: containerd.list() == (holder,), "containerd has cleaned up")
        assert list(pods(site)) == [holder]
    finally:
        site.serve(*PREFIXES, revision=3, cooldown=COOLDOWN)
    eventually(lambda: site.ask("status")["free"] > 1, "there are addresses again")
    again = containerd.run(replace(pod, attempt=1))
    assert ping(NODE, containerd.status(again).address).ok


def test_a_runtime_that_gives_up_while_the_agent_hangs_leaves_nothing(site: Site, containerd: Containerd) -> None:
    """The plugin is killed with its request unanswered; the agent meets the request and its DEL later, in any order."""
    assert site.process
    pod, before = PodSpec("hung"), len(routes().splitlines())
    os.kill(site.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(CriError, match="timed out"):
            containerd.run(pod, timeout=2)
    finally:
        os.kill(site.process.pid, signal.SIGCONT)
    eventually(lambda: containerd.list() == () and pods(site) == {}, "nothing is left of it")
    eventually(lambda: len(routes().splitlines()) == before, "the kernel has nothing of it")
    again = containerd.run(replace(pod, attempt=1))
    assert ping(NODE, containerd.status(again).address).ok


def test_a_full_node_of_110_sandboxes_comes_talks_and_goes(site: Site, containerd: Containerd) -> None:
    def all_of(call: Callable[[Any], Any], what: list[Any]) -> list[Any]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(call, what))

    eventually(lambda: site.ask("status")["free"] >= MANY, "addresses have cooled down", timeout=60)
    ids = all_of(containerd.run, [PodSpec(f"pod-{n}") for n in range(MANY)])
    assert set(containerd.list()) == set(ids)
    addresses = {i: pod["address"] for i, pod in pods(site).items()}
    assert set(addresses) == set(ids)
    assert len(set(addresses.values())) == MANY
    sample = [containerd.status(i) for i in ids[:: MANY // 10]]
    assert all(s.address == addresses[s.id] for s in sample)
    with EchoServers() as servers:
        for s in sample:
            servers.add(s.netns, name=s.id[:12])
        for one in sample:
            for other in sample:
                assert tcp_echo(one.netns, other.address).told == f"{other.id[:12]} {one.address}"
            assert tcp_echo(NODE, one.address).told == f"{one.id[:12]} {ADDRESS}"
    all_of(containerd.remove, ids)
    assert pods(site) == {}
    assert containerd.list() == ()
