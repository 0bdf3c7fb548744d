"""Every CNI command through the real plugin to a running agent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.netns.agent.conftest import NET_D, PREFIX, Site, eventually, record, shown


@pytest.fixture
def ready(site: Site) -> Site:
    """A node with one prefix whose agent is ready."""
    site.serve(PREFIX)
    site.start()
    site.ready()
    return site


def test_add_gives_an_address_of_the_node_and_del_takes_it_back(ready: Site) -> None:
    answer = ready.call("ADD", "pod-a", CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web")
    assert answer.code == 0, answer.text
    body = answer.body
    assert body["cniVersion"] == "1.1.0"
    assert body["ips"] == [{"address": "10.0.1.16/32", "gateway": "169.254.1.1", "interface": 1}]
    assert body["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]
    assert body["interfaces"][1]["sandbox"] == "/run/netns/pod-a"
    assert [p["name"] for p in ready.ask("pods")["pods"]] == ["web"]
    assert ready.call("DEL", "pod-a").code == 0
    assert ready.ask("pods")["pods"] == []
    assert ready.ask("status")["cooling"] == 1


def test_add_a_second_time_gives_the_same_answer_and_a_second_interface_another_address(ready: Site) -> None:
    first = ready.call("ADD", "pod-a")
    assert ready.call("ADD", "pod-a").text == first.text
    second = ready.call("ADD", "pod-a", CNI_IFNAME="net1")
    assert second.body["ips"][0]["address"] == "10.0.1.17/32"


def test_del_of_an_unknown_container_succeeds_with_nothing_to_say(ready: Site) -> None:
    answer = ready.call("DEL", "never-seen", CNI_NETNS="")
    assert (answer.code, answer.text) == (0, "")


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_each_spec_version_gets_its_result(ready: Site, version: str) -> None:
    body = ready.call("ADD", "pod-a", version=version).body
    assert body["cniVersion"] == version
    assert ("version" in body["ips"][0]) == version.startswith("0.")


def test_check_passes_for_a_pod_as_add_left_it_and_names_what_is_wrong_otherwise(ready: Site) -> None:
    result = ready.call("ADD", "pod-a").body
    assert ready.call("CHECK", "pod-a", prevResult=result).code == 0
    other = {**result, "ips": [{**result["ips"][0], "address": "10.9.9.9/32"}]}
    wrong = ready.call("CHECK", "pod-a", prevResult=other)
    assert wrong.body["code"] == 100
    assert "10.9.9.9/32, not 10.0.1.16/32" in wrong.body["details"]
    assert ready.call("CHECK", "pod-a").body["code"] == 7
    ready.pod("pod-b")
    assert ready.call("CHECK", "pod-b", prevResult=result).body["code"] == 3


def test_gc_removes_what_is_not_listed_and_needs_the_list(ready: Site) -> None:
    for name in ("pod-a", "pod-b", "pod-c"):
        ready.add(name)
    refused = ready.call("GC")
    assert refused.body["code"] == 7
    assert "cni.dev/valid-attachments" in refused.body["msg"]
    keep = [{"containerID": "pod-b", "ifname": "eth0"}]
    config = {"cniVersion": "1.1.0", "name": "berth", "cni.dev/valid-attachments": keep}
    assert ready.call("GC", stdin=json.dumps(config).encode()).code == 0
    assert [p["container_id"] for p in ready.ask("pods")["pods"]] == ["pod-b"]


def test_version_is_answered(ready: Site) -> None:
    body = ready.call("VERSION").body
    assert body["supportedVersions"] == ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert ready.call("VERSION", stdin=b"").body == body


def test_a_configuration_of_a_megabyte_and_check_and_del_with_such_a_result_pass(ready: Site) -> None:
    padding = "x" * (1 << 20)
    result = ready.call("ADD", "pod-a", padding=padding).body
    many = [{"dst": f"10.{n >> 8}.{n & 255}.0/24"} for n in range(40_000)]
    large = {**result, "routes": [*result["routes"], *many]}
    assert len(json.dumps(large)) > 1 << 20
    assert ready.call("CHECK", "pod-a", padding=padding, prevResult=large).code == 0
    assert ready.call("DEL", "pod-a", padding=padding, prevResult=large).code == 0
    assert ready.ask("pods")["pods"] == []


def test_a_previous_result_of_a_megabyte_passes_both_ways(ready: Site) -> None:
    routes = [{"dst": f"10.{i >> 8 & 255}.{i & 255}.0/24", "gw": "10.0.0.1"} for i in range(26_000)]
    ready.pod("pod-a")
    answer = ready.call("ADD", "pod-a", prevResult={"cniVersion": "1.1.0", "routes": routes})
    assert len(answer.text) > 1_000_000
    assert answer.body["routes"][:-1] == routes


@pytest.mark.parametrize(
    ("stdin", "code", "told"),
    [
        (b"", 6, "is not JSON"),
        (b'{"cniVersion": "1.0.0"', 6, "is not JSON"),
        (b'{"cniVersion": "2.0.0", "name": "berth"}', 1, "berth speaks 0.3.1"),
        (b'{"cniVersion": "1.0.0"}', 7, "'name' must be"),
    ],
)
def test_a_malformed_configuration_has_its_code_and_says_what_to_do(
    ready: Site, stdin: bytes, code: int, told: str
) -> None:
    answer = ready.call("ADD", "pod-a", stdin=stdin)
    assert answer.code == 1
    assert answer.body["code"] == code
    assert told in answer.body["msg"]


def test_a_missing_variable_is_code_4_and_named(ready: Site) -> None:
    answer = ready.call("ADD", "pod-a", CNI_CONTAINERID="", CNI_IFNAME="")
    assert (answer.body["code"], answer.code) == (4, 1)
    assert "CNI_CONTAINERID and CNI_IFNAME" in answer.body["msg"]
    assert ready.call("FLY").body["code"] == 4


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/run/netns/none", "cannot be opened: No such file"),
        ("/etc/passwd", "is not a namespace"),
        ("/proc/self/ns/mnt", "another type"),
        ("/proc/self/ns/net", "the node's own network namespace"),
    ],
)
def test_a_wrong_netns_is_code_8_and_takes_no_address(ready: Site, path: str, told: str) -> None:
    answer = ready.call("ADD", "pod-a", CNI_NETNS=path)
    assert answer.body["code"] == 8
    assert told in answer.body["msg"]
    assert ready.ask("status")["in_use"] == 0


def test_what_the_kernel_refuses_gives_the_address_back_at_once(ready: Site) -> None:
    (ready.folder / "refuse").touch()
    answer = ready.call("ADD", "pod-a")
    assert answer.body["code"] == 101
    assert "RTM_NEWLINK" in answer.body["msg"]
    status = ready.ask("status")
    assert (status["in_use"], status["cooling"], status["free"]) == (0, 0, 16)


def test_an_empty_pool_is_try_again_later_with_the_reason(site: Site) -> None:
    site.serve("10.0.1.9/32")
    site.start(add_wait_seconds=0.3)
    site.ready()
    site.add("pod-a")
    answer = site.call("ADD", "pod-b")
    assert answer.body["code"] == 11
    assert "no address is free: 1 are lent" in answer.body["msg"]
    assert site.status_ok()


def test_status_is_50_until_an_address_is_usable_and_the_configuration_comes_with_it(
    site: Site,
) -> None:
    conflist = NET_D / "10-berth.conflist"
    conflist.write_text('{"left": "by an earlier boot"}')
    site.start()
    answer = site.call("STATUS")
    assert answer.body["code"] == 50
    assert "no record yet" in answer.body["msg"]
    assert not conflist.exists()
    site.cloud.record = record(PREFIX)
    eventually(lambda: "no address of the record is usable" in site.call("STATUS").text, "the record is read")
    assert not conflist.exists()
    site.cloud.interfaces = shown(PREFIX)
    site.ready()
    body = json.loads(conflist.read_text())
    asked = {"io.kubernetes.cri.pod-annotations": True, "portMappings": True}
    assert body["plugins"] == [{"type": "berth", "capabilities": asked}]
    assert (body["cniVersion"], body["cniVersions"][-1]) == ("1.0.0", "1.1.0")


def test_the_sockets_are_roots_alone(ready: Site) -> None:
    for name in ("cni.sock", "admin.sock"):
        assert Path("/run/berth", name).stat().st_mode & 0o777 == 0o600
