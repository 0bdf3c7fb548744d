"""Debian's portmap, bandwidth and tuning after Berth in one list, by containerd; by the driver what that never asks."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.netns.agent.conftest import Site, eventually
from tests.runtime.conftest import ADDRESS, FAR, FAR_ADDRESS, NODE
from tests.runtime.driver import driver
from tests.runtime.test_sandboxes import pods
from tests.sandbox import netns
from tests.sandbox.cni import CniError
from tests.sandbox.containerd import CNI_BIN, CNI_CONF, Containerd, PodSpec, install_reference_plugins
from tests.sandbox.echo import EchoServers, tcp_echo
from tests.sandbox.ping import ping
from tests.sandbox.runtime import Pod

INSIDE, OUTSIDE = 8080, 30080
RATE: Final = 16_000_000  # bits a second into a pod
BURST: Final = 512_000  # bits
LINKS = ("portmap", "bandwidth", "tuning")


def conflist() -> dict[str, Any]:
    body: dict[str, Any] = json.loads((CNI_CONF / "10-berth.conflist").read_text())
    return body


@pytest.fixture
def chained(site: Site, containerd: Containerd) -> Iterator[Containerd]:
    """With the three plugins after Berth, and the list with Berth alone afterwards."""
    install_reference_plugins(*LINKS)
    site.stop()
    site.start(
        chain=[
            "portmap",
            {"type": "bandwidth", "ingressRate": RATE, "ingressBurst": BURST},
            {"type": "tuning", "sysctl": {"net.core.somaxconn": "517"}},
        ]
    )
    site.ready()
    eventually(lambda: len(conflist()["plugins"]) == 4, "the list has them all")
    yield containerd
    for sandbox in containerd.list():
        containerd.remove(sandbox)
    site.stop()
    site.start()
    eventually(lambda: len(conflist()["plugins"]) == 1, "the list has Berth alone")


def test_the_list_is_written_in_what_the_reference_plugins_speak(chained: Containerd) -> None:
    body = conflist()
    assert (body["cniVersion"], body["cniVersions"][-1]) == ("1.0.0", "1.0.0")
    assert [plugin["type"] for plugin in body["plugins"]] == ["berth", *LINKS]
    assert "portMappings" not in body["plugins"][0]["capabilities"]  # or both would translate host ports
    assert body["plugins"][1]["capabilities"] == {"portMappings": True}


def test_a_host_port_leads_to_its_pod_from_everywhere_and_ends_with_it(site: Site, chained: Containerd) -> None:
    sandbox = chained.run(PodSpec("web", ports=((OUTSIDE, INSIDE),)))
    other = chained.status(chained.run(PodSpec("other")))
    pod = chained.status(sandbox)
    with EchoServers() as servers:
        servers.add(pod.netns, INSIDE, name="web")
        assert tcp_echo(FAR, ADDRESS, OUTSIDE).told == f"web {FAR_ADDRESS}"
        assert tcp_echo(NODE, ADDRESS, OUTSIDE).told == f"web {ADDRESS}"
        assert tcp_echo(other.netns, ADDRESS, OUTSIDE).server == "web"
        assert tcp_echo(pod.netns, ADDRESS, OUTSIDE).server == "web"  # by itself
        assert tcp_echo(other.netns, pod.address, INSIDE).told == f"web {other.address}"
        chained.remove(sandbox)
        assert not tcp_echo(FAR, ADDRESS, OUTSIDE, timeout=1).ok
    assert str(OUTSIDE) not in netns.run(NODE, ["nft", "list", "ruleset"]).stdout


def test_the_bandwidth_into_a_pod_is_limited_and_out_of_it_is_not(chained: Containerd) -> None:
    pod = chained.status(chained.run(PodSpec("slow")))
    size = 3_000_000
    into, out = transfer(NODE, pod.netns, pod.address, size), transfer(pod.netns, NODE, ADDRESS, size)
    assert into >= (size * 8 - BURST) / RATE  # no machine is so slow that this could fail, nor so fast
    assert out < into


def test_tuning_reaches_the_pods_namespace(chained: Containerd) -> None:
    pod = chained.status(chained.run(PodSpec("tuned")))
    assert netns.run(pod.netns, ["cat", "/proc/sys/net/core/somaxconn"]).stdout.strip() == "517"


def test_add_check_and_del_go_through_the_chain_by_the_driver(site: Site, chained: Containerd, tmp_path: Path) -> None:
    """Without host ports: portmap 1.1.1's CHECK of one wants it in ip6tables too, where its ADD put nothing."""
    runtime, pod = driver(tmp_path), Pod.new("web")
    result = runtime.add(pod)
    try:
        assert result.cni_version == "1.0.0"
        assert [call.plugin for call in runtime.calls] == ["berth", *LINKS]
        runtime.check(pod)
        netns.ip_batch(pod.netns, ["route del default"])
        with pytest.raises(CniError, match="not as ADD left it"):
            runtime.check(pod)
    finally:
        runtime.delete(pod)
        runtime.delete(pod, with_netns=False)
    assert pods(site) == {}


def test_a_plugin_that_goes_missing_is_left_out_and_pods_are_still_made(site: Site, chained: Containerd) -> None:
    (CNI_BIN / "bandwidth").unlink()
    eventually(lambda: len(conflist()["plugins"]) == 3, "the list leaves it out", timeout=30)
    assert "install it" in site.ask("status")["trouble"]["CNI configuration"]
    pod = chained.status(chained.run(PodSpec("web")))
    assert ping(NODE, pod.address).ok
    install_reference_plugins("bandwidth")
    eventually(lambda: len(conflist()["plugins"]) == 4, "it is back", timeout=30)
    assert "CNI configuration" not in site.ask("status")["trouble"]


def test_without_a_chain_the_driver_speaks_1_1_and_status_and_gc_with_it(
    site: Site, containerd: Containerd, tmp_path: Path
) -> None:
    runtime = driver(tmp_path)
    keep, stale = Pod.new("keep"), Pod.new("stale")
    assert runtime.status() is None
    addresses = {pod.container_id: runtime.add(pod).address for pod in (keep, stale)}
    try:
        assert runtime.config().version == "1.1.0"
        assert runtime.versions("berth")[-1] == "1.1.0"
        (runtime.node.dir / "cni-results" / f"berth-{stale.container_id}-eth0").unlink()  # the runtime has lost it
        runtime.gc([keep])
        assert {c: pod["address"] for c, pod in pods(site).items()} == {keep.container_id: addresses[keep.container_id]}
        assert ping(NODE, addresses[keep.container_id]).ok
        assert not ping(NODE, addresses[stale.container_id], timeout=0.5).ok
        runtime.check(keep)
    finally:
        for pod in (keep, stale):
            runtime.delete(pod)


def transfer(source: str, target: str, address: str, size: int) -> float:
    """Seconds that ``size`` bytes take from one namespace to a listener at ``address`` in the other."""
    with netns.open_socket(target) as listener, netns.open_socket(source) as sender:
        listener.bind((address, 0))
        listener.listen()
        sender.connect(listener.getsockname())
        receiver, _ = listener.accept()
        with receiver:
            sender.setblocking(False)
            left, got, started = memoryview(bytes(size)), 0, time.monotonic()
            while got < size:
                if left:
                    left = left[_send(sender, left) :]
                receiver.settimeout(0.01 if left else 20)
                try:
                    got += len(receiver.recv(1 << 20))
                except TimeoutError:
                    assert left, "the rest never came"
            return time.monotonic() - started


def _send(sock: socket.socket, data: memoryview) -> int:
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0
