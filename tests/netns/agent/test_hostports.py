"""Host ports through the real plugin, agent and kernel, over restarts and lost state."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.agent.conftest import MAC, NET_D, PREFIX, Answer, Site, eventually, node
from tests.sandbox import netns
from tests.sandbox.echo import PORT, EchoServers, tcp_echo

NODE, ADDRESS = "agent-hostports", "10.0.1.5"


@pytest.fixture
def kernel(plugin: Path, tmp_path: Path) -> Iterator[Site]:
    """A namespace with one interface, whose far end answers for nothing."""
    netns.create(NODE)
    try:
        netns.ip_batch(
            NODE,
            [
                f"link add eth0 address {MAC} type veth peer name far",
                f"addr add {ADDRESS}/24 dev eth0",
                "link set eth0 up",
                "link set far up",
                "route add default via 10.0.1.1",
            ],
        )
        with node(plugin, tmp_path, NODE) as made:
            made.serve(PREFIX)
            made.start()
            made.ready()
            yield made
    finally:
        netns.delete(NODE)


@pytest.fixture
def servers() -> Iterator[EchoServers]:
    with EchoServers() as found:
        yield found


def _mappings(*host_ports: int) -> dict[str, Any]:
    return {"portMappings": [{"hostPort": p, "containerPort": PORT, "protocol": "tcp"} for p in host_ports]}


def _add(site: Site, container: str, *host_ports: int) -> Answer:
    pod = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID=uid-{container}"
    return site.call("ADD", container, CNI_ARGS=pod, runtimeConfig=_mappings(*host_ports))


def _told(port: int, address: str = ADDRESS) -> str:
    return tcp_echo(NODE, address, port, timeout=1.0).told


def test_the_configuration_asks_runtimes_for_port_mappings(kernel: Site) -> None:
    (plugin,) = json.loads((NET_D / "10-berth.conflist").read_text())["plugins"]
    assert plugin["capabilities"]["portMappings"] is True


def test_a_pods_host_ports_live_as_long_as_the_pod(kernel: Site, servers: EchoServers) -> None:
    result = _add(kernel, "pod-a", 8080, 8081).body
    servers.add("pod-a", name="pod-a")
    for port in (8080, 8081):
        assert _told(port) == f"pod-a {ADDRESS}"
    assert kernel.call("CHECK", "pod-a", prevResult=result).code == 0
    assert kernel.ask("pods")["pods"][0]["host_ports"] == [f"tcp:8080:{PORT}", f"tcp:8081:{PORT}"]
    assert "host port tcp:8080:" in str(kernel.ask("explain", "default/pod-a"))
    assert kernel.call("DEL", "pod-a").code == 0
    assert _told(8080) == "refused"


@pytest.mark.parametrize("lost", [(), ("pods.journal",)], ids=["killed", "killed and journal lost"])
@pytest.mark.parametrize("flushed", [False, True], ids=["", "ruleset flushed"])
@pytest.mark.long
def test_host_ports_go_on_over_a_killed_agent(
    kernel: Site, servers: EchoServers, lost: tuple[str, ...], flushed: bool
) -> None:
    result = _add(kernel, "pod-a", 8080).body
    servers.add("pod-a", name="pod-a")
    kernel.stop(signal.SIGKILL)
    assert _told(8080) == f"pod-a {ADDRESS}"
    for name in lost:
        Path("/run/berth", name).unlink()
        kernel.serve(PREFIX, revision=2, cooldown=3)  # what no pod holds cools in full
    if flushed:
        netns.run(NODE, ["nft", "flush", "ruleset"])
    kernel.start()
    if flushed:  # a look that metadata was too slow for is followed by another
        eventually(lambda: _told(8080) == f"pod-a {ADDRESS}", "the port is there again")
    assert _told(8080) == f"pod-a {ADDRESS}"
    assert kernel.call("CHECK", "pod-a", prevResult=result).code == 0
    assert _add(kernel, "pod-b", 8080).body["code"] == 102
    assert kernel.call("DEL", "pod-a").code == 0
    assert _add(kernel, "pod-b", 8080).code == 0


@pytest.mark.parametrize("undone", [["nft", "flush", "ruleset"], ["ip", "route", "flush", "table", "300000000"]])
def test_a_pod_that_was_answered_but_not_written_down_keeps_what_others_took_meanwhile(
    kernel: Site, servers: EchoServers, undone: list[str]
) -> None:
    """Its agent was killed right after the answer. It must not be taken for a pod that never came to its end."""
    result = _add(kernel, "pod-a", 8080).body
    servers.add("pod-a", name="pod-a")
    journal = Path("/run/berth/pods.journal")
    eventually(lambda: '"op":"wired"' in journal.read_text(), "it is written down")
    kernel.stop(signal.SIGKILL)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"op":"wired"' not in line))
    netns.run(NODE, undone)
    kernel.start()
    eventually(lambda: _told(8080) == f"pod-a {ADDRESS}", "the port is there again")
    assert kernel.call("CHECK", "pod-a", prevResult=result).code == 0


def test_a_host_port_that_another_pod_has_is_refused_and_takes_no_address(kernel: Site) -> None:
    assert _add(kernel, "pod-a", 8080).code == 0
    refused = _add(kernel, "pod-b", 8080)
    assert (refused.code, refused.body["code"]) == (1, 102)
    assert "host port 8080/tcp is lent to pod default/pod-a (10.0.1." in refused.body["msg"]
    assert len(kernel.ask("pods")["pods"]) == 1


def test_host_ports_that_something_else_takes_away_come_back_by_themselves(kernel: Site, servers: EchoServers) -> None:
    result = _add(kernel, "pod-a", 8080).body
    servers.add("pod-a", name="pod-a")
    netns.run(NODE, ["nft", "flush", "ruleset"])
    eventually(lambda: _told(8080) == f"pod-a {ADDRESS}", "the port is back")
    assert kernel.call("CHECK", "pod-a", prevResult=result).code == 0


def test_of_two_pods_that_waited_with_the_same_host_port_one_gets_it_and_no_address_is_lost(
    kernel: Site, servers: EchoServers
) -> None:
    for number in range(16):
        assert _add(kernel, f"pod-{number}").code == 0
    text = json.dumps(
        {"cniVersion": "1.1.0", "name": "berth", "type": "berth", "runtimeConfig": _mappings(8081)}
    ).encode()
    late = {}
    for name in ("late-1", "late-2"):
        kernel.pod(name)
        late[name] = kernel.popen(kernel.environment("ADD", name), text)
    eventually(lambda: kernel.ask("status")["waiting"] == 2, "both wait")
    kernel.serve(PREFIX, "10.0.1.48/28", revision=2)
    answers = {name: kernel.finish(process) for name, process in late.items()}
    (got,) = [name for name, answer in answers.items() if answer.code == 0]
    (refused,) = [answer.body for answer in answers.values() if answer.code]
    assert refused["code"] == 102
    servers.add(got, name=got)
    assert _told(8081) == f"{got} {ADDRESS}"
    status = kernel.ask("status")
    assert (len(kernel.ask("pods")["pods"]), status["free"], status["cooling"]) == (17, 15, 0)


def test_a_pod_that_waited_for_its_address_gets_its_host_port(kernel: Site, servers: EchoServers) -> None:
    for number in range(16):
        assert _add(kernel, f"pod-{number}", *([8080] if number == 0 else [])).code == 0
    kernel.pod("late")
    text = json.dumps(
        {"cniVersion": "1.1.0", "name": "berth", "type": "berth", "runtimeConfig": _mappings(8081)}
    ).encode()
    late = kernel.popen(kernel.environment("ADD", "late"), text)
    eventually(lambda: kernel.ask("status")["waiting"], "the pod waits")
    kernel.serve(PREFIX, "10.0.1.48/28", revision=2)
    assert kernel.finish(late).code == 0
    servers.add("late", name="late")
    assert _told(8081) == f"late {ADDRESS}"
