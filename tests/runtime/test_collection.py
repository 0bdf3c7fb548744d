"""What the runtime has lost is collected by asking it; what it has is not, whatever happens to the runtime."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from berth_node import cri

from tests.netns.agent.conftest import Site, eventually
from tests.runtime.conftest import NODE, install_plugin
from tests.runtime.test_sandboxes import pods
from tests.sandbox.containerd import CNI_BIN, Containerd, PodSpec
from tests.sandbox.ping import ping


@pytest.fixture
def eager(site: Site, containerd: Containerd) -> Iterator[Containerd]:
    """With an agent that lists every 0.3 s, and the agent as it was afterwards."""
    site.stop()
    site.start(collect_interval_seconds=0.3, collect_age_seconds=0.5)
    yield containerd
    site.stop()
    site.start()


@contextmanager
def deletes_lost() -> Iterator[None]:
    """DEL succeeds and does nothing, as if it had been asked of another plugin."""
    draft = CNI_BIN / ".berth.new"
    draft.write_text('#!/bin/sh\nif [ "$CNI_COMMAND" = DEL ]; then cat > /dev/null; exit 0; fi\nexit 1\n')
    draft.chmod(0o755)
    draft.replace(CNI_BIN / "berth")
    try:
        yield
    finally:
        install_plugin()


def test_a_sandbox_whose_del_never_came_is_collected_and_nothing_else_is(site: Site, eager: Containerd) -> None:
    kept, lost = eager.run(PodSpec("kept")), eager.run(PodSpec("lost"))
    address, gone = eager.status(kept).address, eager.status(lost).address
    by_hand = site.add("by-hand")  # as podman would: no pod of a kubelet, and not in CRI's list
    with deletes_lost():
        eager.remove(lost)
    assert set(pods(site)) == {kept, lost, "by-hand"}
    eventually(lambda: lost not in pods(site), "the lost pod is collected")
    assert {c: p["address"] for c, p in pods(site).items()} == {kept: address, "by-hand": by_hand}
    assert not ping(NODE, gone, timeout=0.5).ok
    assert ping(NODE, address).ok
    assert site.call("DEL", "by-hand").code == 0


def test_while_the_runtime_is_down_nothing_is_collected_and_status_says_so(site: Site, eager: Containerd) -> None:
    sandbox = eager.run(PodSpec("kept"))
    address = eager.status(sandbox).address
    eager.stop(signal.SIGKILL)  # which leaves the socket
    eventually(lambda: "ListPodSandbox" in site.ask("status")["trouble"].get("container runtime", ""), "it is told")
    assert list(pods(site)) == [sandbox]
    eager.start()
    eventually(lambda: "container runtime" not in site.ask("status")["trouble"], "listings succeed again")
    assert ping(NODE, address).ok


def test_a_stopped_sandbox_that_is_still_listed_keeps_what_it_has(site: Site, eager: Containerd) -> None:
    """Its DEL will come with the removal. Only the listing decides, so another pod is lost and collected meanwhile."""
    stopped, lost = eager.run(PodSpec("stopped")), eager.run(PodSpec("lost"))
    with deletes_lost():
        eager.stop_sandbox(stopped)
        eager.remove(lost)
    eventually(lambda: lost not in pods(site), "the lost pod is collected")
    assert list(pods(site)) == [stopped]
    eager.remove_sandbox(stopped)
    assert pods(site) == {}


def test_a_listing_of_a_real_runtime_is_read_by_the_child(containerd: Containerd) -> None:
    sandboxes = {containerd.run(PodSpec(name)) for name in ("one", "two")}
    argv = [sys.executable, "-I", "-S", cri.__file__, str(containerd.socket)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert all(sandbox in done.stdout for sandbox in sandboxes)


def test_a_method_that_the_runtime_does_not_have_is_a_refusal(containerd: Containerd) -> None:
    with pytest.raises(cri.CriError, match="refused, or not implemented"):
        cri.call(str(containerd.socket), "NoSuchMethod")
