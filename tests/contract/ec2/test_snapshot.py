"""The World that the fabric, the nodes and IMDS are built from."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.sandbox.cloud.ec2_gateways import PUBLIC_POOL
from tests.sandbox.cloud.snapshot import snapshot, subscribe
from tests.sandbox.world import Route, World

from .conftest import Cloud, Network
from .waiting import eventually


@pytest.fixture
def changes() -> Iterator[list[int]]:
    """A list that grows by one with each notification."""
    seen: list[int] = []
    end = subscribe(lambda: seen.append(1))
    yield seen
    end()


def test_an_instance_is_shown_with_its_profile_hop_limit_and_interfaces(
    cloud: Cloud, network: Network, ec2: Any
) -> None:
    iam = cloud.client("iam")
    iam.create_role(RoleName="node-role", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="node")
    iam.add_role_to_instance_profile(InstanceProfileName="node", RoleName="node-role")
    subnet = network.subnet("10.0.1.0/24")
    instance_id = network.instance(
        subnet, IamInstanceProfile={"Name": "node"}, MetadataOptions={"HttpPutResponseHopLimit": 2}
    )
    interface = network.interface(subnet, Ipv4PrefixCount=2)
    ec2.attach_network_interface(NetworkInterfaceId=interface, InstanceId=instance_id, DeviceIndex=1)
    world = snapshot()
    instance = next(i for i in world.instances if i.id == instance_id)
    assert instance.arn == f"arn:aws:ec2:eu-west-1:123456789012:instance/{instance_id}"
    assert (instance.state, instance.type, instance.zone) == ("running", "m5.large", "eu-west-1a")
    assert (instance.profile_role, instance.hop_limit) == ("node-role", 2)
    primary, second = world.enis_of(instance_id)
    assert (primary.device_index, second.device_index, second.id) == (0, 1, interface)
    assert len(second.prefixes) == 2
    assert second.primary == network.shown(interface)["PrivateIpAddress"]
    assert second.mac == network.shown(interface)["MacAddress"]


def test_subnets_have_the_routes_of_their_table_the_longest_first(network: Network, ec2: Any) -> None:
    public, private = network.subnet("10.0.0.0/24"), network.subnet("10.0.1.0/24")
    igw = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=igw, VpcId=network.vpc)
    address = ec2.allocate_address(Domain="vpc")
    nat = ec2.create_nat_gateway(SubnetId=public, AllocationId=address["AllocationId"])["NatGateway"]
    vgw = ec2.create_vpn_gateway(Type="ipsec.1")["VpnGateway"]["VpnGatewayId"]
    ec2.attach_vpn_gateway(VpcId=network.vpc, VpnGatewayId=vgw)
    table = ec2.create_route_table(VpcId=network.vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat["NatGatewayId"])
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="192.168.50.0/24", GatewayId=vgw)
    ec2.associate_route_table(RouteTableId=table, SubnetId=private)
    main = ec2.describe_route_tables(
        Filters=[{"Name": "vpc-id", "Values": [network.vpc]}, {"Name": "association.main", "Values": ["true"]}]
    )["RouteTables"][0]["RouteTableId"]
    ec2.create_route(RouteTableId=main, DestinationCidrBlock="0.0.0.0/0", GatewayId=igw)

    world = snapshot()
    assert world.subnet(private).routes == (
        Route("192.168.50.0/24", vgw),
        Route("10.0.0.0/16", "local"),
        Route("0.0.0.0/0", nat["NatGatewayId"]),
    )
    assert world.subnet(public).routes == (Route("10.0.0.0/16", "local"), Route("0.0.0.0/0", igw))
    assert world.subnet(public).gateway == "10.0.0.1"
    assert "192.168.50.0/24" in world.onprem_cidrs
    assert "10.0.0.0/16" in world.vpc_cidrs
    _nat_has_an_interface_of_its_own(world, nat["NatGatewayId"], public, address["PublicIp"])


def _nat_has_an_interface_of_its_own(world: World, nat: str, subnet: str, public_address: str) -> None:
    private = dict(world.nat)[nat]
    eni = next(e for e in world.enis if e.primary == private and e.subnet_id == subnet)
    assert (eni.instance_id, eni.source_check, eni.security_groups) == (None, False, ())
    assert eni.public_address == public_address
    assert ipaddress.ip_address(public_address) in PUBLIC_POOL


def test_a_deleted_nat_gateway_gives_back_its_address(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.0.0/24")
    address = ec2.allocate_address(Domain="vpc")
    nat = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address["AllocationId"])["NatGateway"]["NatGatewayId"]
    assert network.free(subnet) == 250
    ec2.delete_nat_gateway(NatGatewayId=nat)
    assert network.free(subnet) == 251
    assert nat not in dict(snapshot().nat)
    assert "AssociationId" not in ec2.describe_addresses(AllocationIds=[address["AllocationId"]])["Addresses"][0]


def test_the_default_vpc_is_left_out_until_it_is_used(ec2: Any) -> None:
    assert "172.31.0.0/16" not in snapshot().vpc_cidrs
    ec2.run_instances(ImageId="ami-1e749f67", InstanceType="t3.micro", MinCount=1, MaxCount=1)
    assert "172.31.0.0/16" in snapshot().vpc_cidrs


def test_an_interface_is_plugged_only_while_it_is_attached(
    network: Network, ec2: Any, timing: Callable[..., None]
) -> None:
    subnet = network.subnet("10.0.1.0/24")
    instance, interface = network.instance(subnet), network.interface(subnet)
    timing(attach=0.2, detach=0.2)
    attached = ec2.attach_network_interface(NetworkInterfaceId=interface, InstanceId=instance, DeviceIndex=1)
    assert len(snapshot().enis_of(instance)) == 1
    eventually(lambda: len(snapshot().enis_of(instance)) == 2)
    ec2.detach_network_interface(AttachmentId=attached["AttachmentId"])
    assert len(snapshot().enis_of(instance)) == 1


def test_terminated_instances_are_left_out(network: Network, ec2: Any) -> None:
    instance = network.instance(network.subnet("10.0.1.0/24"))
    assert instance in {i.id for i in snapshot().instances}
    ec2.terminate_instances(InstanceIds=[instance])
    assert instance not in {i.id for i in snapshot().instances}
    assert not snapshot().enis_of(instance)


def test_source_check_and_groups_of_the_instance_are_the_primary_interfaces(network: Network, ec2: Any) -> None:
    instance = network.instance(network.subnet("10.0.1.0/24"))
    group = ec2.create_security_group(VpcId=network.vpc, GroupName="g", Description="d")["GroupId"]
    ec2.modify_instance_attribute(InstanceId=instance, SourceDestCheck={"Value": False})
    ec2.modify_instance_attribute(InstanceId=instance, Groups=[group])
    (primary,) = snapshot().enis_of(instance)
    assert (primary.source_check, primary.security_groups) == (False, (group,))


def test_whatever_changes_the_world_is_announced(network: Network, ec2: Any, changes: list[int]) -> None:
    subnet = network.subnet("10.0.1.0/24")
    instance = network.instance(subnet)
    table = ec2.create_route_table(VpcId=network.vpc)["RouteTable"]["RouteTableId"]
    vgw = ec2.create_vpn_gateway(Type="ipsec.1")["VpnGateway"]["VpnGatewayId"]
    interface = network.interface(subnet)
    attached: dict[str, Any] = {}

    def attach() -> None:
        attached.update(ec2.attach_network_interface(NetworkInterfaceId=interface, InstanceId=instance, DeviceIndex=1))

    def assign() -> None:
        ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, PrivateIpAddresses=["10.0.1.77"])

    def unassign() -> None:
        ec2.unassign_private_ip_addresses(NetworkInterfaceId=interface, PrivateIpAddresses=["10.0.1.77"])

    steps: list[Callable[[], object]] = [
        attach,
        assign,
        unassign,
        lambda: ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, SourceDestCheck={"Value": False}),
        lambda: ec2.detach_network_interface(AttachmentId=attached["AttachmentId"]),
        lambda: ec2.delete_network_interface(NetworkInterfaceId=interface),
        lambda: ec2.associate_route_table(RouteTableId=table, SubnetId=subnet),
        lambda: ec2.create_route(RouteTableId=table, DestinationCidrBlock="10.9.0.0/16", GatewayId=vgw),
        lambda: ec2.delete_route(RouteTableId=table, DestinationCidrBlock="10.9.0.0/16"),
        lambda: ec2.modify_instance_metadata_options(InstanceId=instance, HttpPutResponseHopLimit=2),
        lambda: ec2.stop_instances(InstanceIds=[instance]),
        lambda: ec2.terminate_instances(InstanceIds=[instance]),
    ]
    for number, step in enumerate(steps):
        before, count = snapshot(), len(changes)
        step()
        assert len(changes) > count, number
        assert snapshot() != before or number == 6, number


def test_ipv6_blocks_addresses_prefixes_and_routes_are_shown(network: Network, ec2: Any, changes: list[int]) -> None:
    block = ec2.associate_vpc_cidr_block(VpcId=network.vpc, AmazonProvidedIpv6CidrBlock=True)
    vpc_cidr = block["Ipv6CidrBlockAssociation"]["Ipv6CidrBlock"]
    first, second = network.subnet("10.0.0.0/24"), network.subnet("10.0.1.0/24")
    cidr = str(next(ipaddress.IPv6Network(vpc_cidr).subnets(new_prefix=64)))
    before = len(changes)
    ec2.associate_subnet_cidr_block(SubnetId=second, Ipv6CidrBlock=cidr)
    assert len(changes) > before
    gateway = ec2.create_egress_only_internet_gateway(VpcId=network.vpc)["EgressOnlyInternetGateway"]
    gateway_id = gateway["EgressOnlyInternetGatewayId"]
    table = ec2.create_route_table(VpcId=network.vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationIpv6CidrBlock="::/0", EgressOnlyInternetGatewayId=gateway_id)
    ec2.associate_route_table(RouteTableId=table, SubnetId=second)
    interface = network.interface(second, Ipv6PrefixCount=2)
    single = network.interface(second)
    before = len(changes)
    given = ec2.assign_ipv6_addresses(NetworkInterfaceId=single, Ipv6AddressCount=1)["AssignedIpv6Addresses"]
    assert len(changes) > before

    world = snapshot()
    assert world.vpc_ipv6_cidrs == (vpc_cidr,)
    assert (world.subnet(first).ipv6_cidrs, world.subnet(second).ipv6_cidrs) == ((), (cidr,))
    assert Route("::/0", gateway_id) in world.subnet(second).routes
    assert Route(vpc_cidr, "local") in world.subnet(second).routes
    enis = {e.id: e for e in world.enis}
    assert enis[single].ipv6_addresses == tuple(given)
    assert [p["Ipv6Prefix"] for p in network.shown(interface)["Ipv6Prefixes"]] == list(enis[interface].ipv6_prefixes)
    assert world.subnet(second).ipv6_gateways == (str(ipaddress.IPv6Network(cidr)[1]),)
    ec2.delete_egress_only_internet_gateway(EgressOnlyInternetGatewayId=gateway_id)
    assert Route("::/0", gateway_id) not in snapshot().subnet(second).routes
