"""Who sees a pod's own address follows the VPC's route tables, while pods run, and real packets say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pytest

from tests.e2e.scenes import BusListener, dead_letters, faults, new_scene, settle, tell, trail_tells
from tests.sandbox.account import wait_for
from tests.sandbox.demo.stages import PlacedPod, Scene, add_pods, launch, start_agents
from tests.sandbox.echo import EchoServers, tcp_echo, udp_echo
from tests.sandbox.landscape import ON_PREMISES_CIDR, PARTNER_CIDR, REGION, NodeSpec, private_routes

pytestmark = pytest.mark.long

ON_PREMISES: Final = "192.168.50.10"
PARTNER: Final = "172.30.9.10"
LISTED_CIDR, LISTED = "10.200.0.0/24", "10.200.0.10"
"""In a prefix list, which a route to a transit gateway names."""
PEER_CIDR: Final = "10.9.0.0/16"
SPECS: Final = [
    NodeSpec("alpha", "a", "t3.medium", {"mode": "prefixes", "cooldown-seconds": "5"}),
    NodeSpec("beta", "b", "t3.medium", {"mode": "addresses", "warm-addresses": "2", "cooldown-seconds": "5"}),
]


@dataclass(slots=True)
class Site:
    scene: Scene
    table: str
    """The route table of both nodes' subnets."""
    gateway: str
    """The VPN gateway."""

    @property
    def ec2(self) -> Any:
        return self.scene.stack.client("ec2")

    def node_of(self, pod: PlacedPod) -> str:
        """The primary address of the pod's node."""
        return str(self.scene.stack.interfaces(self.scene.machines[pod.machine].id)[0]["PrivateIpAddress"])

    def cidrs(self, name: str) -> tuple[str, ...]:
        record = self.scene.stack.record(self.scene.machines[name].id)
        assert record is not None
        return record.no_snat_cidrs

    def see_pods(self, server: str, address: str) -> None:
        """Wait until a server sees each pod's own address, by TCP and by UDP."""
        for pod in self.scene.pods:
            wait_for(f"{server} to see {pod.pod.name}", partial(_told, pod, address, f"{server} {pod.address}"), 60)
            assert udp_echo(pod.pod.netns, address).told == f"{server} {pod.address}"

    def see_nodes(self, server: str, address: str) -> None:
        """Wait until a server sees the node of each pod."""
        for pod in self.scene.pods:
            wait_for(
                f"{server} to see {pod.machine}", partial(_told, pod, address, f"{server} {self.node_of(pod)}"), 60
            )
            assert udp_echo(pod.pod.netns, address).told == f"{server} {self.node_of(pod)}"

    def trail_tells(self, call: str) -> None:
        trail_tells(self.scene, call, {"routeTableId": self.table})

    def time_to_follow(self) -> None:
        """What the schedule does, without waiting for its time."""
        tell(self.scene, "fire", {"rule": "FollowRule"})


def _told(pod: PlacedPod, address: str, expected: str) -> bool:
    return tcp_echo(pod.pod.netns, address).told == expected


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_scene(parameters={"WatchCloudTrail": "true"}) as scene:
        assert scene.landscape is not None
        routes = private_routes(scene.stack.client("ec2"), scene.landscape)
        found = Site(scene, routes.table, routes.vpn)
        routes.default_by_vpn(found.ec2)
        _list_of_networks(found)
        launch(scene, SPECS)
        start_agents(scene)
        add_pods(scene, scene.machines["alpha"], 2, "web")
        add_pods(scene, scene.machines["beta"], 2, "db")
        settle(scene)
        functions = scene.stack.client("lambda").list_event_source_mappings()["EventSourceMappings"]
        (mapping,) = (m for m in functions if "RouteChange" in m["EventSourceArn"])
        scene.stack.client("lambda").update_event_source_mapping(UUID=mapping["UUID"], MaximumBatchingWindowInSeconds=1)
        with EchoServers() as servers:
            servers.add("onprem", address=ON_PREMISES, name="onprem")
            servers.add("onprem", address=PARTNER, name="partner")
            servers.add("onprem", address=LISTED, name="listed")
            yield found
        assert dead_letters(scene) == {}


def _list_of_networks(site: Site) -> None:
    entries = [{"Cidr": LISTED_CIDR, "Description": "office"}]
    made = site.ec2.create_managed_prefix_list(
        PrefixListName="offices", AddressFamily="IPv4", MaxEntries=5, Entries=entries
    )
    listed, landscape = made["PrefixList"]["PrefixListId"], site.scene.landscape
    assert landscape is not None
    transit = site.ec2.create_transit_gateway()["TransitGateway"]["TransitGatewayId"]
    site.ec2.create_transit_gateway_vpc_attachment(
        TransitGatewayId=transit, VpcId=landscape.vpc, SubnetIds=list(landscape.subnets.values())
    )
    site.ec2.create_route(RouteTableId=site.table, DestinationPrefixListId=listed, TransitGatewayId=transit)


def test_what_vpn_and_transit_gateways_lead_to_sees_pods_and_nobody_had_to_list_it(site: Site) -> None:
    assert site.cidrs("alpha") == site.cidrs("beta") == ("10.0.0.0/16", LISTED_CIDR, ON_PREMISES_CIDR)
    site.see_pods("onprem", ON_PREMISES)
    site.see_pods("listed", LISTED)


