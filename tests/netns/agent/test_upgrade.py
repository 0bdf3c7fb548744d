"""Agent and plugin are replaced while pods come and go: none of them notices."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from berth_node.cli import main
from berth_node.dataplane.messages import REAP_GROUP

from scripts.build_node import WIRE_FORMATS
from tests.netns.agent.conftest import ROOT, Answer, Site, eventually
from tests.netns.agent.real import NODE, real_node
from tests.sandbox import netns
from tests.sandbox.ping import ping

pytestmark = pytest.mark.long
PLUGIN = Path("/opt/cni/bin/berth")
LOOPS, UPGRADES = 3, 3


@pytest.fixture
def site(plugin: Path, tmp_path: Path) -> Iterator[Site]:
    """A node with the real data plane, whose plugin is started from where runtimes find it."""
    with real_node(plugin, tmp_path, start=False) as made:
        made.settings = {"add_wait_seconds": 30}
        install(plugin)
        made.plugin = PLUGIN
        made.serve("10.0.1.16/28", "10.0.1.32/28", "10.0.1.48/28", cooldown=0)
        made.start()
        made.ready()
        yield made


def install(plugin: Path) -> None:
    assert main(["install", "--only", "plugin", "--plugin", str(plugin)]) == 0


def release(folder: Path, version: str) -> Path:
    """Another release of the agent: a folder that Python runs, as the bundle is."""
    shutil.copytree(ROOT / "node_agent" / "berth_node", folder / "berth_node")
    (folder / "berth").mkdir()
    for name in WIRE_FORMATS:
        shutil.copy(ROOT / "layers" / "berth" / "berth" / name, folder / "berth" / name)
    (folder / "berth_node" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (folder / "__main__.py").write_text("import sys\nfrom berth_node.cli import main\nsys.exit(main())\n")
    return folder


def running(site: Site) -> str:
    """The release that answers."""
    (info,) = (m for m in site.ask("metrics")["metrics"] if m["name"] == "berth_build_info")
    return str(info["samples"][0]["labels"]["version"])


class Runtime:
    """Makes and removes pods one after the other until told to stop, and keeps what the plugin said."""

    def __init__(self, site: Site, number: int) -> None:
        self._site, self._number = site, number
        self.failed: list[str] = []
        self.done = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            pod = f"busy-{self._number}-{self.done}"
            netns.create(pod)
            try:
                for command in ("ADD", "DEL"):
                    answer = self._call(command, pod)
                    if answer.code != 0:
                        self.failed.append(f"{command} {pod}: {answer.text}")
            finally:
                netns.delete(pod)
            self.done += 1

    def _call(self, command: str, pod: str) -> Answer:
        environment = self._site.environment(command, pod)
        config = json.dumps({"cniVersion": "1.1.0", "name": "berth", "type": "berth"})
        with netns.inside(NODE):
            done = subprocess.run([PLUGIN], env=environment, input=config, capture_output=True, text=True, timeout=60)
        return Answer(done.returncode, done.stdout + done.stderr)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)


def rounds(runtimes: list[Runtime]) -> int:
    return sum(r.done for r in runtimes)


def come_and_go(runtimes: list[Runtime]) -> None:
    goal = rounds(runtimes) + 5
    eventually(lambda: rounds(runtimes) >= goal, "pods come and go")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_add_and_no_del_fails_while_agent_and_plugin_are_replaced(site: Site, plugin: Path, number: int) -> None:
    kept = site.add("kept")
    # another build of the same plugin: bytes after the program are none of its business
    other = site.folder / "berth"
    shutil.copy(plugin, other)
    with other.open("ab") as file:
        file.write(b"another release")
    runtimes = [Runtime(site, n) for n in range(LOOPS)]
    try:
        for turn in range(UPGRADES):
            come_and_go(runtimes)
            install(other if turn % 2 == 0 else plugin)
            before, after = site.command, release(site.folder / f"agent-{turn}", f"9.{turn}")
            site.command = [sys.executable, str(after)]
            site.stop(number)
            if turn:
                shutil.rmtree(before[1])
            assert ping(NODE, kept).ok, "pods talk on without an agent"
            site.start()
            assert running(site) == f"9.{turn}"
        come_and_go(runtimes)
    finally:
        for runtime in runtimes:
            runtime.stop()
    assert [text for r in runtimes for text in r.failed] == []
    assert [(p["container_id"], p["address"]) for p in site.ask("pods")["pods"]] == [("kept", kept)]
    assert site.ask("check")["same"] is True
    eventually(lambda: str(REAP_GROUP) not in netns.run(NODE, ["ip", "link"]).stdout, "no dead link is left")
    print(f"{rounds(runtimes)} pods over {UPGRADES} upgrades", file=sys.stderr)
