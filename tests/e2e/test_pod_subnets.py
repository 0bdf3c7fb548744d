"""Pods in subnets of their own, in a secondary CIDR with its own route table; nodes' primary interfaces have none."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pytest

from tests.e2e.scenes import BusListener, ask_for_look, dead_letters, new_scene, settle
from tests.sandbox.account import wait_for
from tests.sandbox.demo.stages import PlacedPod, Scene, add_pods, launch, remove_pods, start_agents
from tests.sandbox.echo import EchoServers, tcp_echo, udp_echo
from tests.sandbox.landscape import POD_SUBNETS, REGION, NodeSpec, add_pod_subnets, launch_node
from tests.sandbox.ping import ping

pytestmark = pytest.mark.long

OWN: Final = {"mode": "prefixes", "subnets": "pods=yes", "primary-serves-pods": "false", "cooldown-seconds": "2"}
SPECS: Final = [NodeSpec("alpha", "a", "t3.medium", OWN), NodeSpec("beta", "b", "t3.medium", OWN)]
MIXED: Final = NodeSpec("mixed", "a", "t3.medium", {"mode": "prefixes", "subnets": "pods=yes", "cooldown-seconds": "2"})
"""Its first pods are on its primary interface."""
INTERNET, ON_PREMISES, PARTNER = "198.51.100.10", "192.168.50.10", "172.30.9.10"
NAT: dict[str, str] = {}
"""The public address of the NAT gateway that pods' own route table leads to."""


@pytest.fixture(scope="module")
def site() -> Iterator[Scene]:
    # pods are rewritten for the excluded partner alone: all else leaves by their own subnets' route table
    parameters = {"NoSnatCidrs": "0.0.0.0/0", "ReconcileDelaySeconds": "2"}
    with new_scene(parameters=parameters) as scene:
        assert scene.landscape is not None
        NAT["address"] = add_pod_subnets(scene.endpoint, scene.landscape)
        launch(scene, [*SPECS, MIXED])
        start_agents(scene)
        add_pods(scene, scene.machines["alpha"], 3, "web")
        add_pods(scene, scene.machines["beta"], 3, "db")
        settle(scene)
        yield scene
        assert dead_letters(scene) == {}


def primary(scene: Scene, name: str) -> dict[str, Any]:
    return dict(scene.stack.interfaces(scene.machines[name].id)[0])


def within(pod: PlacedPod, zone: str) -> bool:
    return ipaddress.ip_address(pod.address) in ipaddress.ip_network(POD_SUBNETS[zone])


def test_pods_have_addresses_of_the_pod_subnet_in_their_nodes_zone(site: Scene) -> None:
    assert [within(p, "a") for p in site.on("alpha")] == [within(p, "b") for p in site.on("beta")] == [True] * 3
    assert all(p.interface > 0 for p in (*site.on("alpha"), *site.on("beta")))


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_the_primary_interface_has_its_own_address_and_no_other(site: Scene, name: str) -> None:
    shown = primary(site, name)
    assert len(shown["PrivateIpAddresses"]) == 1
    assert shown.get("Ipv4Prefixes", []) == []


def test_pods_reach_each_other_over_nodes_with_their_own_addresses(site: Scene) -> None:
    pods = [*site.on("alpha"), *site.on("beta")]
    with EchoServers() as servers:
        for pod in pods:
            servers.add(pod.pod.netns, name=pod.pod.name)
        for one in pods:
            for other in (p for p in pods if p is not one):
                expected = f"{other.pod.name} {one.address}"
                assert tcp_echo(one.pod.netns, other.address).told == expected
                assert udp_echo(one.pod.netns, other.address).told == expected
                assert ping(one.pod.netns, other.address).ok


def test_pods_and_other_nodes_reach_each_other(site: Scene) -> None:
    pod, beta = site.on("alpha")[0], site.machines["beta"]
    address = primary(site, "beta")["PrivateIpAddress"]
    with EchoServers() as servers:
        servers.add(pod.pod.netns, name="pod")
        servers.add(beta.id, name="beta")
        assert tcp_echo(pod.pod.netns, address).told == f"beta {pod.address}"
        assert tcp_echo(beta.id, pod.address).told == f"pod {address}"


