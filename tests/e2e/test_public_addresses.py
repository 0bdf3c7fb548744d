"""Public addresses of pods, with real packets: the internet sees exactly that address, and reaches the pod by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from berth.contract import KIND, NODE, PodGrant

from tests.e2e.scenes import BusListener, FunctionLog, dead_letters, new_scene, settle, tell, trail_tells
from tests.sandbox.account import wait_for
from tests.sandbox.cni import CniError
from tests.sandbox.demo.asking import use_public_subnet
from tests.sandbox.demo.connectivity import INTERNET, ON_PREMISES
from tests.sandbox.demo.stages import Scene, launch, start_agents
from tests.sandbox.echo import EchoServers, tcp_echo, udp_echo
from tests.sandbox.landscape import NodeSpec
from tests.sandbox.runtime import Pod, Runtime
from tests.sandbox.stack import NETWORK_ENDPOINT

pytestmark = pytest.mark.long

UNAVAILABLE = "Public Address Unavailable"
CAPABILITY = "io.kubernetes.cri.pod-annotations"
PREFIXES = {"mode": "prefixes", "max-pods": "32", "warm-addresses": "4", "cooldown-seconds": "5"}
POOLS = ("seen", "one", "team", "hand", "late", "swept", "closed", "lost", "told", "death")
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
        result = runtime.add(pod)
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
    """Nodes in the public subnet: of prefixes, of addresses, one whose ADDs wait for a few seconds alone, and one
    whose interfaces have room for a prefix or an address each, so that a pod's single one is on another interface."""
    with new_scene(parameters={"PublicPools": ",".join(POOLS), "WatchCloudTrail": "true"}) as scene:
        use_public_subnet(scene)
        tags = {"prefixes": PREFIXES, "addresses": ADDRESSES, "impatient": PREFIXES}
        small = NodeSpec("small", "p", "t3.micro", PREFIXES)
        launch(scene, [*(NodeSpec(name, "p", "m5.large", policy) for name, policy in tags.items()), small])
        start_agents(scene)
        _make_impatient(scene, "impatient")
        yield Site(scene)
        assert dead_letters(scene) == {}


def _make_impatient(scene: Scene, name: str) -> None:
    node, outputs = scene.machines[name].node, scene.stack.outputs
    node.stop_agent()
    names = (outputs["TableName"], outputs["NodeReportsQueueUrl"])
    node.write_agent_config(*names, add_wait_seconds=12.0, report_interval_seconds=5.0)
    host, port = NETWORK_ENDPOINT
    node.start_agent({"AWS_ENDPOINT_URL": f"http://{host}:{port}"})
    wait_for("its STATUS", lambda: scene.machines[name].runtime.status() is None)


@pytest.mark.parametrize("machine", ["prefixes", "addresses", "small"])
def test_the_internet_sees_exactly_the_pods_public_address_and_reaches_the_pod_through_it(
    site: Site, machine: str
) -> None:
    allocation, public = site.allocate(public_pool="seen")
    pod = site.add(machine, "seen", public_address="pool:seen")
    plain = site.add(machine, "plain")
    assert site.at(allocation) == pod
    holder = site.scene.stack.holder(pod)
    assert holder is not None
    assert holder["Attachment"]["DeviceIndex"] == (1 if machine == "small" else 0)
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


def refused(site: Site, machine: str, name: str, namespace: str = "default", **annotations: str) -> CniError:
    with pytest.raises(CniError) as error:
        site.add(machine, name, namespace, **annotations)
    return error.value


def test_an_address_without_a_tag_or_of_a_pool_that_is_not_the_stacks_is_refused(site: Site) -> None:
    untagged, _ = site.allocate()
    told = refused(site, "impatient", "web", public_address=untagged)
    assert told.code == 11
    assert f"{untagged} is none, or has no tag berth:public-pool" in told.message
    assert site.at(untagged) == ""
    tagged, _ = site.allocate(public_pool="forbidden")
    told = refused(site, "impatient", "web", public_address=tagged)
    assert "PublicPools" in told.message
    for allocation in (untagged, tagged):
        site.ec2.release_address(AllocationId=allocation)


def test_an_empty_pool_is_told_to_the_pod_the_bus_and_the_metrics(site: Site) -> None:
    listener, log = BusListener(site.scene), FunctionLog(site.scene)
    allocation, public = site.allocate(public_pool="one")
    first = site.add("prefixes", "first", public_address="pool:one")
    told = refused(site, "impatient", "second", public_address="pool:one")
    assert told.code == 11
    assert "no address of pool:one is free: all 1 are in use" in told.message
    node = site.scene.machines["impatient"].id
    assert listener.wait_for(node, UNAVAILABLE)["pod"] == "second"
    assert log.metric("PublicAddressesUnmet") > 0
    assert site.at(allocation) == first
    site.delete("first")
    wait_for("the address to be given back", lambda: site.at(allocation) == "")
    assert site.add("impatient", "second", public_address="pool:one")
    with EchoServers() as servers:
        servers.add("internet", address=INTERNET, name="internet")
        assert tcp_echo(site.netns("second"), INTERNET).told == f"internet {public}"
    site.delete("second")
    wait_for("the address to be given back", lambda: site.at(allocation) == "")
    site.ec2.release_address(AllocationId=allocation)


