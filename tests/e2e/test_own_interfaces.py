"""Pods with an interface of their own, in a public subnet: with a public address besides, with host ports, and as
others as to metadata, name resolution, probes and Services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.scenes import dead_letters, instance_metadata, new_scene
from tests.sandbox import netns
from tests.sandbox.account import wait_for
from tests.sandbox.demo.asking import use_public_subnet
from tests.sandbox.demo.connectivity import INTERNET
from tests.sandbox.demo.stages import Scene, launch, start_agents
from tests.sandbox.echo import EchoServers, Outcome, tcp_echo, udp_echo
from tests.sandbox.kubeproxy import MODES, KubeProxy, Mode, ServicePort
from tests.sandbox.landscape import NodeSpec, allowed_group
from tests.sandbox.runtime import Pod, Runtime

pytestmark = pytest.mark.long

CAPABILITY = "io.kubernetes.cri.pod-annotations"
TAGS = {"mode": "prefixes", "max-pods": "32", "warm-addresses": "4", "cooldown-seconds": "5"}
PARAMETERS = {"PublicPools": "both", "PodGroupNamespaces": "default=*"}
OPEN_PORT, CLOSED_PORT, HOST_PORT, DNS = 8080, 9090, 18080, 53
RESOLVER = "10.0.0.2"
"""Of the VPC: the second address after that of its network."""
KINDS = ("plain", "own", "both")


@dataclass(slots=True)
class Site:
    """On the node ``first`` a pod of each kind: like most, with security groups, with a public address too; on
    ``second`` one like most. The group lets in ``OPEN_PORT`` alone."""

    scene: Scene
    group: str
    allocation: str = ""
    public: str = ""
    pods: dict[str, tuple[Runtime, Pod]] = field(default_factory=dict)
    address: dict[str, str] = field(default_factory=dict)

    @property
    def ec2(self) -> Any:
        return self.scene.stack.client("ec2")

    def add(self, machine: str, name: str, host_port: int = 0, **annotations: str) -> None:
        asked = {f"berth/{key.replace('_', '-')}": value for key, value in annotations.items()}
        ports = [{"hostPort": host_port, "containerPort": OPEN_PORT, "protocol": "tcp"}] if host_port else []
        capabilities = {CAPABILITY: asked, "portMappings": ports}
        runtime, pod = Runtime(self.scene.machines[machine].node, capabilities=capabilities), Pod.new(name, "default")
        self.address[name] = runtime.add(pod).ips[0].address.partition("/")[0]
        self.pods[name] = runtime, pod

    def delete(self, name: str) -> None:
        runtime, pod = self.pods.pop(name)
        runtime.delete(pod)

    def netns(self, name: str) -> str:
        return self.pods[name][1].netns

    def node(self, machine: str) -> tuple[str, str]:
        """Its primary address, and the public one that stands for it."""
        (shown,) = [
            i
            for i in self.scene.stack.interfaces(self.scene.machines[machine].id)
            if not i["Attachment"]["DeviceIndex"]
        ]
        return str(shown["PrivateIpAddress"]), str(shown["Association"]["PublicIp"])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_scene(parameters=PARAMETERS) as scene:
        assert scene.landscape is not None
        use_public_subnet(scene)
        group = allowed_group(scene.stack.client("ec2"), scene.landscape.vpc, "web", OPEN_PORT)
        launch(scene, [NodeSpec(name, "p", "m5.large", TAGS) for name in ("first", "second")])
        start_agents(scene)
        made = Site(scene, group)
        about = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "berth:public-pool", "Value": "both"}]}]
        elastic = made.ec2.allocate_address(Domain="vpc", TagSpecifications=about)
        made.allocation, made.public = str(elastic["AllocationId"]), str(elastic["PublicIp"])
        made.add("first", "plain")
        made.add("first", "own", HOST_PORT, security_groups=group)
        made.add("first", "both", security_groups=group, public_address="pool:both")
        made.add("second", "far")
        yield made
        assert dead_letters(scene) == {}


@pytest.fixture(scope="module")
def served(site: Site) -> Iterator[EchoServers]:
    with EchoServers() as servers:
        for name in site.pods:
            for port in (OPEN_PORT, CLOSED_PORT):
                servers.add(site.netns(name), port, name=name)
        servers.add("internet", OPEN_PORT, INTERNET, name="internet")
        yield servers


@pytest.mark.usefixtures("served")
class TestGroupsAndAPublicAddress:
    def test_the_address_is_associated_with_the_pods_own_interface(self, site: Site) -> None:
        (shown,) = site.ec2.describe_addresses(AllocationIds=[site.allocation])["Addresses"]
        assert shown["PrivateIpAddress"] == site.address["both"]
        holder = site.scene.stack.holder(site.address["both"])
        assert holder is not None
        assert shown["NetworkInterfaceId"] == holder["NetworkInterfaceId"]
        assert [g["GroupId"] for g in holder["Groups"]] == [site.group]

    @pytest.mark.parametrize("how", [tcp_echo, udp_echo], ids=["tcp", "udp"])
    def test_the_internet_sees_its_public_address(self, site: Site, how: Callable[..., Outcome]) -> None:
        assert how(site.netns("both"), INTERNET, OPEN_PORT).told == f"internet {site.public}"
        _, node = site.node("first")
        for name in ("plain", "own"):
            assert how(site.netns(name), INTERNET, OPEN_PORT).told == f"internet {node}"

    def test_the_internet_reaches_it_where_its_group_allows_and_nowhere_else(self, site: Site) -> None:
        assert tcp_echo("internet", site.public, OPEN_PORT).told == f"both {INTERNET}"
        assert tcp_echo("internet", site.public, CLOSED_PORT, timeout=1.0).told == "timeout"
        assert udp_echo("internet", site.public, OPEN_PORT, timeout=1.0).told == "timeout"

    def test_a_changed_group_counts_at_once(self, site: Site) -> None:
        rules = [_tcp(OPEN_PORT)]
        site.ec2.revoke_security_group_ingress(GroupId=site.group, IpPermissions=rules)
        try:
            _until("timeout", lambda: tcp_echo("internet", site.public, OPEN_PORT, timeout=0.5))
            assert tcp_echo(site.netns("both"), INTERNET, OPEN_PORT).told == f"internet {site.public}"
        finally:
            site.ec2.authorize_security_group_ingress(GroupId=site.group, IpPermissions=rules)
        _until(f"both {INTERNET}", lambda: tcp_echo("internet", site.public, OPEN_PORT, timeout=0.5))

    def test_inside_it_is_reached_by_its_private_address_as_its_group_allows(self, site: Site) -> None:
        for name in ("plain", "own", "far"):
            assert tcp_echo(site.netns(name), site.address["both"], OPEN_PORT).told == f"both {site.address[name]}"
            assert not tcp_echo(site.netns(name), site.address["both"], CLOSED_PORT, timeout=1.0).ok
            assert tcp_echo(site.netns("both"), site.address[name], OPEN_PORT).told == f"{name} {site.address['both']}"


def _tcp(port: int) -> dict[str, Any]:
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


def _until(told: str, probe: Callable[[], Outcome]) -> None:
    wait_for(told, lambda: probe().told == told)


@pytest.mark.usefixtures("served")
class TestHostPort:
    def test_it_leads_to_the_pod_from_near_and_far_and_from_the_internet(self, site: Site) -> None:
        private, public = site.node("first")
        assert tcp_echo("internet", public, HOST_PORT).told == f"own {INTERNET}"
        for name in ("plain", "far", "both"):
            assert tcp_echo(site.netns(name), private, HOST_PORT).told == f"own {site.address[name]}"
        assert tcp_echo(site.netns("own"), private, HOST_PORT).told == f"own {private}"
        assert tcp_echo(site.scene.machines["second"].id, private, HOST_PORT).told.startswith("own")
        for address in (private, "127.0.0.1"):
            assert tcp_echo(site.scene.machines["first"].id, address, HOST_PORT).told == f"own {private}"

    def test_the_internet_reaches_it_only_where_the_nodes_group_allows(self, site: Site) -> None:
        assert site.scene.landscape is not None
        group, (_, public) = site.scene.landscape.security_group, site.node("first")
        rules = site.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
        site.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules)
        try:
            _until("timeout", lambda: tcp_echo("internet", public, HOST_PORT, timeout=0.5))
            site.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[_tcp(HOST_PORT)])
            _until(f"own {INTERNET}", lambda: tcp_echo("internet", public, HOST_PORT, timeout=0.5))
            site.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[_tcp(HOST_PORT)])
        finally:
            site.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rules)


class TestInstanceMetadata:
    """The hop limit decides, as for other pods; also for one whose packets leave by its own interface, unrewritten."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_pod_gets_no_token_with_a_hop_limit_of_one(self, site: Site, kind: str) -> None:
        with pytest.raises(TimeoutError):
            instance_metadata(site.netns(kind), timeout=1.5).token()

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_the_hop_limit_that_keeps_the_token_from_it(self, site: Site, kind: str) -> None:
        node, metadata = site.scene.machines["first"].id, instance_metadata(site.netns(kind), timeout=1.5)

        def answer() -> str:
            with suppress(TimeoutError):  # the change takes a moment to arrive at the instance
                return metadata.get("/latest/meta-data/instance-id")
            return ""

        try:
            site.ec2.modify_instance_metadata_options(InstanceId=node, HttpPutResponseHopLimit=2)
            assert wait_for("an answer in the pod", answer) == node
        finally:
            site.ec2.modify_instance_metadata_options(InstanceId=node, HttpPutResponseHopLimit=1)


