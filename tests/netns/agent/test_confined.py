"""The agent with no more rights than the systemd unit and the DaemonSet give it, from a checkout and from the image."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from scripts import build_image
from tests.netns.agent.conftest import NET_D, RUN, STATE, Site
from tests.netns.agent.real import NODE, real_node
from tests.sandbox import netns
from tests.sandbox.ping import ping

CONFINED = [sys.executable, "-m", "tests.netns.agent.confined"]


def works(site: Site) -> None:
    """All that needs a right: links in pods, rules, nftables, sysctls, sockets, files."""
    site.start()
    site.ready()
    first, second = site.add("pod-a"), site.add("pod-b")
    assert ping("pod-a", second).ok
    assert ping("pod-b", first).ok
    assert site.ask("status")["problems"] == []
    assert site.ask("status")["trouble"] == {}
    assert site.ask("check")["same"] is True
    assert site.call("DEL", "pod-a").code == 0
    assert "table ip berth" in netns.run(NODE, ["nft", "list", "tables"]).stdout
    assert netns.run(NODE, ["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "1\n"
    assert (NET_D / "10-berth.conflist").exists()
    status = Path(f"/proc/{site.process.pid}/status").read_text() if site.process else ""
    assert "CapEff:\t0000000000201000" in status, "NET_ADMIN and SYS_ADMIN alone"


def test_two_capabilities_suffice(plugin: Path, tmp_path: Path) -> None:
    with real_node(plugin, tmp_path, start=False) as site:
        site.command = [*CONFINED, "/", os.path.realpath(sys.executable), "-m", "berth_node"]
        if sys.prefix != sys.base_prefix:  # the virtual environment's packages, without its symlink
            site.command[4] = sys.executable
        works(site)


@contextmanager
def mounted(source: Path | str, target: Path, *options: str) -> Iterator[None]:
    subprocess.run(["mount", *options, str(source), str(target)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


@contextmanager
def container(image: Path, node: Path) -> Iterator[None]:
    """The image's files as a container sees them: read-only, /proc/sys too, with the DaemonSet's mounts."""
    places = [RUN, STATE, NET_D, node]
    for place in (*places, Path("/proc"), Path("/host/proc/sys/net")):
        (image / str(place)[1:]).mkdir(parents=True, exist_ok=True)
    with ExitStack() as mounts:
        mounts.enter_context(mounted(image, image, "--bind", "-o", "ro"))
        for place in places:
            mounts.enter_context(mounted(place, image / str(place)[1:], "--bind"))
        mounts.enter_context(mounted("proc", image / "proc", "-t", "proc"))
        mounts.enter_context(mounted(image / "proc/sys", image / "proc/sys", "--bind", "-o", "ro"))
        mounts.enter_context(mounted("/proc/sys/net", image / "host/proc/sys/net", "--bind"))
        yield


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root folder from the image's layers."""
    work = build_image.OUTPUT / os.uname().machine
    if not (work / "app-root" / build_image.APP / "bundle.json").exists():
        pytest.skip("no image is built: make image")
    root = tmp_path / "image"
    for layer in ("root", "app-root"):
        shutil.copytree(work / layer, root, symlinks=True, dirs_exist_ok=True)
    return root


def test_the_image_runs_read_only_with_the_daemon_sets_mounts(
    plugin: Path, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build_image.configuration()
    monkeypatch.setenv("BERTH_PROC_SYS_NET", "/host/proc/sys/net")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    folder = tmp_path / "node"
    folder.mkdir()
    with real_node(plugin, folder, start=False) as site, container(image, folder):
        assert subprocess.run(["touch", image / "x"], capture_output=True).returncode, "it is read-only"
        site.command = [*CONFINED, str(image), *run["Entrypoint"]]
        works(site)
        site.stop()