def test_what_is_excluded_by_a_parameter_sees_nodes_although_a_route_leads_there(site: Site) -> None:
    assert PARTNER_CIDR not in site.cidrs("alpha")
    site.see_nodes("partner", PARTNER)


def test_a_deleted_route_that_a_trail_tells_of_makes_nodes_be_seen_by_pods_that_run(site: Site) -> None:
    """The default route leads to the VPN too, and says nothing of who is behind it."""
    site.ec2.delete_route(RouteTableId=site.table, DestinationCidrBlock=ON_PREMISES_CIDR)
    site.trail_tells("DeleteRoute")
    site.see_nodes("onprem", ON_PREMISES)
    assert site.cidrs("alpha") == ("10.0.0.0/16", LISTED_CIDR)


def test_a_new_route_that_nobody_tells_of_is_followed_in_its_time(site: Site) -> None:
    site.ec2.create_route(RouteTableId=site.table, DestinationCidrBlock=ON_PREMISES_CIDR, GatewayId=site.gateway)
    site.time_to_follow()
    site.see_pods("onprem", ON_PREMISES)
    assert site.cidrs("beta") == ("10.0.0.0/16", LISTED_CIDR, ON_PREMISES_CIDR)


def test_where_no_route_has_changed_no_node_is_looked_at(site: Site) -> None:
    name = site.scene.stack.outputs["FollowFunctionName"]
    answer = site.scene.stack.client("lambda").invoke(FunctionName=name)
    assert "FunctionError" not in answer
    counted = {"RoutesCompared": 2, "NodesRoutesChanged": 0, "RouteLooksPutOff": 0, "PrefixListsUnread": 0}
    assert json.loads(answer["Payload"].read()) == counted


def _lists(site: Site, machine: str, cidr: str, *, listed: bool = True) -> bool:
    return (cidr in site.cidrs(machine)) == listed


def test_nodes_keep_what_they_list_while_a_prefix_list_cannot_be_read_and_it_is_told(site: Site) -> None:
    listener, other = BusListener(site.scene), "10.201.0.0/24"
    unshared = {"action": "GetManagedPrefixListEntries", "code": "InvalidPrefixListID.NotFound", "status": 400}
    with faults(site.scene, {**unshared, "times": None}):
        site.ec2.create_route(RouteTableId=site.table, DestinationCidrBlock=other, GatewayId=site.gateway)
        site.trail_tells("CreateRoute")
        for name in ("alpha", "beta"):
            wait_for("the other route to be followed", partial(_lists, site, name, other), 60)
            assert LISTED_CIDR in site.cidrs(name)
        site.see_pods("listed", LISTED)
        site.time_to_follow()
        (told, *_) = wait_for("the event", lambda: [e for e in listener.all() if e["detail-type"] == "Routes Unknown"])
        assert (told["detail"]["route-tables"], told["detail"]["nodes"]) == ([site.table], 2)
    site.ec2.delete_route(RouteTableId=site.table, DestinationCidrBlock=other)
    site.trail_tells("DeleteRoute")
    for name in ("alpha", "beta"):
        wait_for("the route to be gone", partial(_lists, site, name, other, listed=False), 60)
        assert LISTED_CIDR in site.cidrs(name)


@contextmanager
def peered(site: Site) -> Iterator[tuple[str, str, str]]:
    """Another VPC with a server in it, a peering with routes both ways: peering, server, its address."""
    ec2, landscape = site.ec2, site.scene.landscape
    assert landscape is not None
    vpc = ec2.create_vpc(CidrBlock=PEER_CIDR)["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.5.0/24", AvailabilityZone=f"{REGION}a")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="peer", Description="peer")["GroupId"]
    anywhere = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=anywhere)
    (server,) = ec2.run_instances(
        ImageId=landscape.image, InstanceType="t3.micro", MinCount=1, MaxCount=1, SubnetId=subnet,
        SecurityGroupIds=[group],
    )["Instances"]  # fmt: skip
    peering = ec2.create_vpc_peering_connection(VpcId=landscape.vpc, PeerVpcId=vpc)["VpcPeeringConnection"]
    peering_id = peering["VpcPeeringConnectionId"]
    ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=peering_id)
    (main,) = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    back = {"RouteTableId": main["RouteTableId"], "DestinationCidrBlock": "10.0.0.0/16"}
    ec2.create_route(**back, VpcPeeringConnectionId=peering_id)
    ec2.create_route(RouteTableId=site.table, DestinationCidrBlock=PEER_CIDR, VpcPeeringConnectionId=peering_id)
    wait_for("the server to run", lambda: site.scene.stack.state(server["InstanceId"]) == "running")
    yield peering_id, server["InstanceId"], server["PrivateIpAddress"]
    ec2.terminate_instances(InstanceIds=[server["InstanceId"]])


def test_a_peered_vpc_sees_pods_until_the_peering_is_deleted(site: Site) -> None:
    with peered(site) as (peering, server, address), EchoServers() as servers:
        servers.add(server, name="peer")
        site.trail_tells("CreateRoute")
        site.see_pods("peer", address)
        assert PEER_CIDR in site.cidrs("alpha")
        site.ec2.delete_vpc_peering_connection(VpcPeeringConnectionId=peering)
        site.trail_tells("DeleteVpcPeeringConnection")
        wait_for("the black hole to be left out", lambda: PEER_CIDR not in site.cidrs("alpha"), 60)
