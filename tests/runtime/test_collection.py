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


@contextmanager
def collecting(site: Site) -> Iterator[None]:
    """With an agent that lists every 0.3 s, and the agent as it was afterwards.

    Sandboxes are made before: at such a pace, one would be collected between its ADD and the moment that containerd
    lists it, which is what the 5 minutes are for. They are lost inside: an agent that starts frees by itself what the
    kernel has no more.
    """
    site.stop()
    site.start(collect_interval_seconds=0.3, collect_age_seconds=0.5)
    try:
        yield
    finally:
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


def test_a_sandbox_whose_del_never_came_is_collected_and_nothing_else_is(site: Site, containerd: Containerd) -> None:
    kept, lost = containerd.run(PodSpec("kept")), containerd.run(PodSpec("lost"))
    address, gone = containerd.status(kept).address, containerd.status(lost).address
    by_hand = site.add("by-hand")  # as podman would: no pod of a kubelet, and not in CRI's list
    with collecting(site):
        with deletes_lost():
            containerd.remove(lost)
        assert lost not in containerd.list()
        eventually(lambda: lost not in pods(site), "the lost pod is collected")
        assert {c: p["address"] for c, p in pods(site).items()} == {kept: address, "by-hand": by_hand}
        assert not ping(NODE, gone, timeout=0.5).ok
        assert ping(NODE, address).ok
        assert site.call("DEL", "by-hand").code == 0


def test_while_the_runtime_is_down_nothing_is_collected_and_status_says_so(site: Site, containerd: Containerd) -> None:
    def told() -> str:
        return str(site.ask("status")["trouble"].get("container runtime", ""))

    sandbox = containerd.run(PodSpec("kept"))
    address = containerd.status(sandbox).address
    with collecting(site):
        containerd.stop(signal.SIGKILL)  # which leaves the socket
        try:
            eventually(lambda: "ListPodSandbox" in told(), "it is told")
            assert list(pods(site)) == [sandbox]
        finally:
            containerd.start()
        eventually(lambda: not told(), "listings succeed again")
        assert ping(NODE, address).ok


def test_a_stopped_sandbox_that_is_still_listed_keeps_what_it_has(site: Site, containerd: Containerd) -> None:
    """Its DEL will come with the removal. Only the listing decides, so another pod is lost and collected meanwhile."""
    stopped, lost = containerd.run(PodSpec("stopped")), containerd.run(PodSpec("lost"))
    with collecting(site):
        with deletes_lost():
            containerd.stop_sandbox(stopped)
            containerd.remove(lost)
        eventually(lambda: lost not in pods(site), "the lost pod is collected")
        assert list(pods(site)) == [stopped]
        containerd.remove_sandbox(stopped)
        assert pods(site) == {}


def test_a_listing_of_a_real_runtime_is_read_by_the_child(containerd: Containerd) -> None:
    sandboxes = {containerd.run(PodSpec(name)) for name in ("one", "two")}
    argv = [sys.executable, "-I", "-S", cri.__file__, str(containerd.socket)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert all(sandbox in done.stdout for sandbox in sandboxes)


def test_a_method_that_the_runtime_does_not_have_is_a_refusal(containerd: Containerd) -> None:
    with pytest.raises(cri.CriError, match="refused, or not implemented"):
        cri.call(str(containerd.socket), "NoSuchMethod")