def test_a_namespace_may_have_only_what_names_it(site: Site) -> None:
    allocation, _ = site.allocate(public_pool="team", namespaces="shop edge")
    told = refused(site, "impatient", "web", "default", public_address="pool:team")
    assert "namespace 'default' may have none of pool:team" in told.message
    assert site.at(allocation) == ""
    address = site.add("impatient", "web", "shop", public_address="pool:team")
    assert site.at(allocation) == address
    site.delete("web")
    wait_for("the address to be given back", lambda: site.at(allocation) == "")
    site.ec2.release_address(AllocationId=allocation)


def test_one_that_is_associated_elsewhere_by_hand_stays_there(site: Site) -> None:
    allocation, _ = site.allocate(public_pool="hand")
    assert site.scene.landscape is not None
    server = site.ec2.create_network_interface(SubnetId=site.scene.landscape.public_subnet)["NetworkInterface"]
    interface, private = server["NetworkInterfaceId"], server["PrivateIpAddress"]
    site.ec2.associate_address(AllocationId=allocation, NetworkInterfaceId=interface)
    told = refused(site, "impatient", "web", public_address=allocation)
    assert "by somebody else" in told.message
    assert site.shown(allocation)["NetworkInterfaceId"] == interface
    assert site.at(allocation) == private
    site.ec2.disassociate_address(AssociationId=site.shown(allocation)["AssociationId"])
    site.ec2.delete_network_interface(NetworkInterfaceId=interface)
    site.ec2.release_address(AllocationId=allocation)


def test_a_pod_that_need_not_wait_starts_at_once_and_gets_its_address_later(site: Site) -> None:
    pod = site.add("prefixes", "early", public_address="pool:late", public_address_wait="false")
    allocation, public = site.allocate(public_pool="late")
    with EchoServers() as servers:
        servers.add("internet", address=INTERNET, name="internet")
        servers.add(site.netns("early"), name="early")
        node = tcp_echo(site.netns("early"), INTERNET).told
        assert node.startswith("internet ")
        assert public not in node  # as the node, for as long as it has none
        wait_for("the association", lambda: site.at(allocation) == pod, 60)
        wait_for("the grant", lambda: any(g.public_address == public for g in site.grants("prefixes")))
        wait_for("a new flow", lambda: tcp_echo(site.netns("early"), INTERNET).told == f"internet {public}")
        assert tcp_echo("internet", public).told == f"early {INTERNET}"
    site.delete("early")
    wait_for("the address to be given back", lambda: site.at(allocation) == "")
    site.ec2.release_address(AllocationId=allocation)


def test_what_is_taken_off_by_hand_comes_back_with_the_next_sweep(site: Site) -> None:
    allocation, _ = site.allocate(public_pool="swept")
    pod = site.add("addresses", "swept", public_address="pool:swept")
    wait_for("the grant to be in the record", lambda: site.grants("addresses"))
    _forget_calls(site, "addresses")
    site.ec2.disassociate_address(AssociationId=site.shown(allocation)["AssociationId"])
    tell(site.scene, "fire", {"rule": "SweepRule"})
    wait_for("it to be associated again", lambda: site.at(allocation) == pod, 60)
    site.delete("swept")
    wait_for("the address to be given back", lambda: site.at(allocation) == "")
    site.ec2.release_address(AllocationId=allocation)


def test_what_is_taken_off_by_hand_comes_back_when_a_trail_tells_of_it(site: Site) -> None:
    """The call names the association alone, which is over by then."""
    allocation, _ = site.allocate(public_pool="told")
    pod = site.add("addresses", "told", public_address="pool:told")
    wait_for("the grant to be in the record", lambda: site.grants("addresses"))
    _forget_calls(site, "addresses")
    association = site.shown(allocation)["AssociationId"]
    site.ec2.disassociate_address(AssociationId=association)
    trail_tells(site.scene, "DisassociateAddress", {"associationId": association})
    wait_for("it to be associated again", lambda: site.at(allocation) == pod, 60)
    site.delete("told")
    wait_for("the address to be given back", lambda: site.at(allocation) == "")
    site.ec2.release_address(AllocationId=allocation)


def _forget_calls(site: Site, machine: str) -> None:
    """What Berth has done holds over what EC2 shows for a minute, which a test need not wait for."""
    stack = site.scene.stack
    key = {NODE: {"S": stack.arn(site.scene.machines[machine].id)}, KIND: {"S": "intents"}}
    stack.client("dynamodb").delete_item(TableName=stack.outputs["TableName"], Key=key)


