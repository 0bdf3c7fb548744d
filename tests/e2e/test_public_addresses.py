"""Public addresses of pods, with real packets: the internet sees exactly that address, and reaches the pod by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from berth.contract import PodGrant

from tests.e2e.scenes import FunctionLog, dead_letters, new_scene
from tests.sandbox.account import wait_for
from tests.sandbox.cni import CniError
from tests.sandbox.demo.connectivity import INTERNET, ON_PREMISES
from tests.sandbox.demo.stages import Scene, launch, start_agents
from tests.sandbox.echo import EchoServers, tcp_echo, udp_echo
from tests.sandbox.landscape import NodeSpec
from tests.sandbox.runtime import Pod, Runtime

CAPABILITY = "io.kubernetes.cri.pod-annotations"
PREFIXES = {"mode": "prefixes", "max-pods": "32", "warm-addresses": "4", "cooldown-seconds": "5"}
ADDRESSES = {"mode": "addresses", "max-pods": "27", "warm-addresses": "4", "cooldown-seconds": "5"}


@dataclass(slots=True)
class Site:
    """Nodes in the public subnet, and the pool ``blue``."""

    scene: Scene
    pods: dict[str, tuple[Runtime, Pod]] = field(default_factory=dict)

    @property
    def ec2(self) -> Any:
        return self.scene.stack.client("ec2")

    def allocate(self, **tags: str) -> tuple[str, str]:
        """An Elastic IP address: (allocation id, address). ``tags`` of the prefix ``berth:``."""
        listed = [{"Key": f"berth:{k.replace('_', '-')}", "Value": v} for k, v in tags.items()]
        about = [{"ResourceType": "elastic-ip", "Tags": listed}] if listed else []
        made = self.ec2.allocate_address(Domain="vpc", TagSpecifications=about)
        return str(made["AllocationId"]), str(made["PublicIp"])

    def shown(self, allocation_id: str) -> dict[str, Any]:
        (found,) = self.ec2.describe_addresses(AllocationIds=[allocation_id])["Addresses"]
        return dict(found)

    def at(self, allocation_id: str) -> str:
        """The private address that it is associated with, or nothing."""
        return str(self.shown(allocation_id).get("PrivateIpAddress") or "")

    def add(self, machine: str, name: str, namespace: str = "default", **annotations: str) -> str:
        """ADD a pod with ``berth/…`` annotations; returns its address. Raises :class:`CniError`."""
        node = self.scene.machines[machine].node
        asked = {f"berth/{key.replace('_', '-')}": value for key, value in annotations.items()}
        runtime, pod = Runtime(node, capabilities={CAPABILITY: asked}), Pod.new(name, namespace)
        try:
            result = runtime.add(pod)
        except CniError:
            for line in FunctionLog(self.scene)._path.read_text().splitlines()[-60:]:
                print(line[:1500])
            raise
        self.pods[name] = runtime, pod
        return result.ips[0].address.partition("/")[0]

    def delete(self, name: str) -> None:
        runtime, pod = self.pods.pop(name)
        runtime.delete(pod)

    def netns(self, name: str) -> str:
        return self.pods[name][1].netns

    def grants(self, machine: str) -> tuple[PodGrant, ...]:
        record = self.scene.stack.record(self.scene.machines[machine].id)
        return record.grants if record else ()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_scene() as scene:
        assert scene.landscape is not None
        public = scene.landscape.public_subnet
        scene.landscape = replace(scene.landscape, subnets={**scene.landscape.subnets, "p": public})
        scene.free_before["p"] = scene.stack.free_addresses(public)
        ec2 = scene.stack.client("ec2")
        ec2.create_tags(Resources=[public], Tags=[{"Key": "berth:allowed", "Value": "true"}])
        ec2.modify_subnet_attribute(SubnetId=public, MapPublicIpOnLaunch={"Value": True})
        launch(
            scene, [NodeSpec("prefixes", "p", "m5.large", PREFIXES), NodeSpec("addresses", "p", "m5.large", ADDRESSES)]
        )
        start_agents(scene)
        yield Site(scene)
        assert dead_letters(scene) == {}


@pytest.mark.parametrize("machine", ["prefixes", "addresses"])
def test_the_internet_sees_exactly_the_pods_public_address_and_reaches_the_pod_through_it(
    site: Site, machine: str
) -> None:
    allocation, public = site.allocate(public_pool="seen")
    pod = site.add(machine, "seen", public_address="pool:seen")
    plain = site.add(machine, "plain")
    assert site.at(allocation) == pod
    with EchoServers() as servers:
        servers.add("internet", address=INTERNET, name="internet")
        servers.add("onprem", address=ON_PREMISES, name="onprem")
        servers.add(site.netns("seen"), name="seen")
        servers.add(site.netns("plain"), name="plain")
        for how in (tcp_echo, udp_echo):
            assert how(site.netns("seen"), INTERNET).told == f"internet {public}"
            assert how("internet", public).told == f"seen {INTERNET}"
            assert how(site.netns("plain"), pod).told == f"seen {plain}"
            assert how(site.netns("seen"), plain).told == f"plain {pod}"
    site.delete("seen")
    wait_for("the address to be given back", lambda: site.at(allocation) == "")
    site.delete("plain")
    site.ec2.release_address(AllocationId=allocation)
