"""Routes whose targets are gone, and routes by prefix lists: what DescribeRouteTables shows and the fabric is told."""

from __future__ import annotations

from typing import Any

from tests.contract.ec2.conftest import Network
from tests.sandbox.cloud.snapshot import snapshot


def routes(network: Network) -> dict[str, tuple[str, str]]:
    """State and target by destination, of the VPC's main table."""
    (table,) = network.ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [network.vpc]}])["RouteTables"]
    return {
        str(r.get("DestinationCidrBlock") or r.get("DestinationPrefixListId")): (r["State"], _target(r))
        for r in table["Routes"]
    }


def _target(route: dict[str, Any]) -> str:
    keys = ("GatewayId", "NatGatewayId", "VpcPeeringConnectionId", "TransitGatewayId")
    return next((str(route[key]) for key in keys if route.get(key)), "")


def main_table(network: Network) -> str:
    (table,) = network.ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [network.vpc]}])["RouteTables"]
    return str(table["RouteTableId"])


def carried(subnet: str) -> dict[str, str]:
    """What the fabric is told to do."""
    (found,) = (s for s in snapshot().subnets if s.id == subnet)
    return {r.destination: r.target for r in found.routes}


def test_a_route_to_a_deleted_peering_is_a_black_hole(network: Network) -> None:
    ec2, subnet = network.ec2, network.subnet("10.0.1.0/24")
    peer = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    made = ec2.create_vpc_peering_connection(VpcId=network.vpc, PeerVpcId=peer)["VpcPeeringConnection"]
    peering = made["VpcPeeringConnectionId"]
    route = {"RouteTableId": main_table(network), "DestinationCidrBlock": "10.9.0.0/16"}
    ec2.create_route(**route, VpcPeeringConnectionId=peering)
    assert routes(network)["10.9.0.0/16"] == ("blackhole", peering), "nobody has accepted it yet"
    ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=peering)
    assert routes(network)["10.9.0.0/16"] == ("active", peering)
    assert carried(subnet)["10.9.0.0/16"] == peering
    ec2.delete_vpc_peering_connection(VpcPeeringConnectionId=peering)
    assert routes(network)["10.9.0.0/16"] == ("blackhole", peering)
    assert carried(subnet)["10.9.0.0/16"] == "blackhole"


def test_a_route_to_a_detached_vpn_gateway_is_a_black_hole_and_one_to_the_internet_is_not(network: Network) -> None:
    ec2, subnet = network.ec2, network.subnet("10.0.1.0/24")
    vpn = ec2.create_vpn_gateway(Type="ipsec.1")["VpnGateway"]["VpnGatewayId"]
    internet = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_vpn_gateway(VpcId=network.vpc, VpnGatewayId=vpn)
    ec2.attach_internet_gateway(VpcId=network.vpc, InternetGatewayId=internet)
    table = main_table(network)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="172.16.0.0/12", GatewayId=vpn)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=internet)
    assert [routes(network)[c][0] for c in ("172.16.0.0/12", "0.0.0.0/0")] == ["active", "active"]
    ec2.detach_vpn_gateway(VpcId=network.vpc, VpnGatewayId=vpn)
    assert routes(network)["172.16.0.0/12"] == ("blackhole", vpn)
    assert carried(subnet) == {"172.16.0.0/12": "blackhole", "10.0.0.0/16": "local", "0.0.0.0/0": internet}


def test_a_route_by_a_prefix_list_is_carried_to_each_of_its_networks(network: Network) -> None:
    ec2, subnet = network.ec2, network.subnet("10.0.1.0/24")
    vpn = ec2.create_vpn_gateway(Type="ipsec.1")["VpnGateway"]["VpnGatewayId"]
    ec2.attach_vpn_gateway(VpcId=network.vpc, VpnGatewayId=vpn)
    entries = [{"Cidr": "192.168.0.0/24"}, {"Cidr": "192.168.9.0/24"}]
    made = ec2.create_managed_prefix_list(PrefixListName="offices", AddressFamily="IPv4", MaxEntries=5, Entries=entries)
    listed = made["PrefixList"]["PrefixListId"]
    ec2.create_route(RouteTableId=main_table(network), DestinationPrefixListId=listed, GatewayId=vpn)
    assert routes(network)[listed] == ("active", vpn)
    assert {to: target for to, target in carried(subnet).items() if target == vpn} == {
        "192.168.0.0/24": vpn,
        "192.168.9.0/24": vpn,
    }
