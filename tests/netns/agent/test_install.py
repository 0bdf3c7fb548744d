"""Installing on a host and leaving it, with the real kernel and the real bundle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.agent.conftest import NET_D, ROOT, RUN, Site
from tests.netns.agent.real import NODE, real_node
from tests.sandbox import netns


def kernel_state() -> str:
    """Everything that could be of Berth in the node's namespace."""
    commands = ("ip rule", "ip -6 rule", "ip route show table all", "nft list ruleset", "ip -br link", "ip -4 -br addr")
    lines = (line for c in commands for line in netns.run(NODE, c.split()).stdout.splitlines())
    return "\n".join(line for line in lines if "proto kernel" not in line)  # link-local addresses take their time


def berth_node(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``berth-node`` on the node; files go to /etc, /opt and /var/lib of the private world."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'layers/berth'}:{ROOT / 'node_agent'}"}
    with netns.inside(NODE):
        return subprocess.run(
            [sys.executable, "-m", "berth_node", *arguments], env=environment, capture_output=True, text=True
        )


@pytest.fixture
def fresh(plugin: Path, tmp_path: Path) -> Iterator[tuple[Site, str]]:
    """A node that no agent ever ran on, and what its kernel has."""
    with real_node(plugin, tmp_path, start=False) as site:
        yield site, kernel_state()


PARTS = ("--only", "plugin", "--only", "unit", "--only", "hints")


def test_uninstall_leaves_nothing_of_ours(fresh: tuple[Site, str]) -> None:
    site, before = fresh
    assert berth_node("install", *PARTS, "--plugin", str(site.plugin)).returncode == 0
    assert Path("/opt/cni/bin/berth").read_bytes() == site.plugin.read_bytes()
    site.start()
    site.ready()
    site.add("pod-a")
    assert site.call("DEL", "pod-a").code == 0
    site.stop()
    assert kernel_state() != before
    done = berth_node("uninstall", "--config", str(site.folder / "node.toml"))
    assert done.returncode == 0, done.stderr
    assert kernel_state() == before
    ours = (RUN, Path("/opt/cni/bin/berth"), NET_D / "10-berth.conflist")
    assert [p for p in ours if p.exists()] == []
    assert list(Path("/var/lib/berth").glob("*")) == []
    assert not Path("/etc/systemd/system/berth-node.service").exists()
    assert berth_node("uninstall").returncode == 0, "twice does no harm"


def test_uninstall_refuses_while_pods_exist_unless_forced(fresh: tuple[Site, str]) -> None:
    site, before = fresh
    site.start()
    site.ready()
    address = site.add("pod-a")
    site.stop(signal.SIGKILL)
    config = ("--config", str(site.folder / "node.toml"))
    done = berth_node("uninstall", *config)
    assert done.returncode == 1
    assert "1 pods still have their network from Berth" in done.stderr
    assert address in done.stderr
    assert kernel_state() != before
    done = berth_node("uninstall", "--force", *config)
    assert done.returncode == 0, done.stderr
    assert kernel_state() == before


def test_uninstall_refuses_while_an_agent_runs(fresh: tuple[Site, str]) -> None:
    site, _ = fresh
    site.start()
    site.ready()
    done = berth_node("uninstall", "--config", str(site.folder / "node.toml"))
    assert done.returncode == 1
    assert "another agent runs on this node" in done.stderr
    assert site.status_ok()


def test_what_others_made_stays_when_berth_leaves(fresh: tuple[Site, str]) -> None:
    site, _ = fresh
    netns.ip_batch(NODE, ["rule add priority 500 fwmark 0x200 lookup 2004", "route add 192.0.2.0/24 via 10.0.1.1"])
    netns.run(NODE, ["nft", "add", "table", "ip", "berthold"])
    before = kernel_state()
    site.start()
    site.ready()
    site.stop()
    assert berth_node("uninstall", "--config", str(site.folder / "node.toml")).returncode == 0
    assert kernel_state() == before


def test_the_bundle_runs_by_itself_and_installs_itself(plugin: Path, tmp_path: Path) -> None:
    """With nothing on Python's path: the agent of the bundle, from where it installed itself."""
    folder = ROOT / "build" / "node" / os.uname().machine / "berth-node"
    if not folder.exists():
        pytest.skip("no bundle is built: python -m scripts.build_node")
    python = os.path.realpath(sys.executable)
    clean = {"PATH": os.environ["PATH"]}
    with real_node(plugin, tmp_path, start=False) as site, netns.inside(NODE):
        argv = [python, "-I", str(folder), "install", "--only", "agent", "--root", str(tmp_path / "root"), "--json"]
        done = subprocess.run(argv, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        tree = next(s["path"] for s in json.loads(done.stdout)["steps"] if s["path"].startswith("/opt/berth/"))
        installed = tmp_path / "root" / tree[1:]
        assert list((installed / "berth_node" / "__pycache__").glob("agent.*.pyc")), "compiled when installed"
        site.command = [python, "-I", str(installed)]
        site.start()
        site.ready()
        site.add("pod-a")
        assert site.ask("check")["same"] is True
