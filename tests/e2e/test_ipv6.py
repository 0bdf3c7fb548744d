"""IPv6 and dual-stack pods, end to end: node groups of each kind in a VPC with IPv6, real packets of both families."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from tests.e2e.scenes import dead_letters, new_scene
from tests.sandbox import netns
from tests.sandbox.demo.stages import PlacedPod, Scene, add_pods, launch, start_agents, terminate
from tests.sandbox.echo import EchoServers, Failure, tcp_echo, udp_echo
from tests.sandbox.fabric import INTERNET_ADDRESS, INTERNET_ADDRESS6
from tests.sandbox.landscape import NodeSpec, add_ipv6
from tests.sandbox.ping import ping
from tests.sandbox.probe import Prober, Target

pytestmark = pytest.mark.long

# t3.micro: 2 interfaces with room for one IPv4 prefix, and for two addresses or prefixes of IPv6
ALPHA = NodeSpec(
    "alpha",
    "a",
    "t3.micro",
    {"mode": "prefixes", "max-pods": "32", "minimum-addresses": "20", "ip-families": "dual"},
    1,
)
BETA = NodeSpec("beta", "b", "t3.micro", {"mode": "prefixes", "max-pods": "32", "ip-families": "dual"}, 1)
GAMMA = NodeSpec("gamma", "b", "t3.micro", {"mode": "prefixes", "max-pods": "32", "ip-families": "ipv6"}, 1)
WAYS = (tcp_echo, udp_echo)


@pytest.fixture(scope="module")
def site() -> Iterator[Scene]:
    """18 pods on alpha, on two interfaces, and 2 on beta, with both families; 3 on gamma with IPv6 alone."""
    with new_scene() as scene:
        assert scene.landscape is not None
        add_ipv6(scene.endpoint, scene.landscape)
        launch(scene, [ALPHA, BETA, GAMMA])
        start_agents(scene)
        for name, count in (("alpha", 18), ("beta", 2), ("gamma", 3)):
            add_pods(scene, scene.machines[name], count, name)
        yield scene
        assert dead_letters(scene) == {}


def some(site: Scene) -> list[PlacedPod]:
    """A pod of each interface and node."""
    return list({(pod.machine, pod.interface): pod for pod in site.pods}.values())


def own_address(site: Scene, machine: str) -> str:
    """The node's own IPv6 address."""
    return str(site.stack.interfaces(site.machines[machine].id)[0]["Ipv6Addresses"][0]["Ipv6Address"])


def test_pods_have_addresses_of_their_families_that_ec2_shows_on_their_interfaces(site: Scene) -> None:
    assert {(p.machine, p.interface) for p in site.pods} == {("alpha", 0), ("alpha", 1), ("beta", 0), ("gamma", 0)}
    assert [":" in p.address for p in site.pods] == [p.machine == "gamma" for p in site.pods]
    for pod in site.pods:
        shown = site.stack.interfaces(site.machines[pod.machine].id)[pod.interface]["Ipv6Prefixes"]
        assert any(ipaddress.ip_address(pod.ipv6) in ipaddress.ip_network(p["Ipv6Prefix"]) for p in shown)
    assert len({pod.ipv6 for pod in site.pods}) == len(site.pods)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_every_pod_reaches_every_pod_with_its_own_address(site: Scene, family: str) -> None:
    addresses = {pod.pod: pod.ipv6 if family == "ipv6" else pod.address for pod in site.pods}
    targets = [Target(pod.name, pod.netns, a) for pod, a in addresses.items() if (":" in a) == (family == "ipv6")]
    with Prober(targets) as prober:
        matrix = prober.matrix()
    assert matrix.failures() == []
    assert matrix.pairs == {"ipv4": 20 * 19, "ipv6": 23 * 22}[family]


def test_pods_reach_the_internet_by_ipv6_as_themselves_and_are_not_reached_from_it(site: Scene) -> None:
    with EchoServers() as servers:
        servers.add("internet", address=INTERNET_ADDRESS6, name="internet")
        for pod in some(site):
            servers.add(pod.pod.netns, address="::")
            for how in WAYS:
                assert how(pod.pod.netns, INTERNET_ADDRESS6).told == f"internet {pod.ipv6}"
            assert tcp_echo("internet", pod.ipv6, timeout=0.3).failure == Failure.TIMEOUT
    assert site.stack.sandbox("fabric")["egress_only_drops"] >= len(some(site))


def test_pods_with_both_families_reach_the_internet_by_ipv4_as_the_nat_gateway(site: Scene) -> None:
    gateway = site.stack.client("ec2").describe_nat_gateways()["NatGateways"][0]["NatGatewayAddresses"][0]
    with EchoServers() as servers:
        servers.add("internet", address=INTERNET_ADDRESS, name="internet")
        for pod in (p for p in some(site) if p.machine != "gamma"):
            assert tcp_echo(pod.pod.netns, INTERNET_ADDRESS).told == f"internet {gateway['PublicIp']}"


def test_nodes_and_pods_reach_each_other_on_the_same_node_and_across(site: Scene) -> None:
    with EchoServers() as servers:
        for name, machine in site.machines.items():
            servers.add(machine.id, address="::", name=name)
        for pod in some(site):
            servers.add(pod.pod.netns, address="::", name=pod.pod.name)
            for name, machine in site.machines.items():
                node = own_address(site, name)
                for how in WAYS:
                    assert how(pod.pod.netns, node).told == f"{name} {pod.ipv6}"
                    assert how(machine.id, pod.ipv6, source=node).told == f"{pod.pod.name} {node}"


def test_a_closed_port_is_refused_and_an_address_without_a_pod_answers_at_once(site: Scene) -> None:
    first, second = (next(p for p in site.pods if p.machine == machine) for machine in ("alpha", "gamma"))
    assert tcp_echo(first.pod.netns, second.ipv6, port=9).failure == Failure.REFUSED
    prefix = site.stack.interfaces(site.machines["gamma"].id)[0]["Ipv6Prefixes"][0]["Ipv6Prefix"]
    nobody = str(ipaddress.ip_network(prefix)[-1])
    assert tcp_echo(first.pod.netns, nobody).failure == Failure.UNREACHABLE


def test_a_pod_is_told_what_the_path_to_the_internet_carries(site: Scene) -> None:
    for pod in some(site):
        told = ping(pod.pod.netns, INTERNET_ADDRESS6, size=4000)
        assert (told.failure, told.mtu) == (Failure.TOO_BIG, 1500)


def test_no_packet_was_dropped_for_its_source(site: Scene) -> None:
    assert site.stack.sandbox("fabric")["source_check_drops"] == 0


def test_terminated_nodes_leave_nothing(site: Scene) -> None:
    for machine in site.machines.values():
        machine.node.stop_agent()
    site.stack.client("ec2").terminate_instances(InstanceIds=[machine.id for machine in site.machines.values()])
    for machine in site.machines.values():
        assert not any(terminate(site, machine).values())
    assert site.pods == []
    assert "/80" not in netns.run("vpc", ["ip", "-6", "route", "show", "table", "all"]).stdout
    assert " . 2" not in netns.run("vpc", ["nft", "list", "set", "ip6", "fabric", "assigned"]).stdout
