"""The CNI driver against small plugins: what it passes, how it chains, what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.netns.runtime.conftest import FakeNode
from tests.sandbox import netns
from tests.sandbox.cni import ConfigError, SpecError
from tests.sandbox.runtime import CniError, PluginTimeoutError, Pod, Runtime

Body = Callable[[str], FakeNode]


def test_add_passes_the_specifications_environment_and_configuration(fake: FakeNode) -> None:
    pod = Pod.new("web-1", "shop")
    result = fake.runtime.add(pod)
    first, second = fake.calls("ADD")
    assert {key: value for key, value in first["env"].items() if key.startswith("CNI_")} == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": f"/run/netns/{pod.netns}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;"
        f"K8S_POD_INFRA_CONTAINER_ID={pod.container_id};K8S_POD_UID={pod.uid}",
    }
    assert first["config"] == {"type": "first", "name": "pods", "cniVersion": "1.1.0"}
    assert second["config"]["prevResult"]["ips"][0]["address"] == "10.9.0.2/32"
    assert (result.address, result.raw["dns"]) == ("10.9.0.2", {"search": ["chained"]})
    assert result.seconds > 0


def test_plugins_run_inside_the_node(fake: FakeNode) -> None:
    fake.runtime.add(Pod.new("a"))
    inside = fake.node.run(["readlink", "/proc/self/ns/net"]).stdout.strip()
    assert all(call["netns"] == inside and call["pod"] and call["pid"] < 1000 for call in fake.calls())


def test_the_pods_namespace_exists_from_add_to_delete(fake: FakeNode) -> None:
    pod = Pod.new("a")
    fake.runtime.add(pod)
    assert netns.run(pod.netns, ["ip", "-br", "link", "show", "lo", "up"]).stdout
    fake.runtime.delete(pod)
    assert not netns.exists(pod.netns)


def test_delete_goes_backwards_with_the_cached_result(fake: FakeNode) -> None:
    pod = Pod.new("a")
    result = fake.runtime.add(pod)
    Runtime(fake.node).delete(pod)  # another process may have made it
    calls = fake.calls("DEL")
    assert [call["plugin"] for call in calls] == ["second", "first"]
    assert all(call["config"]["prevResult"] == result.raw for call in calls)
    fake.runtime.delete(pod, with_netns=False)
    again = fake.calls("DEL")[2:]
    assert all(call["env"]["CNI_NETNS"] == "" and "prevResult" not in call["config"] for call in again)


def test_delete_works_when_the_configuration_is_gone(fake: FakeNode) -> None:
    pod = Pod.new("a")
    fake.runtime.add(pod)
    (fake.node.dir / "net.d" / "10-test.conflist").unlink()
    fake.runtime.delete(pod)
    with pytest.raises(ConfigError, match="the agent writes one"):
        fake.runtime.add(pod)
    with pytest.raises(ConfigError):
        Runtime(fake.node).delete(pod)


def test_check_passes_the_cached_result(fake: FakeNode) -> None:
    pod = Pod.new("a")
    with pytest.raises(ConfigError, match="no cached result"):
        fake.runtime.check(pod)
    result = fake.runtime.add(pod)
    fake.runtime.check(pod)
    assert [call["config"]["prevResult"] for call in fake.calls("CHECK")] == [result.raw] * 2
    fake.configure({"type": "first"}, disableCheck=True)
    fake.runtime.check(pod)
    assert len(fake.calls("CHECK")) == 2


def test_status_gives_the_first_error(body: Body) -> None:
    fake = body("""
if command == "STATUS" and not os.path.exists("/run/berth/ready"):
    fail(50, "no address yet", details="pool")
