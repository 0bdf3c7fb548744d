"""Listeners: keep-alive, namespaces, and the sandbox's own paths."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.sandbox.cloud.identity import ADMIN_KEY
from tests.sandbox.cloud.platform import Platform
from tests.sandbox.cloud.server import NETWORK

from .conftest import client, wait_for


def ask(endpoint: str, path: str, body: Any = None, key: str = ADMIN_KEY) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
    data = json.dumps(body) if body is not None else None
    connection.request("POST" if data else "GET", path, data, {"Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if answer.getheader("Content-Type") == "application/json" else text


def test_a_connection_serves_many_requests(platform: Platform) -> None:
    connection = http.client.HTTPConnection(urlsplit(platform.endpoint).netloc)
    connection.connect()
    assert connection.sock
    local = connection.sock.getsockname()
    for _ in range(3):
        connection.request("GET", "/_sandbox/state", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
        assert connection.getresponse().read()
        assert connection.sock.getsockname() == local
    connection.close()


def test_the_sandboxs_own_paths_tell_what_happened(platform: Platform) -> None:
    client(platform.endpoint, "sqs").create_queue(QueueName="depth")
    client(platform.endpoint, "sqs").send_message(QueueUrl="http://x/123456789012/depth", MessageBody="x")
    status, queues = ask(platform.endpoint, "/_sandbox/queues")
    assert (status, queues["depth"]) == (200, {"visible": 1, "in_flight": 0, "delayed": 0})
    _, calls = ask(platform.endpoint, "/_sandbox/calls")
    assert calls["admin"]["sqs:SendMessage"] == {"ok": 1}
    status, answer = ask(platform.endpoint, "/_sandbox/fire", {"rule": "nothing"})
    assert (status, "no rule nothing" in answer["error"]) == (400, True)
    status, answer = ask(platform.endpoint, "/_sandbox/events", {"source": "aws.ec2", "detail-type": "x"})
    assert (status, list(answer)) == (200, ["id"])
    assert ask(platform.endpoint, "/_sandbox/unknown")[0] == 404


def test_other_parts_of_the_sandbox_can_add_paths(platform: Platform) -> None:
    platform.control.add("echo", lambda body: {"got": body["x"]})
    assert ask(platform.endpoint, "/_sandbox/echo", {"x": 1}) == (200, {"got": 1})
    assert ask(platform.endpoint, "/_sandbox/echo", {}) == (400, {"error": "'x'"})


def test_the_sandboxs_own_paths_need_the_administrators_key(platform: Platform) -> None:
    assert ask(platform.endpoint, "/_sandbox/calls", key="guess")[0] == 403


def test_the_sandboxs_own_paths_are_not_on_the_network(platform: Platform) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = platform.server.listen_fd(sock.fileno(), NETWORK)
    status, answer = ask(f"http://127.0.0.1:{port}", "/_sandbox/calls")
    assert status == 403
    assert b"MissingAuthenticationToken" in answer


def test_a_loopback_socket_made_elsewhere_is_the_sandboxs_own(platform: Platform) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = platform.server.listen_fd(sock.fileno())
    assert ask(f"http://127.0.0.1:{port}", "/_sandbox/calls")[0] == 200


def test_every_call_is_in_a_file(platform: Platform) -> None:
    client(platform.endpoint, "sqs").list_queues()
    path = Path(platform.calls._file.name) if platform.calls._file else None
    assert path
    last = wait_for(lambda: json.loads(path.read_text().splitlines()[-1]))
    assert (last["kind"], last["action"], last["outcome"]) == ("admin", "sqs:ListQueues", "ok")


_IN_NAMESPACE = """
import subprocess, sys, urllib.error, urllib.request
from pathlib import Path
from tests.sandbox.cloud.server import Server

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["berth.listener"].encode()]

subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
subprocess.run(["ip", "netns", "add", "elsewhere"], check=True)
subprocess.run(["ip", "-n", "elsewhere", "link", "set", "lo", "up"], check=True)
subprocess.run(["ip", "-n", "elsewhere", "address", "add", "198.51.100.53/32", "dev", "lo"], check=True)
server = Server(app)
server.listen_in("elsewhere", "198.51.100.53", 4566)
fetch = "import urllib.request as u; print(u.urlopen('http://198.51.100.53:4566/', timeout=5).read().decode())"
inside = subprocess.run(
    ["ip", "netns", "exec", "elsewhere", sys.executable, "-c", fetch], capture_output=True, text=True
)
outside = subprocess.run([sys.executable, "-c", fetch], capture_output=True, text=True)
print(inside.stdout.strip(), outside.returncode)
server.close()
"""


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_a_listener_in_a_namespace_is_reached_from_there_alone() -> None:
    world = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run([*world, sys.executable, "-c", _IN_NAMESPACE], capture_output=True, text=True, env=environ)
    assert done.stdout.split() == ["network", "1"], done.stderr
