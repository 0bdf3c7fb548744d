"""Elastic IP addresses on interfaces' secondary addresses, and what Berth's own edge makes of them."""

from __future__ import annotations

from typing import Any

import pytest
from berth.calls import AssociatePublic, DisassociatePublic
from berth.ec2 import Boto3Ec2
from berth.ec2_wire import Ec2Error, Trouble, read_public_address
from berth.model import Intent

from .conftest import Network, refused

NODE = "i-0123456789abcdef0"


@pytest.fixture
def interface(network: Network) -> str:
    """Two secondary addresses, in a VPC with an internet gateway."""
    gateway = network.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    subnet = network.subnet("10.0.1.0/24")
    vpc = network.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
    network.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    return network.interface(subnet, SecondaryPrivateIpAddressCount=2)


def allocate(network: Network, pool: str = "blue") -> str:
    tags = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "berth:public-pool", "Value": pool}]}]
    return str(network.ec2.allocate_address(Domain="vpc", TagSpecifications=tags)["AllocationId"])


def secondaries(network: Network, interface: str) -> list[str]:
    listed = network.shown(interface)["PrivateIpAddresses"]
    return [a["PrivateIpAddress"] for a in listed if not a["Primary"]]


def associate(network: Network, allocation: str, interface: str, address: str, *, steal: bool = False) -> str:
    made = network.ec2.associate_address(
        AllocationId=allocation, NetworkInterfaceId=interface, PrivateIpAddress=address, AllowReassociation=steal
    )
    return str(made["AssociationId"])


def shown(network: Network, allocation: str) -> dict[str, Any]:
    (found,) = network.ec2.describe_addresses(AllocationIds=[allocation])["Addresses"]
    return dict(found)


def test_each_secondary_address_has_one_of_its_own(network: Network, interface: str) -> None:
    first, second = secondaries(network, interface)
    one, other = allocate(network), allocate(network)
    associate(network, one, interface, first)
    associate(network, other, interface, second)
    assert [shown(network, e)["PrivateIpAddress"] for e in (one, other)] == [first, second]
    of = {a["PrivateIpAddress"]: a.get("Association", {}) for a in network.shown(interface)["PrivateIpAddresses"]}
    assert of[first]["PublicIp"] == shown(network, one)["PublicIp"]
    assert of[second]["AllocationId"] == other
    assert sum(bool(association) for association in of.values()) == 2


def test_the_same_association_again_is_answered_as_before(network: Network, interface: str) -> None:
    (first, _), one = secondaries(network, interface), allocate(network)
    assert associate(network, one, interface, first) == associate(network, one, interface, first)


def test_without_leave_nothing_is_taken_from_where_it_is(network: Network, interface: str) -> None:
    (first, second), one, other = secondaries(network, interface), allocate(network), allocate(network)
    associate(network, one, interface, first)
    with refused("Resource.AlreadyAssociated"):
        associate(network, one, interface, second)
    with refused("Resource.AlreadyAssociated"):
        associate(network, other, interface, first)
    associate(network, one, interface, second, steal=True)
    assert shown(network, one)["PrivateIpAddress"] == second


def test_an_address_that_leaves_its_interface_loses_its_public_one(network: Network, interface: str) -> None:
    (first, second), one, other = secondaries(network, interface), allocate(network), allocate(network)
    associate(network, one, interface, first)
    associate(network, other, interface, second)
    network.ec2.unassign_private_ip_addresses(NetworkInterfaceId=interface, PrivateIpAddresses=[first])
    assert "AssociationId" not in shown(network, one) or not shown(network, one)["AssociationId"]
    network.ec2.delete_network_interface(NetworkInterfaceId=interface)
    assert not shown(network, other).get("AssociationId")


def test_an_address_of_another_interface_and_a_vpc_without_a_gateway_are_refused(network: Network) -> None:
    interface = network.interface(network.subnet("10.0.2.0/24"), SecondaryPrivateIpAddressCount=1)
    one = allocate(network)
    with refused("InvalidParameterValue"):
        associate(network, one, interface, "10.0.2.250")
    with refused("Gateway.NotAttached"):
        associate(network, one, interface, *secondaries(network, interface))


def test_berths_edge_associates_reads_and_disassociates(network: Network, interface: str) -> None:
    edge = Boto3Ec2(network.ec2, network.ec2, "arn:")
    (first, second), one = secondaries(network, interface), allocate(network, "blue")
    made = edge.mutate(Intent("t", AssociatePublic(interface, one, first), 0.0), NODE, "demo")
    read = read_public_address(shown(network, one))
    assert (read.id, read.pool, read.private_address, read.interface_id) == (one, "blue", first, interface)
    assert read.association_id == made.attachment_id
    with pytest.raises(Ec2Error) as error:
        edge.mutate(Intent("t", AssociatePublic(interface, one, second), 0.0), NODE, "demo")
    assert error.value.code == "Resource.AlreadyAssociated"
    gone = DisassociatePublic(interface, one, made.attachment_id, first)
    edge.mutate(Intent("t", gone, 0.0), NODE, "demo")
    with pytest.raises(Ec2Error) as error:
        edge.mutate(Intent("t", gone, 0.0), NODE, "demo")
    assert error.value.trouble is Trouble.GONE
