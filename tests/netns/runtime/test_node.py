"""A node's processes: namespaces, mounts, agent, death."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.sandbox import netns
from tests.sandbox.node import MOUNTS, Node, NodeError
from tests.sandbox.waiting import eventually
from tests.sandbox.world import netns_path

SLEEP = [sys.executable, "-IS", "-c", "import time; print('up', flush=True); time.sleep(600)"]


def test_a_node_runs_in_its_own_namespaces(node: Node) -> None:
    seen = node.run(["readlink", "/proc/self/ns/net", "/proc/self/ns/pid", "/proc/self/ns/mnt"]).stdout.split()
    with netns.inside(node.id):
        assert seen[0] == os.readlink("/proc/thread-self/ns/net")
    assert seen[1] != os.readlink("/proc/self/ns/pid")
    assert seen[2] != os.readlink("/proc/self/ns/mnt")
    assert node.run(["cat", "/proc/1/comm"]).stdout.strip().startswith("python")
    assert node.run(["ls", "/sys/class/net"]).stdout.split() == ["lo"]


def test_agent_and_plugin_paths_are_the_nodes_own_files(node: Node) -> None:
    for name, target in MOUNTS.items():
        (node.dir / name / "outside").write_text(name)
        assert node.run(["cat", f"{target}/outside"]).stdout == name
        assert not Path(target, "outside").exists()
    node.run(["touch", "/var/lib/berth/inside"])
    assert (node.dir / "lib" / "inside").exists()


def test_a_pods_namespace_made_later_appears_in_the_node(node: Node) -> None:
    netns.create("later")
    inode = os.stat(netns_path("later")).st_ino
    assert node.run(["stat", "-c", "%i", "/run/netns/later"]).stdout.strip() == str(inode)
    netns.delete("later")
    assert node.run(["test", "-e", "/run/netns/later"]).returncode == 1


def test_a_reboot_keeps_var_lib_and_clears_run(node: Node) -> None:
    node.run(["touch", "/run/berth/gone", "/var/lib/berth/kept"])
    first = node.init_pid()
    node.shutdown()
    assert node.status().init_pid is None
    assert node.boot() != first
    assert node.run(["ls", "/run/berth", "/var/lib/berth"]).stdout.split() == ["/run/berth:", "/var/lib/berth:", "kept"]


def test_booting_twice_changes_nothing(node: Node) -> None:
    assert Node(node.id).boot() == node.init_pid()


def test_shutdown_kills_everything_in_the_node(node: Node) -> None:
    agent = node.start_agent(argv=SLEEP)
    other = Node(node.id)
    assert other.agent_alive()
    other.shutdown()
    assert (node.agent_alive(), node.agent_pid()) == (False, None), agent
    with pytest.raises(NodeError, match=r"call boot\(\) first"):
        node.run(["true"])
    other.shutdown()


def test_the_agent_is_started_stopped_and_logged(node: Node) -> None:
    assert not node.agent_alive()
    pid = node.start_agent({"EXTRA": "1"}, argv=SLEEP)
    environ = dict(item.split("=", 1) for item in Path(f"/proc/{pid}/environ").read_text().split("\0") if item)
    assert environ["EXTRA"] == "1"
    assert not [name for name in environ if name.startswith("AWS_")]
    assert eventually(lambda: node.log() == "up")
    with pytest.raises(NodeError, match="running already"):
        node.start_agent(argv=SLEEP)
    Node(node.id).stop_agent()
    assert not node.agent_alive()
    node.stop_agent()


def test_an_agent_that_ignores_its_signal_is_reported(node: Node) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    node.start_agent(argv=[sys.executable, "-IS", "-c", stubborn])
    assert eventually(lambda: node.log() == "up")
    with pytest.raises(NodeError, match="ignored signal 15"):
        node.stop_agent(timeout=0.2)
    node.stop_agent(signal.SIGKILL)
    assert node.status().agent_pid is None


def test_the_agents_configuration_is_toml(node: Node) -> None:
    import tomllib

    written = node.write_agent_config("table-1", "http://q/1", region="eu-west-1", report_seconds=0.5, snat=True)
    assert tomllib.loads(written.read_text()) == {
        "table": "table-1",
        "reports_queue_url": "http://q/1",
        "region": "eu-west-1",
        "report_seconds": 0.5,
        "snat": True,
    }
    assert node.run(["test", "-r", "/etc/berth/node.toml"]).returncode == 0


def test_a_node_without_a_network_namespace_is_refused() -> None:
    with pytest.raises(NodeError, match="the fabric makes it"):
        Node("i-00000000000000000").boot()


def test_status_names_what_is_there(node: Node, tmp_path: Path) -> None:
    (tmp_path / "berth").write_text("#!/bin/true\n")
    node.install_plugin(tmp_path / "berth")
    (node.dir / "net.d" / "10-berth.conflist").write_text("{}")
    status = node.status()
    assert (status.init_pid, status.agent_pid) == (node.init_pid(), None)
    assert (status.cni_configs, status.plugins) == (("10-berth.conflist",), ("berth",))
    assert node.run(["/opt/cni/bin/berth"]).returncode == 0