def test_one_that_loses_its_tag_stays_with_its_pod_and_goes_to_the_next_once_it_has_it_again(site: Site) -> None:
    allocation, public = site.allocate(public_pool="lost")
    pod = site.add("addresses", "lost", public_address="pool:lost")
    tag = {"Key": "berth:public-pool", "Value": "lost"}
    site.ec2.delete_tags(Resources=[allocation], Tags=[tag])
    listener, log = BusListener(site.scene), FunctionLog(site.scene)
    _age_claim(site, allocation)
    tell(site.scene, "fire", {"rule": "SweepRule"})
    wait_for("the pod to be told", lambda: "has lost the tag" in _grant_at(site, "addresses", pod).problem)
    with EchoServers() as servers:
        servers.add("internet", address=INTERNET, name="internet")
        assert tcp_echo(site.netns("lost"), INTERNET).told == f"internet {public}"
    node = site.scene.machines["addresses"].id
    told = wait_for("the event", lambda: [e for e in listener.of(node, UNAVAILABLE) if e["pod"] == "lost"])
    assert "has lost the tag" in told[0]["reason"]
    assert log.metric("PublicAddressesUntagged") > 0
    other = site.add("addresses", "other", public_address="pool:lost", public_address_wait="false")
    site.delete("lost")
    site.delete("other")
    settle(site.scene)
    assert _grant_at(site, "addresses", pod).public_address == public
    assert site.at(allocation) == pod
    plain = [site.add("addresses", f"plain-{n}") for n in range(6)]
    assert pod not in plain
    assert other not in plain
    site.ec2.create_tags(Resources=[allocation], Tags=[tag])
    following = site.add("addresses", "following", public_address="pool:lost")
    assert following != pod
    assert site.at(allocation) == following
    for name in ("following", *(f"plain-{n}" for n in range(6))):
        site.delete(name)
    wait_for("the address to be given back", lambda: site.at(allocation) == "")
    site.ec2.release_address(AllocationId=allocation)


def _age_claim(site: Site, allocation: str) -> None:
    """The sweep leaves claims of the last two minutes to those who are at work on them."""
    stack = site.scene.stack
    stack.client("dynamodb").update_item(
        TableName=stack.outputs["TableName"],
        Key={NODE: {"S": "public"}, KIND: {"S": allocation}},
        UpdateExpression="SET claimed_at = :then",
        ExpressionAttributeValues={":then": {"N": "1"}},
    )


def _grant_at(site: Site, machine: str, address: str) -> PodGrant:
    return next((g for g in site.grants(machine) if g.address == address), PodGrant(""))


def test_a_closed_security_group_keeps_the_internet_out(site: Site) -> None:
    allocation, public = site.allocate(public_pool="closed")
    site.add("prefixes", "closed", public_address="pool:closed")
    assert site.scene.landscape is not None
    group, everything = site.scene.landscape.security_group, _rules(site)
    with EchoServers() as servers:
        servers.add("internet", address=INTERNET, name="internet")
        servers.add(site.netns("closed"), name="closed")
        assert tcp_echo("internet", public).told == f"closed {INTERNET}"
        site.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=everything)
        try:
            wait_for("the group to be closed", lambda: tcp_echo("internet", public, timeout=0.5).told == "timeout")
            assert tcp_echo(site.netns("closed"), INTERNET).told == f"internet {public}"
        finally:
            site.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=everything)
    site.delete("closed")
    wait_for("the address to be given back", lambda: site.at(allocation) == "")
    site.ec2.release_address(AllocationId=allocation)


def _rules(site: Site) -> list[dict[str, Any]]:
    assert site.scene.landscape is not None
    shown = site.ec2.describe_security_groups(GroupIds=[site.scene.landscape.security_group])["SecurityGroups"][0]
    return list(shown["IpPermissions"])


def test_a_node_that_is_terminated_gives_all_back(site: Site) -> None:
    """Last: the node is gone then."""
    allocation, _ = site.allocate(public_pool="death")
    site.add("prefixes", "last", public_address="pool:death")
    site.ec2.terminate_instances(InstanceIds=[site.scene.machines["prefixes"].id])
    wait_for("the address to be given back", lambda: site.at(allocation) == "")
    wait_for("the claim to be given up", lambda: not _claims(site), 60)


def _claims(site: Site) -> list[Any]:
    stack = site.scene.stack
    answer = stack.client("dynamodb").query(
        TableName=stack.outputs["TableName"],
        KeyConditionExpression="#n = :p",
        ExpressionAttributeNames={"#n": NODE},
        ExpressionAttributeValues={":p": {"S": "public"}},
    )
    return list(answer["Items"])