""")
    error = fake.runtime.status()
    assert error is not None
    assert (error.code, error.message, error.details, error.plugin) == (50, "no address yet", "pool", "first")
    (fake.node.dir / "run" / "ready").touch()
    assert fake.runtime.status() is None
    assert set(fake.calls("STATUS")[0]["env"]) >= {"CNI_COMMAND", "CNI_PATH"}


def test_gc_deletes_stale_attachments_and_lists_the_valid(fake: FakeNode) -> None:
    kept, stale = Pod.new("kept"), Pod.new("stale")
    fake.runtime.add(kept)
    fake.runtime.add(stale)
    fake.runtime.gc([kept])
    assert {call["env"]["CNI_CONTAINERID"] for call in fake.calls("DEL")} == {stale.container_id}
    for call in fake.calls("GC"):
        listed = [{"containerID": kept.container_id, "ifname": "eth0"}]
        assert call["config"]["cni.dev/valid-attachments"] == listed
        assert call["config"]["cni.dev/attachments"] == listed
    fake.configure({"type": "first"}, disableGC=True)
    fake.runtime.gc([])
    assert len(fake.calls("GC")) == 2


def test_gc_goes_on_after_an_error(fake: FakeNode, tmp_path: Path) -> None:
    fake.plugin("first", "fail(100, 'cannot')", tmp_path)
    with pytest.raises(CniError, match="cannot"):
        fake.runtime.gc([])
    assert [call["plugin"] for call in fake.calls("GC")] == ["first", "second"]


def test_versions(fake: FakeNode) -> None:
    assert fake.runtime.versions("first") == ("0.3.1", "0.4.0", "1.0.0", "1.1.0")


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ({"cniVersion": "0.3.1"}, "0.3.1"),
        ({"cniVersion": "0.4.0", "cniVersions": ["0.3.1", "1.0.0", "9.9.9"]}, "1.0.0"),
        ({"cniVersion": None, "cniVersions": ["0.4.0"]}, "0.4.0"),
    ],
)
def test_the_highest_common_version_is_used(fake: FakeNode, top: dict[str, Any], expected: str) -> None:
    fake.configure({"type": "first"}, **top)
    assert fake.runtime.add(Pod.new("a")).cni_version == expected


def test_older_versions_have_no_status_gc_or_cached_delete(fake: FakeNode) -> None:
    fake.configure({"type": "first"}, cniVersion="0.3.1")
    pod = Pod.new("a")
    fake.runtime.add(pod)
    fake.runtime.check(pod)
    assert fake.runtime.status() is None
    fake.runtime.gc([])
    fake.runtime.delete(pod)
    assert [call["env"]["CNI_COMMAND"] for call in fake.calls()] == ["ADD", "DEL"]
    assert "prevResult" not in fake.calls("DEL")[0]["config"]


def test_the_lexically_first_configuration_counts(fake: FakeNode) -> None:
    (fake.node.dir / "net.d" / "00-first.conf").write_text(
        json.dumps({"cniVersion": "1.0.0", "name": "single", "type": "first"})
    )
    fake.configure({"type": "second"}, file="99-last.conflist")
    assert (fake.runtime.config().name, fake.runtime.config().plugins[0]["type"]) == ("single", "first")


def test_runtime_config_goes_to_plugins_with_the_capability(fake: FakeNode) -> None:
    fake.configure({"type": "first", "capabilities": {"portMappings": True, "bandwidth": False}}, {"type": "second"})
    values = {"portMappings": [{"hostPort": 80}], "bandwidth": {}}
    Runtime(fake.node, capabilities=values).add(Pod.new("a"))
    first, second = fake.calls("ADD")
    assert first["config"]["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}
    assert "capabilities" not in first["config"]
    assert "runtimeConfig" not in second["config"]


def test_a_failed_add_is_undone(fake: FakeNode, tmp_path: Path) -> None:
    fake.plugin("second", "if command == 'ADD': fail(11, 'later', details='pool is empty')", tmp_path)
    pod = Pod.new("a")
    with pytest.raises(CniError, match=r"ADD by plugin second failed with code 11: later \(pool is empty\)") as caught:
        fake.runtime.add(pod)
    assert caught.value.code == 11
    assert len(fake.calls("DEL")) == 2
    assert not netns.exists(pod.netns)


def test_a_plugin_that_hangs_is_killed(body: Body) -> None:
    fake = body("import time\nif command == 'ADD': time.sleep(600)")
    started = time.monotonic()
    with pytest.raises(PluginTimeoutError, match="more than 1 s"):
        Runtime(fake.node, timeout=1).add(Pod.new("a"))
    assert time.monotonic() - started < 60
    listed = fake.node.run(["sh", "-c", "cat /proc/[0-9]*/cmdline"]).stdout
    assert "/opt/cni/bin/first" not in listed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('hello')", "is not JSON"),
        ("pass", "is not JSON"),
        ("result(cniVersion='1.0.0')", "cniVersion is '1.0.0'"),
        ("result(podIP='10.0.0.1')", "keys that this version does not know: podIP"),
        ("result(interfaces=[])", "no index into 0 interfaces"),
        ("result(interfaces=[], ips=[])", "no interface of the result is eth0"),
        ("result(ips=[{'address': '10.0.0.1'}])", "must be in CIDR form"),
        ("result(ips=[{'address': '10.0.0.1/33'}])", "does not appear to be"),
        ("result(ips=[{'address': '10.0.0.1/32', 'version': '4'}])", "does not know: version"),
        ("result(ips=[{'address': '10.0.0.1/32', 'interface': True}])", "must be a int"),
        ("result(routes=[{'gw': '10.0.0.1'}])", r"routes\[0\]: KeyError"),
        ("result(routes=[{'dst': '10.0.0.1/8'}])", "has host bits set"),
        ("result(dns={'nameserver': []})", "does not know: nameserver"),
        ("sys.exit(1)", "without an error on standard output"),
        ("print('{}'); sys.exit(1)", "lacks cniVersion, code, msg"),
        ("fail(42, 'x')", "error code 42 is reserved"),
        ("fail(0, 'x')", "error code 0 is reserved"),
        ("fail(1, '')", "msg is empty"),
        ("fail(1, 'x', extra=1)", "does not know: extra"),
    ],
)
def test_what_the_specification_forbids_is_refused(body: Body, text: str, message: str) -> None:
    fake = body(f"if command == 'ADD': {text}")
    with pytest.raises(SpecError, match=message):
        fake.runtime.add(Pod.new("a"))


def test_a_verb_without_a_result_must_print_nothing(body: Body) -> None:
    fake = body("if command == 'ADD': result()\nelse: print('{}')")
    pod = Pod.new("a")
    fake.runtime.add(pod)
    with pytest.raises(SpecError, match="must print nothing"):
        fake.runtime.check(pod)


def test_old_results_name_the_ip_version(body: Body) -> None:
    fake = body("if command == 'ADD': result(ips=[{'address': '10.9.0.2/32'}])")
    fake.configure({"type": "first"}, cniVersion="0.4.0")
    with pytest.raises(SpecError, match="version must be '4'"):
        fake.runtime.add(Pod.new("a"))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[]", "must be an object"),
        ("{", "Expecting"),
        ('{"cniVersion": "1.1.0", "name": "-x", "plugins": [{"type": "first"}]}', "name: '-x'"),
        ('{"cniVersion": "1.1.0", "name": "x", "plugins": []}', "plugins: at least one"),
        ('{"cniVersion": "1.1.0", "name": "x", "plugins": [{"type": "../x"}]}', r"plugins\[0\].type"),
        ('{"cniVersion": "2.0.0", "name": "x", "plugins": [{"type": "first"}]}', "none of"),
        ('{"cniVersion": "1.1.0", "name": "x", "plugins": [{"type": "f"}], "disableGC": 1}', "disableGC"),
    ],
)
def test_a_malformed_configuration_is_named(fake: FakeNode, document: str, message: str) -> None:
    (fake.node.dir / "net.d" / "10-test.conflist").write_text(document)
    with pytest.raises(ConfigError, match=message):
        fake.runtime.config()


def test_a_missing_plugin_is_named(fake: FakeNode) -> None:
    fake.configure({"type": "absent"})
    with pytest.raises(ConfigError, match="plugin absent is not in the node's /opt/cni/bin"):
        fake.runtime.add(Pod.new("a"))


def test_concurrent_adds(fake: FakeNode) -> None:
    pods = [Pod.new(f"p{n}") for n in range(20)]
    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(fake.runtime.add, pods))
        list(pool.map(fake.runtime.delete, pods))
    assert len(results) == 20
    adds = [call for call in fake.runtime.calls if call.command == "ADD"]
    assert len(adds) == 40
    assert all(call.ok and call.seconds > 0 for call in adds)
    assert not any(netns.exists(pod.netns) for pod in pods)


def test_input_can_be_broken_on_purpose(fake: FakeNode) -> None:
    with pytest.raises(SpecError, match="without an error"):
        fake.runtime.execute("ADD", "first", b"{", {"CNI_CONTAINERID": "x"})
