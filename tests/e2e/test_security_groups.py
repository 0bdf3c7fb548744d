"""Security groups of pods, with real packets: a pod is reached as its groups allow, and its neighbours as before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from berth.contract import KIND, NODE, Interface, PodGrant

from tests.e2e.scenes import dead_letters, new_scene, tell
from tests.sandbox.account import wait_for
from tests.sandbox.cni import CniError
from tests.sandbox.demo.stages import Scene, launch, start_agents
from tests.sandbox.echo import EchoServers, tcp_echo
from tests.sandbox.landscape import NodeSpec, allowed_group
from tests.sandbox.runtime import Pod, Runtime
from tests.sandbox.stack import NETWORK_ENDPOINT

pytestmark = pytest.mark.long

CAPABILITY = "io.kubernetes.cri.pod-annotations"
TAGS = {"mode": "prefixes", "max-pods": "32", "warm-addresses": "4", "cooldown-seconds": "5"}
PARAMETERS = {"PodGroupProfiles": "web=sg-0123abcd", "PodGroupNamespaces": "open=*,limited=web"}
OPEN_PORT, CLOSED_PORT = 8080, 9090


@dataclass(slots=True)
class Site:
    """Three nodes; a group that lets in TCP to one port alone, and lets out what it likes."""

    scene: Scene
    group: str = ""
    pods: dict[str, tuple[Runtime, Pod]] = field(default_factory=dict)

    @property
    def ec2(self) -> Any:
        return self.scene.stack.client("ec2")

    def add(self, machine: str, name: str, groups: str = "", namespace: str = "open") -> str:
        """ADD a pod; returns its address. Raises :class:`CniError`."""
        asked = {"berth/security-groups": groups} if groups else {}
        runtime = Runtime(self.scene.machines[machine].node, capabilities={CAPABILITY: asked})
        pod = Pod.new(name, namespace)
        result = runtime.add(pod)
        self.pods[name] = runtime, pod
        return result.ips[0].address.partition("/")[0]

    def delete(self, name: str) -> None:
        runtime, pod = self.pods.pop(name)
        runtime.delete(pod)

    def netns(self, name: str) -> str:
        return self.pods[name][1].netns

    def own(self, machine: str) -> list[Interface]:
        record = self.scene.stack.record(self.scene.machines[machine].id)
        return [i for i in record.interfaces if i.pod] if record else []

    def grants(self, machine: str) -> tuple[PodGrant, ...]:
        record = self.scene.stack.record(self.scene.machines[machine].id)
        return record.grants if record else ()

    def shown(self, machine: str = "") -> list[dict[str, Any]]:
        """Pods' own interfaces, of one node or of all, as EC2 has them."""
        filters = [{"Name": "tag-key", "Values": ["berth:pod"]}]
        if machine:
            filters.append({"Name": "tag:berth:instance", "Values": [self.scene.machines[machine].id]})
        return list(self.ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"])

    def forget_calls(self, machine: str) -> None:
        """What Berth has done a moment ago keeps the sweep away for a minute, which a test need not wait for."""
        stack = self.scene.stack
        key = {NODE: {"S": stack.arn(self.scene.machines[machine].id)}, KIND: {"S": "intents"}}
        stack.client("dynamodb").delete_item(TableName=stack.outputs["TableName"], Key=key)

    def restart_agent(self, machine: str, **config: float) -> None:
        node, outputs = self.scene.machines[machine].node, self.scene.stack.outputs
        node.stop_agent()
        if config:
            node.write_agent_config(outputs["TableName"], outputs["NodeReportsQueueUrl"], **config)
        host, port = NETWORK_ENDPOINT
        node.start_agent({"AWS_ENDPOINT_URL": f"http://{host}:{port}"})
        wait_for("its STATUS", lambda: self.scene.machines[machine].runtime.status() is None)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_scene(parameters=PARAMETERS) as scene:
        assert scene.landscape is not None
        made = Site(scene)
        made.group = allowed_group(
            made.ec2, scene.landscape.vpc, "web", OPEN_PORT
        )  # before the functions look for groups, once a minute
        launch(scene, [NodeSpec(name, "a", "m5.large", TAGS) for name in ("first", "second", "impatient")])
        start_agents(scene)
        made.restart_agent("impatient", add_wait_seconds=12.0, report_interval_seconds=5.0)
        yield made
        assert dead_letters(scene) == {}


def test_a_pod_is_reached_as_its_own_group_allows_and_its_neighbour_as_before(site: Site) -> None:
    own = site.add("first", "own", site.group)
    neighbour, far = site.add("first", "neighbour"), site.add("second", "far")
    (interface,) = site.shown()
    assert (interface["PrivateIpAddress"], [g["GroupId"] for g in interface["Groups"]]) == (own, [site.group])
    assert interface["Attachment"]["DeleteOnTermination"]
    (listed,) = site.own("first")
    assert (listed.primary_address, listed.assignments) == (own, ())
    with EchoServers() as servers:
        for name in ("own", "neighbour", "far"):
            for port in (OPEN_PORT, CLOSED_PORT):
                servers.add(site.netns(name), port, name=name)
        for client, address in (("neighbour", neighbour), ("far", far)):
            assert tcp_echo(site.netns(client), own, OPEN_PORT).told == f"own {address}"
            assert not tcp_echo(site.netns(client), own, CLOSED_PORT, timeout=1.0).ok
        for port in (OPEN_PORT, CLOSED_PORT):
            assert tcp_echo(site.netns("far"), neighbour, port).told == f"neighbour {far}"
            assert tcp_echo(site.netns("own"), neighbour, port).told == f"neighbour {own}"
            assert tcp_echo(site.netns("own"), far, port).told == f"far {own}"
        assert tcp_echo(site.scene.machines["first"].id, own, CLOSED_PORT).told.startswith("own"), (
            "as the kubelet probes it"
        )
        site.restart_agent("first")
        assert tcp_echo(site.netns("far"), own, OPEN_PORT).told == f"own {far}", "an agent came and went"
        site.forget_calls("first")
        site.ec2.modify_network_interface_attribute(
            NetworkInterfaceId=interface["NetworkInterfaceId"], Groups=[_default(site)]
        )
        tell(site.scene, "fire", {"rule": "SweepRule"})
        wait_for("the groups to be mended", lambda: [g["GroupId"] for g in site.shown()[0]["Groups"]] == [site.group])
    for name in ("own", "neighbour", "far"):
        site.delete(name)
    wait_for("the interface to be deleted", lambda: site.shown() == [])
    assert site.own("first") == []
    assert site.grants("first") == ()


def _default(site: Site) -> str:
    record = site.scene.stack.record(site.scene.machines["first"].id)
    assert record is not None
    (primary,) = [i for i in record.interfaces if i.device_index == 0]
    shown = site.ec2.describe_network_interfaces(NetworkInterfaceIds=[primary.id])["NetworkInterfaces"][0]
    return str(shown["Groups"][0]["GroupId"])


def refused(site: Site, name: str, groups: str, namespace: str = "open") -> CniError:
    with pytest.raises(CniError) as error:
        site.add("impatient", name, groups, namespace)
    return error.value


def test_a_namespace_that_may_not_name_a_group_is_told_so(site: Site) -> None:
    for namespace in ("limited", "default"):
        told = refused(site, "web", site.group, namespace)
        assert told.code == 11
        assert f"namespace '{namespace}' may not name {site.group}" in told.message
    told = refused(site, "web", "web", "limited")
    assert "sg-0123abcd not tagged berth:allowed" in told.message
    told = refused(site, "web", "nothing", "limited")
    assert "no profile 'nothing' is configured" in told.message
    assert site.shown("impatient") == []


def test_where_no_interface_is_free_the_pod_says_so(site: Site) -> None:
    """An m5.large has three, one of which is the primary."""
    for name in ("one", "two"):
        site.add("impatient", name, site.group)
    told = refused(site, "three", site.group)
    assert told.code == 11
    assert "no interface slot is free: m5.large allows 3, of which 2 are pods' own" in told.message
    site.add("impatient", "plain")
    for name in ("one", "two", "plain"):
        site.delete(name)
    wait_for("the interfaces to be deleted", lambda: site.shown("impatient") == [])
    site.add("impatient", "three", site.group)
    site.delete("three")
    wait_for("that one to be deleted", lambda: site.shown("impatient") == [])


def test_an_agent_that_lost_its_journal_knows_the_pod_from_the_kernel_and_keeps_its_interface(site: Site) -> None:
    own = site.add("second", "kept", site.group)
    node = site.scene.machines["second"].node
    node.stop_agent()
    node.run(["rm", "/run/berth/pods.journal"], check=True)
    site.restart_agent("second")
    tell(site.scene, "fire", {"rule": "SweepRule"})
    with EchoServers() as servers:
        servers.add(site.netns("kept"), OPEN_PORT, name="kept")
        assert tcp_echo(site.scene.machines["first"].id, own, OPEN_PORT).told.startswith("kept")
    assert [i.primary_address for i in site.own("second")] == [own]
    site.delete("kept")
    wait_for("the interface to be deleted", lambda: site.shown("second") == [])


def test_a_node_that_is_terminated_leaves_nothing(site: Site) -> None:
    site.add("second", "last", site.group)
    assert len(site.shown("second")) == 1
    site.scene.machines["second"].node.stop_agent()
    site.ec2.terminate_instances(InstanceIds=[site.scene.machines["second"].id])
    wait_for("its interfaces to be gone", lambda: site.shown("second") == [])
