"""An agent process over a fake data plane and a fake cloud, and the real plugin, at their real paths."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from berth.contract import Assignment, Interface, IpFamilies, Policy, Record
from berth_node.usable import MetadataInterface

from scripts import build_plugin
from tests.sandbox import netns
from tests.sandbox.world import netns_path
from tests.unit.node.cloud import ARN, FakeCloud, serving

RUN, STATE, NET_D = Path("/run/berth"), Path("/var/lib/berth"), Path("/etc/cni/net.d")
MAC = "02:aa:00:00:00:01"
PREFIX = "10.0.1.16/28"
ROOT = Path(__file__).resolve().parents[3]


def record(
    *cidrs: str,
    revision: int = 1,
    warm: int = 0,
    cooldown: int = 120,
    releasing: str = "",
    families: IpFamilies = "ipv4",
    max_pods: int = 110,
    ipv6: Sequence[str] = (),
) -> Record:
    """A record with these blocks on the primary interface, and these IPv6 prefixes."""
    assignments = tuple(Assignment(c, f"as-{c}", c == releasing) for c in cidrs)
    wide = tuple(Assignment(c, f"as-{c}") for c in ipv6)
    interface = Interface("eni-1", MAC, 0, "subnet-1", "10.0.1.0/24", "10.0.1.1", "10.0.1.5", 0, assignments, wide)
    policy = Policy(warm_addresses=warm, cooldown_seconds=cooldown, ip_families=families, max_pods=max_pods)
    return Record(ARN, revision, policy, (interface,))


def shown(*cidrs: str, ipv6: Sequence[str] = ()) -> list[MetadataInterface]:
    """Metadata that shows these blocks on the primary interface."""
    singles = tuple(c.removesuffix("/32") for c in cidrs if c.endswith("/32"))
    prefixes = tuple(c for c in cidrs if not c.endswith("/32"))
    return [MetadataInterface(MAC, 0, ("10.0.1.5", *singles), prefixes, tuple(ipv6))]


def eventually(condition: Callable[[], Any], what: str, timeout: float = 20.0) -> Any:
    """Poll another process's doing; returns what became true."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        with suppress(OSError):
            found = condition()
            if found:
                return found
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout:g} s: {what}")


