"""What a running agent tells: metrics, health, check, and systemd, with the real kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.netns.agent.conftest import PREFIX, ROOT, Site, eventually
from tests.netns.agent.real import NODE, real_node
from tests.sandbox import netns

PORT = 61678


@pytest.fixture
def kernel(plugin: Path, tmp_path: Path) -> Iterator[Site]:
    """A node with the real data plane whose agent is ready."""
    with real_node(plugin, tmp_path) as made:
        yield made


def page(path: str, place: str = NODE) -> tuple[int, str]:
    """GET from within the node."""
    request = (
        "import sys, urllib.request, urllib.error\n"
        "try: a = urllib.request.urlopen(sys.argv[1], timeout=10)\n"
        "except urllib.error.HTTPError as e: a = e\n"
        "print(a.status); print(a.read().decode(), end='')"
    )
    done = netns.run(place, [sys.executable, "-c", request, f"http://127.0.0.1:{PORT}{path}"])
    status, _, body = done.stdout.partition("\n")
    return int(status), body


def value(body: str, sample: str) -> float:
    found = [line for line in body.splitlines() if line.startswith(sample + " ")]
    assert len(found) == 1, f"{sample} is not there once:\n{body}"
    return float(found[0].split()[-1])


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'layers/berth'}:{ROOT / 'node_agent'}"}
    argv = [sys.executable, "-m", "berth_node", "check", *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True)


def test_metrics_tell_what_happened_and_what_there_is(kernel: Site) -> None:
    kernel.add("pod-a")
    kernel.add("pod-b")
    assert kernel.call("DEL", "pod-b").code == 0
    assert kernel.call("ADD", "pod-c", CNI_NETNS="/run/netns/none").code == 1
    status, body = page("/metrics")
    assert status == 200
    requests = "berth_cni_request_seconds_count"
    assert value(body, requests + '{command="ADD",outcome="ok"}') == 2
    assert value(body, requests + '{command="ADD",outcome="bad_netns"}') == 1
    assert value(body, requests + '{command="DEL",outcome="ok"}') == 1
    assert value(body, 'berth_pool_addresses{state="in_use"}') == 1
    assert value(body, 'berth_pool_addresses{state="cooling"}') == 1
    assert value(body, 'berth_pool_addresses{state="free"}') == 14
    assert value(body, "berth_kernel_problems") == 0
    assert value(body, 'berth_source_age_seconds{source="record"}') < 30
    assert 10e6 < value(body, "process_resident_memory_bytes") < 100e6
    told = {m["name"]: m["samples"] for m in kernel.ask("metrics")["metrics"]}
    assert told["berth_pods"] == [{"labels": {}, "value": 1}]


def test_a_wait_and_the_lag_of_ec2_are_measured(kernel: Site) -> None:
    kernel.serve("10.0.1.9/32", revision=2)
    eventually(lambda: kernel.ask("status")["assigned"] == 1, "one address is left")
    kernel.add("pod-a")
    kernel.pod("pod-b")
    process = kernel.popen(kernel.environment("ADD", "pod-b"), b'{"cniVersion":"1.1.0","name":"berth","type":"berth"}')
    eventually(lambda: any(r.waiting for r in kernel.cloud.reports), "the shortage is reported")
    kernel.serve("10.0.1.9/32", PREFIX, revision=3)
    assert kernel.finish(process).code == 0
    eventually(lambda: "berth_ec2_lag_seconds_count 1" in page("/metrics")[1], "the lag is told")
    body = page("/metrics")[1]
    assert value(body, 'berth_address_wait_seconds_count{outcome="served"}') == 1
    assert value(body, "berth_ec2_lag_seconds_sum") > 0
    assert value(body, 'berth_reports_total{outcome="sent"}') >= 1


def test_health_is_the_agents_and_readiness_the_nodes(plugin: Path, tmp_path: Path) -> None:
    with real_node(plugin, tmp_path, start=False) as site:
        site.cloud.record = None
        site.start()
        assert page("/healthz") == (200, "ok\n")
        status, body = page("/readyz")
        assert status == 503
        assert "the node has no record yet" in body
        site.serve(PREFIX)
        site.ready()
        assert page("/readyz") == (200, "ok\n")


def test_a_port_that_is_taken_stops_no_pod(plugin: Path, tmp_path: Path) -> None:
    with real_node(plugin, tmp_path, start=False) as site:
        with netns.open_socket(NODE) as other:
            other.bind(("127.0.0.1", PORT))
            other.listen()
            site.start()
            site.ready()
            site.add("pod-a")
            assert "address already in use" in site.ask("status")["trouble"]["metrics"]


def test_metrics_on_a_unix_socket(plugin: Path, tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    with real_node(plugin, tmp_path, start=False) as site:
        site.start(metrics_listen=str(path))
        eventually(path.exists, "it listens")
        with socket.socket(socket.AF_UNIX) as s, s.makefile("rb") as answer:
            s.settimeout(10)
            s.connect(str(path))
            s.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
        site.stop()
        assert not path.exists()


def test_check_says_that_all_is_well_and_finds_what_was_taken_away(kernel: Site) -> None:
    result = kernel.call("ADD", "pod-a").body
    kernel.add("pod-b")
    done = check()
    assert (done.returncode, done.stdout) == (0, "2 pods compared with the kernel, 0 differ\n")
    host = result["interfaces"][0]["name"]

    def differs() -> subprocess.CompletedProcess[str] | None:
        netns.ip_batch(NODE, [f"link set {host} down"])  # the agent takes it up again, ever later if this goes on
        done = check("--json")
        return done if done.returncode == 3 else None

    done = eventually(differs, "a look before the agent has mended it")
    assert f'"{host}: the host link is down"' in done.stdout
    assert '"same": false' in done.stdout


class Systemd:
    """Listens as systemd does."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(20)
        self.seen: list[str] = []

    def close(self) -> None:
        self._socket.close()

    def hear(self, what: str) -> bool:
        """Until it is told; a time-out raises."""
        while not any(line.startswith(what) for line in self.seen):
            self.seen += self._socket.recv(4096).decode().splitlines()
        return True


def test_systemd_hears_ready_alive_and_stopping(plugin: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with closing(Systemd(tmp_path / "notify")) as systemd:
        _heard(systemd, plugin, tmp_path, monkeypatch)


def _heard(systemd: Systemd, plugin: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "900000")
    with real_node(plugin, tmp_path) as site:
        site.add("pod-a")
        assert systemd.hear("STATUS=ready; 1 pods, 15 addresses free")
        assert systemd.hear("WATCHDOG=1")
        assert systemd.seen[0] == "READY=1"
        site.stop()
        assert systemd.hear("STOPPING=1")