def test_pods_leave_by_their_own_subnets_route_table_and_excluded_networks_see_the_node(site: Scene) -> None:
    with EchoServers() as servers:
        servers.add("internet", address=INTERNET, name="internet")
        servers.add("onprem", address=ON_PREMISES, name="onprem")
        servers.add("onprem", address=PARTNER, name="partner")
        for name in ("alpha", "beta"):
            pod, node = site.on(name)[0], primary(site, name)["PrivateIpAddress"]
            for ask in (tcp_echo, udp_echo):
                assert ask(pod.pod.netns, INTERNET).told == f"internet {NAT['address']}"
                assert ask(pod.pod.netns, ON_PREMISES).told == f"onprem {pod.address}"
                # pods' own table has no such route: it is the node's that leads there
                assert ask(pod.pod.netns, PARTNER).told == f"partner {node}"


def test_no_packet_was_dropped_for_its_source(site: Scene) -> None:
    assert site.stack.sandbox("fabric")["source_check_drops"] == 0


# ------------------------------------------------------------------------------------------- a node that changes over


def test_a_primary_interface_that_is_spared_later_gives_back_what_pods_use_no_more(site: Scene) -> None:
    """A pod that has an address of it keeps it for as long as it lives."""
    mixed = site.machines["mixed"]
    (old,) = add_pods(site, mixed, 1, "old")
    assert old.interface == 0
    tags = [{"Key": "berth:primary-serves-pods", "Value": "false"}]
    site.stack.client("ec2").create_tags(Resources=[mixed.id], Tags=tags)
    ask_for_look(site, mixed.id)
    wait_for("addresses of a pod subnet", lambda: len(site.stack.interfaces(mixed.id)) > 1)
    record = wait_for("the record", lambda: (r := site.stack.record(mixed.id)) and r.policy.spare_primary and r)
    wait_for("the agent to have it", partial(_new_ones_elsewhere, site))
    assert record
    other = site.on("beta")[0]
    with EchoServers() as servers:
        servers.add(old.pod.netns, name="old")
        assert tcp_echo(other.pod.netns, old.address).told == f"old {other.address}"
    assert primary(site, "mixed")["Ipv4Prefixes"]
    remove_pods(site, mixed, [old])
    wait_for("the primary's prefix to be unassigned", partial(_bare, site), 90)


def _new_ones_elsewhere(site: Scene) -> bool:
    """A pod that comes now has an address of a pod subnet, once the agent has read its record."""
    (new,) = add_pods(site, site.machines["mixed"], 1, "new")
    remove = [] if new.interface > 0 else [new]
    remove_pods(site, site.machines["mixed"], remove)
    return not remove and within(new, "a")


def _bare(site: Scene) -> bool:
    return not primary(site, "mixed").get("Ipv4Prefixes")


def test_a_zone_without_a_pod_subnet_is_told_of_and_its_node_gets_no_address_elsewhere(site: Scene) -> None:
    landscape, ec2 = site.landscape, site.stack.client("ec2")
    assert landscape is not None
    made = ec2.create_subnet(VpcId=landscape.vpc, CidrBlock="10.0.3.0/24", AvailabilityZone=f"{REGION}c")
    landscape.subnets["c"] = made["Subnet"]["SubnetId"]
    listener = BusListener(site)
    lonely = launch_node(site.endpoint, landscape, NodeSpec("lonely", "c", "t3.medium", OWN))
    problems = listener.wait_for(lonely, "Node Policy Invalid")["problems"]
    assert f"no subnet in {REGION}c is tagged berth:allowed" in json.dumps(problems)
    unmet = listener.wait_for(lonely, "Node Address Demand Unmet")
    assert unmet["reason"] == f"no subnet in {REGION}c is tagged berth:allowed"
    (only,) = site.stack.interfaces(lonely)
    assert only.get("Ipv4Prefixes", []) == []