def toml(value: Any) -> str:
    """A value as TOML writes it, tables inline. JSON's strings, numbers and booleans are TOML's."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


@dataclass
class Answer:
    """What the plugin printed and exited with."""

    code: int
    text: str

    @property
    def body(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.text)
        return parsed


@dataclass
class Site:
    """A node: its cloud, its agent process, its plugin."""

    cloud: FakeCloud
    folder: Path
    plugin: Path
    inside: str = ""
    pods: list[str] = field(default_factory=list)
    plugins: list[subprocess.Popen[bytes]] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    command: list[str] = field(default_factory=lambda: [sys.executable, "-m", "berth_node"])

    def serve(self, *cidrs: str, **options: Any) -> None:
        """Record and metadata both have these blocks."""
        self.cloud.interfaces = shown(*cidrs, ipv6=options.get("ipv6", ()))
        self.cloud.record = record(*cidrs, **options)

    def start(self, *, wait: bool = True, **settings: Any) -> None:
        values = {
            "table": "nodes",
            "reports_queue_url": "http://queue/reports",
            "poll_quick_seconds": 0.05,
            "poll_slow_seconds": 0.5,
            "report_debounce_seconds": 0.05,
            "report_interval_seconds": 1,
            **self.settings,
            **settings,
        }
        before = self.log().count('"message": "serving"')
        config = self.folder / "node.toml"
        config.write_text("".join(f"{k} = {toml(v)}\n" for k, v in values.items()))
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": self.cloud.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.cloud.url,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'layers/berth'}:{ROOT / 'node_agent'}",
        }
        argv = [sys.executable, "-m", "tests.netns.agent.fake_agent", str(config), str(self.folder)]
        if self.inside:
            argv = [*self.command, "agent", "--config", str(config)]
        place = netns.inside(self.inside) if self.inside else nullcontext()
        with (self.folder / "agent.log").open("ab") as log, place:
            self.process = subprocess.Popen(argv, env=environment, cwd=ROOT, stderr=log)
        if wait:
            # a killed agent leaves its socket, so that says nothing
            eventually(lambda: self.log().count('"message": "serving"') > before, "the agent serves")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process
        self.process.send_signal(number)
        code = self.process.wait(15)
        self.process = None
        return code

    def log(self) -> str:
        path = self.folder / "agent.log"
        return path.read_text() if path.exists() else ""

    def pod(self, name: str) -> Path:
        """A pod's network namespace."""
        if name not in self.pods:
            netns.create(name)
            self.pods.append(name)
        return netns_path(name)

    def environment(self, command: str, container: str = "", **changes: str) -> dict[str, str]:
        variables = {"CNI_COMMAND": command, "CNI_PATH": "/opt/cni/bin"}
        if container:
            variables |= {"CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_NETNS": str(netns_path(container))}
        return {k: v for k, v in {**variables, **changes}.items() if v}

    def popen(self, environment: Mapping[str, str], stdin: bytes) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        with netns.inside(self.inside) if self.inside else nullcontext():  # where a runtime is: beside the agent
            process = subprocess.Popen([self.plugin], env=dict(environment), stdin=pipe, stdout=pipe, stderr=pipe)
        assert process.stdin
        with suppress(BrokenPipeError):  # a plugin that refuses at once reads no configuration
            process.stdin.write(stdin)
            process.stdin.close()
        process.stdin = None
        self.plugins.append(process)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> Answer:
        out, err = process.communicate(timeout=60)
        assert err == b""
        return Answer(process.returncode, out.decode())

    def call(
        self, command: str, container: str = "", stdin: bytes | None = None, version: str = "1.1.0", **more: Any
    ) -> Answer:
        """Run the plugin as a runtime does; lower-case extras go into the configuration, CNI_… into the environment."""
        variables = {k: more.pop(k) for k in list(more) if k.startswith("CNI_")}
        if container and command == "ADD":
            self.pod(container)
        config = {"cniVersion": version, "name": "berth", "type": "berth", **more}
        text = json.dumps(config).encode() if stdin is None else stdin
        return self.finish(self.popen(self.environment(command, container, **variables), text))

    def add(self, container: str, **more: Any) -> str:
        """ADD that must succeed; returns the pod's address."""
        answer = self.call("ADD", container, **more)
        assert answer.code == 0, answer.text
        return str(answer.body["ips"][0]["address"]).removesuffix("/32")

    def status_ok(self) -> bool:
        return self.call("STATUS").code == 0

    def ready(self) -> None:
        eventually(self.status_ok, "STATUS succeeds")

    def ask(self, *arguments: str) -> Any:
        """``berth-node <arguments> --json``."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'layers/berth'}:{ROOT / 'node_agent'}"}
        argv = [sys.executable, "-m", "berth_node", *arguments, "--json"]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def plugin() -> Path:
    """The real binary; built at most once."""
    return build_plugin.build(os.uname().machine)


@contextmanager
def node(plugin: Path, folder: Path, inside: str = "") -> Iterator[Site]:
    """A fresh node: nothing in /run/berth, /var/lib/berth and /etc/cni/net.d, and nothing left of it afterwards.

    With ``inside`` the agent is the real one, data plane and all, and runs in that network namespace.
    """
    for directory in (RUN, STATE, NET_D):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    (folder / "macs").write_text(MAC)
    with serving(FakeCloud(), netns.open_socket(inside) if inside else None) as cloud:
        made = Site(cloud, folder, plugin, inside)
        try:
            yield made
        finally:
            # Plugins too: one that waits for an agent would ask the next test's.
            for process in (*made.plugins, *([made.process] if made.process else [])):
                process.kill()
                process.communicate()
            for pod in made.pods:
                netns.delete(pod)
            print(made.log() or "no agent ran")
            assert cloud.signatures_wrong == []


@pytest.fixture
def site(plugin: Path, tmp_path: Path) -> Iterator[Site]:
    """A node whose agent has a fake data plane."""
    with node(plugin, tmp_path) as made:
        yield made