@contextmanager
def resolver() -> Iterator[None]:
    """The VPC's, for what passes to and from it: no group judges that (VPC user guide, "Security groups")."""
    netns.run("vpc", ["ip", "address", "add", f"{RESOLVER}/32", "dev", "lo"])
    netns.run("vpc", ["nft", "insert", "rule", "ip", "fabric", "to_router", "ip", "daddr", RESOLVER, "accept"])
    try:
        yield
    finally:
        netns.run("vpc", ["ip", "address", "del", f"{RESOLVER}/32", "dev", "lo"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_vpcs_resolver_answers_a_pod_of_each_kind(site: Site, kind: str) -> None:
    with resolver(), EchoServers() as servers:
        servers.add("vpc", DNS, RESOLVER, name="resolver")
        for how in (udp_echo, tcp_echo):
            assert how(site.netns(kind), RESOLVER, DNS).told == f"resolver {site.address[kind]}"


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("kind", KINDS)
def test_its_node_probes_it_whatever_its_groups_say_and_others_do_not(site: Site, kind: str) -> None:
    private, _ = site.node("first")
    for port in (OPEN_PORT, CLOSED_PORT):
        assert tcp_echo(site.scene.machines["first"].id, site.address[kind], port).told == f"{kind} {private}"
    another = tcp_echo(site.scene.machines["second"].id, site.address[kind], CLOSED_PORT, timeout=1.0)
    assert another.ok == (kind == "plain")


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_reaches_services_with_their_backend_near_and_far(site: Site, kind: str, mode: Mode) -> None:
    backends = [name for name in ("plain", "own", "both", "far") if name != kind]
    services = {
        name: ServicePort(name, f"10.100.0.{n}", 80, (f"{site.address[name]}:{OPEN_PORT}",))
        for n, name in enumerate(backends, 1)
    }
    proxy = KubeProxy(site.scene.machines["first"].id, mode)
    proxy.apply(services.values())
    try:
        for name, service in services.items():
            assert tcp_echo(site.netns(kind), service.cluster_ip, 80).told == f"{name} {site.address[kind]}", name
    finally:
        proxy.remove()


def test_last_of_all_what_each_had_is_given_back(site: Site) -> None:
    for name in tuple(site.pods):
        site.delete(name)
    tagged = [{"Name": "tag-key", "Values": ["berth:pod"]}]
    wait_for("the interfaces to be deleted", lambda: not _found(site, tagged))
    (shown,) = site.ec2.describe_addresses(AllocationIds=[site.allocation])["Addresses"]
    assert not shown.get("PrivateIpAddress")


def _found(site: Site, filters: list[dict[str, Any]]) -> list[Any]:
    return list(site.ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"])
