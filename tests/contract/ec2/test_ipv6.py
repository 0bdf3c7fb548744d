"""IPv6 prefixes of interfaces, and what Berth's own edge makes of them and of security groups."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from berth.calls import AssignIpv6Prefixes, Call, CreateInterface, SetGroups
from berth.ec2 import Boto3Ec2
from berth.model import Intent

from .conftest import Network, refused

CIDR = "2001:db8:1234:1a00::/64"
NODE = "i-0123456789abcdef0"


@pytest.fixture
def dual(network: Network) -> str:
    """A subnet with an IPv6 CIDR."""
    subnet = network.subnet("10.0.1.0/24")
    network.ec2.associate_subnet_cidr_block(SubnetId=subnet, Ipv6CidrBlock=CIDR)
    return subnet


def prefixes(network: Network, interface: str) -> list[str]:
    return [p["Ipv6Prefix"] for p in network.shown(interface)["Ipv6Prefixes"]]


def test_an_interface_is_made_with_prefixes_of_both_families(network: Network, dual: str) -> None:
    interface = network.interface(dual, Ipv4PrefixCount=2, Ipv6PrefixCount=1)
    shown = network.shown(interface)
    assert len(shown["Ipv4Prefixes"]) == 2
    assert [p["Ipv6Prefix"] for p in shown["Ipv6Prefixes"]] == ["2001:db8:1234:1a00:1::/80"]


def test_prefixes_are_free_ones_of_the_subnet_and_free_again_with_the_interface(network: Network, dual: str) -> None:
    first, second = network.interface(dual, Ipv6PrefixCount=1), network.interface(dual)
    got = network.ec2.assign_ipv6_addresses(NetworkInterfaceId=second, Ipv6PrefixCount=1)
    assert got["AssignedIpv6Prefixes"] == prefixes(network, second)
    assert set(prefixes(network, first)).isdisjoint(prefixes(network, second))
    (freed,) = prefixes(network, first)
    network.ec2.delete_network_interface(NetworkInterfaceId=first)
    assert prefixes(network, network.interface(dual, Ipv6PrefixCount=1)) == [freed]


def test_a_prefix_can_be_asked_for_by_name_once(network: Network, dual: str) -> None:
    interface = network.interface(dual)
    wanted = "2001:db8:1234:1a00:8000::/80"
    network.ec2.assign_ipv6_addresses(NetworkInterfaceId=interface, Ipv6Prefixes=[wanted])
    assert prefixes(network, interface) == [wanted]
    with refused("InvalidIPAddress.InUse"):
        network.ec2.assign_ipv6_addresses(NetworkInterfaceId=interface, Ipv6Prefixes=[wanted])
    with refused("InvalidParameterValue"):
        network.ec2.assign_ipv6_addresses(NetworkInterfaceId=interface, Ipv6Prefixes=["2001:db8:1234:1a00::/72"])


def test_single_addresses_and_prefixes_do_not_mix(network: Network, dual: str) -> None:
    with refused("InvalidParameterCombination"):
        network.interface(dual, Ipv6PrefixCount=1, Ipv6AddressCount=1)


def test_a_subnet_without_an_ipv6_cidr_gives_none_and_leaves_no_interface(network: Network) -> None:
    subnet = network.subnet("10.0.1.0/24")
    before = network.free(subnet)
    with refused("InvalidParameterValue"):
        network.interface(subnet, Ipv6PrefixCount=1)
    assert network.free(subnet) == before


def test_types_that_are_not_on_nitro_have_none(network: Network, dual: str) -> None:
    instance = network.instance(dual, "t2.large")
    interface = network.interface(dual)
    network.ec2.attach_network_interface(NetworkInterfaceId=interface, InstanceId=instance, DeviceIndex=1)
    with refused("UnsupportedOperation"):
        network.ec2.assign_ipv6_addresses(NetworkInterfaceId=interface, Ipv6PrefixCount=1)


def test_our_edge_makes_reads_and_sets_them(network: Network, dual: str) -> None:
    edge = Boto3Ec2(network.ec2, network.ec2, "arn:aws:ec2:eu-west-1:123456789012:instance/")
    groups = [_group(network.ec2, network.vpc, name) for name in ("one", "two")]

    def made(call: Call) -> Any:
        return edge.mutate(Intent(f"token-{network.vpc}-{call}", call, 1793599200.0), NODE, "demo")

    new = made(CreateInterface(dual, (groups[0],), prefixes=1, ipv6_prefixes=1)).interface
    assert len(new.ipv6_prefixes) == 1
    more = made(AssignIpv6Prefixes(new.id))
    made(SetGroups(new.id, tuple(sorted(groups))))
    (shown,) = edge.interfaces([NODE])[NODE]
    assert shown.ipv6_prefixes == tuple(sorted((*new.ipv6_prefixes, *more.blocks)))
    assert shown.groups == tuple(sorted(groups))
    (subnet,) = edge.network([network.vpc]).subnets
    assert (subnet.ipv6, subnet.routed) == (True, True)
    network.ec2.delete_network_interface(NetworkInterfaceId=new.id)


def _group(ec2: Any, vpc: str, name: str) -> str:
    return str(ec2.create_security_group(VpcId=vpc, GroupName=name, Description=name)["GroupId"])


def test_single_addresses_are_never_within_a_block_that_can_become_a_prefix(network: Network, dual: str) -> None:
    interface = network.interface(dual)
    got = network.ec2.assign_ipv6_addresses(NetworkInterfaceId=interface, Ipv6AddressCount=5)["AssignedIpv6Addresses"]
    assert len(set(got)) == 5
    assert all(ipaddress.IPv6Address(a) in ipaddress.IPv6Network("2001:db8:1234:1a00::/80") for a in got)
