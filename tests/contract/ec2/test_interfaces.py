"""Elastic network interfaces: what stock moto gets wrong, each by the behaviour that EC2 has."""

from __future__ import annotations

import ipaddress
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .conftest import Network, refused


def test_an_interface_has_a_primary_address_of_its_subnet(network: Network) -> None:
    subnet = network.subnet("10.0.1.0/24")
    shown = network.shown(network.interface(subnet, Description="mine"))
    assert ipaddress.ip_address(shown["PrivateIpAddress"]) in ipaddress.ip_network("10.0.1.0/24")
    assert shown["Status"] == "available"
    assert shown["Description"] == "mine"
    assert "Attachment" not in shown
    assert [a["Primary"] for a in shown["PrivateIpAddresses"]] == [True]


def test_a_subnet_gives_each_address_once_until_it_is_full(network: Network) -> None:
    subnet = network.subnet("10.0.1.0/28")
    given = [network.shown(network.interface(subnet))["PrivateIpAddress"] for _ in range(11)]
    assert sorted(given, key=ipaddress.ip_address) == [f"10.0.1.{n}" for n in range(4, 15)]
    assert network.free(subnet) == 0
    with refused("InsufficientFreeAddressesInSubnet", "does not have enough free addresses"):
        network.interface(subnet)


def test_sixteen_threads_never_get_the_same_address(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    interfaces = [network.interface(subnet) for _ in range(16)]
    barrier = threading.Barrier(16)

    def assign(interface: str) -> list[str]:
        barrier.wait()
        got: list[str] = []
        for _ in range(5):
            try:
                answer = ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=4)
            except ClientError as error:
                if error.response["Error"]["Code"] != "InsufficientFreeAddressesInSubnet":
                    raise
                break
            got += [a["PrivateIpAddress"] for a in answer["AssignedPrivateIpAddresses"]]
        return got

    with ThreadPoolExecutor(16) as threads:
        assigned = [address for got in threads.map(assign, interfaces) for address in got]
    assert len(assigned) == len(set(assigned))
    assert network.free(subnet) == 251 - 16 - len(assigned)
    assert network.free(subnet) < 4


def test_prefixes_are_aligned_free_blocks_and_cost_sixteen_addresses(network: Network) -> None:
    subnet = network.subnet("10.0.1.0/26")
    shown = network.shown(network.interface(subnet, PrivateIpAddress="10.0.1.4", Ipv4PrefixCount=2))
    prefixes = {p["Ipv4Prefix"] for p in shown["Ipv4Prefixes"]}
    assert prefixes == {"10.0.1.16/28", "10.0.1.32/28"}  # the first and last block hold reserved addresses
    assert network.free(subnet) == 59 - 1 - 32


def test_a_fragmented_subnet_refuses_prefixes_but_not_addresses(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/26")
    for address in ("10.0.1.17", "10.0.1.33"):
        network.interface(subnet, PrivateIpAddress=address)
    interface = network.interface(subnet, PrivateIpAddress="10.0.1.4")
    with refused("InsufficientCidrBlocks", "enough free cidr blocks"):
        ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, Ipv4PrefixCount=1)
    got = ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=1)
    assert len(got["AssignedPrivateIpAddresses"]) == 1


def test_a_subnet_without_addresses_for_a_prefix_says_so(network: Network) -> None:
    subnet = network.subnet("10.0.1.0/28")
    with refused("InvalidParameterValue", "There aren't sufficient free Ipv4 addresses or prefixes"):
        network.interface(subnet, Ipv4PrefixCount=1)


def test_addresses_never_come_out_of_prefixes(network: Network) -> None:
    subnet = network.subnet("10.0.1.0/26")
    shown = network.shown(network.interface(subnet, PrivateIpAddress="10.0.1.4", Ipv4PrefixCount=1))
    block = ipaddress.ip_network(shown["Ipv4Prefixes"][0]["Ipv4Prefix"])
    others = [network.shown(network.interface(subnet))["PrivateIpAddress"] for _ in range(59 - 1 - 16)]
    assert not [a for a in others if ipaddress.ip_address(a) in block]
    assert network.free(subnet) == 0
    with refused("InvalidIPAddress.InUse"):
        network.interface(subnet, PrivateIpAddress=str(block[3]))


def test_a_prefix_can_be_asked_for_by_name(network: Network) -> None:
    subnet = network.subnet("10.0.1.0/24")
    interface = network.interface(subnet, PrivateIpAddress="10.0.1.4", Ipv4Prefixes=[{"Ipv4Prefix": "10.0.1.64/28"}])
    assert network.shown(interface)["Ipv4Prefixes"] == [{"Ipv4Prefix": "10.0.1.64/28"}]
    for prefix, code in (
        ("10.0.1.64/28", "InvalidIPAddress.InUse"),
        ("10.0.1.0/28", "InvalidIPAddress.InUse"),
        ("10.0.1.70/28", "InvalidParameterValue"),
        ("10.0.1.96/27", "InvalidParameterValue"),
        ("10.0.2.0/28", "InvalidParameterValue"),
    ):
        with refused(code):
            network.interface(subnet, Ipv4Prefixes=[{"Ipv4Prefix": prefix}])


@pytest.mark.parametrize(
    ("address", "code", "text"),
    [
        ("10.0.1.3", "InvalidParameterValue", "reserved address range"),
        ("10.0.1.255", "InvalidParameterValue", "reserved address range"),
        ("10.0.2.9", "InvalidParameterValue", "does not fall within the subnet's address range"),
        ("10.0.1.9", "InvalidIPAddress.InUse", "already in use"),
    ],
)
def test_an_explicit_address_must_be_free_and_in_range(network: Network, address: str, code: str, text: str) -> None:
    subnet = network.subnet("10.0.1.0/24")
    network.interface(subnet, PrivateIpAddress="10.0.1.9")
    with refused(code, text):
        network.interface(subnet, PrivateIpAddress=address)
    assert network.free(subnet) == 250


def test_secondary_addresses_by_count_and_by_name(network: Network) -> None:
    subnet = network.subnet("10.0.1.0/24")
    counted = network.shown(network.interface(subnet, SecondaryPrivateIpAddressCount=3))
    assert [a["Primary"] for a in counted["PrivateIpAddresses"]] == [True, False, False, False]
    named = [{"PrivateIpAddress": "10.0.1.20", "Primary": True}, {"PrivateIpAddress": "10.0.1.21", "Primary": False}]
    shown = network.shown(network.interface(network.subnet("10.0.2.0/24"), SecondaryPrivateIpAddressCount=1))
    assert len(shown["PrivateIpAddresses"]) == 2
    if all(a["PrivateIpAddress"] not in ("10.0.1.20", "10.0.1.21") for a in counted["PrivateIpAddresses"]):
        asked = network.shown(network.interface(subnet, PrivateIpAddresses=named))
        assert [a["PrivateIpAddress"] for a in asked["PrivateIpAddresses"]] == ["10.0.1.20", "10.0.1.21"]


def test_counts_and_prefixes_do_not_mix(network: Network) -> None:
    subnet = network.subnet("10.0.1.0/24")
    with refused("InvalidParameterCombination"):
        network.interface(subnet, SecondaryPrivateIpAddressCount=1, Ipv4PrefixCount=1)


def test_a_security_group_that_does_not_exist_is_refused(network: Network) -> None:
    with refused("InvalidGroup.NotFound"):
        network.interface(network.subnet("10.0.1.0/24"), Groups=["sg-0123456789abcdef0"])


def test_a_client_token_makes_one_interface(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    first = ec2.create_network_interface(SubnetId=subnet, Ipv4PrefixCount=1, ClientToken="once")
    again = ec2.create_network_interface(SubnetId=subnet, Ipv4PrefixCount=1, ClientToken="once")
    assert again["NetworkInterface"]["NetworkInterfaceId"] == first["NetworkInterface"]["NetworkInterfaceId"]
    assert again["ClientToken"] == "once"
    assert network.free(subnet) == 251 - 17
    with refused("IdempotentParameterMismatch"):
        ec2.create_network_interface(SubnetId=subnet, Ipv4PrefixCount=2, ClientToken="once")


def test_assigning_answers_only_what_is_new(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    interface = network.interface(subnet, SecondaryPrivateIpAddressCount=2)
    before = {a["PrivateIpAddress"] for a in network.shown(interface)["PrivateIpAddresses"]}
    answer = ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=2)
    new = {a["PrivateIpAddress"] for a in answer["AssignedPrivateIpAddresses"]}
    assert len(new) == 2
    assert not new & before
    assert {a["PrivateIpAddress"] for a in network.shown(interface)["PrivateIpAddresses"]} == before | new
    answer = ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, Ipv4PrefixCount=1)
    assert answer["AssignedIpv4Prefixes"] == network.shown(interface)["Ipv4Prefixes"]


def test_an_address_of_another_interface_moves_only_if_that_is_allowed(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    holder, taker = network.interface(subnet, PrivateIpAddress="10.0.1.10"), network.interface(subnet)
    for interface, address in ((holder, "10.0.1.11"),):
        ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, PrivateIpAddresses=[address])
    with refused("InvalidParameterValue", "[10.0.1.11] assigned, but move is not allowed."):
        ec2.assign_private_ip_addresses(NetworkInterfaceId=taker, PrivateIpAddresses=["10.0.1.11"])
    with refused("InvalidParameterValue", "[10.0.1.10] assigned, but move is not allowed."):
        ec2.assign_private_ip_addresses(
            NetworkInterfaceId=taker, PrivateIpAddresses=["10.0.1.10"], AllowReassignment=True
        )
    ec2.assign_private_ip_addresses(NetworkInterfaceId=taker, PrivateIpAddresses=["10.0.1.11"], AllowReassignment=True)
    assert [a["PrivateIpAddress"] for a in network.shown(holder)["PrivateIpAddresses"]] == ["10.0.1.10"]
    assert "10.0.1.11" in [a["PrivateIpAddress"] for a in network.shown(taker)["PrivateIpAddresses"]]


def test_unassigned_addresses_and_prefixes_are_free_again(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    interface = network.interface(subnet, SecondaryPrivateIpAddressCount=2)
    secondaries = [a["PrivateIpAddress"] for a in network.shown(interface)["PrivateIpAddresses"] if not a["Primary"]]
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=interface, PrivateIpAddresses=secondaries)
    assert network.free(subnet) == 250
    prefix = ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, Ipv4PrefixCount=1)["AssignedIpv4Prefixes"]
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=interface, Ipv4Prefixes=[prefix[0]["Ipv4Prefix"]])
    assert network.free(subnet) == 250
    assert network.shown(interface)["Ipv4Prefixes"] == []


def test_what_is_not_the_interfaces_own_cannot_be_unassigned(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    interface = network.interface(subnet, PrivateIpAddress="10.0.1.10")
    ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, PrivateIpAddresses=["10.0.1.11"])
    for asked in (
        {"PrivateIpAddresses": ["10.0.1.10"]},
        {"PrivateIpAddresses": ["10.0.1.11", "10.0.1.99"]},
        {"Ipv4Prefixes": ["10.0.1.16/28"]},
    ):
        with refused("InvalidParameterValue", f"not assigned to interface {interface}"):
            ec2.unassign_private_ip_addresses(NetworkInterfaceId=interface, **asked)
    assert len(network.shown(interface)["PrivateIpAddresses"]) == 2


def test_a_deleted_interface_gives_its_addresses_back(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    interface = network.interface(subnet, Ipv4PrefixCount=2)
    ec2.delete_network_interface(NetworkInterfaceId=interface)
    assert network.free(subnet) == 251
    with refused("InvalidNetworkInterfaceID.NotFound"):
        network.shown(interface)
    with refused("InvalidNetworkInterfaceID.NotFound"):
        ec2.delete_network_interface(NetworkInterfaceId=interface)


def test_reservations_hold_prefixes_or_named_addresses(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    ec2.create_subnet_cidr_reservation(SubnetId=subnet, ReservationType="prefix", Cidr="10.0.1.128/27")
    assert network.free(subnet) == 251 - 32
    ec2.create_subnet_cidr_reservation(SubnetId=subnet, ReservationType="explicit", Cidr="10.0.1.64/28")
    assert network.free(subnet) == 251 - 32
    shown = network.shown(network.interface(subnet, PrivateIpAddress="10.0.1.70", Ipv4PrefixCount=2))
    assert {p["Ipv4Prefix"] for p in shown["Ipv4Prefixes"]} == {"10.0.1.128/28", "10.0.1.144/28"}
    assert network.free(subnet) == 251 - 32 - 1
    rest = [network.shown(network.interface(subnet, SecondaryPrivateIpAddressCount=48)) for _ in range(4)]
    chosen = [int(a["PrivateIpAddress"].rpartition(".")[2]) for s in rest for a in s["PrivateIpAddresses"]]
    assert not [n for n in chosen if 128 <= n < 160 or 64 <= n < 80]


def test_interfaces_are_shown_in_pages(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    made = {network.interface(subnet) for _ in range(12)}
    pages = ec2.get_paginator("describe_network_interfaces").paginate(
        Filters=[{"Name": "subnet-id", "Values": [subnet]}], PaginationConfig={"PageSize": 5}
    )
    sizes, seen = [], set()
    for page in pages:
        sizes.append(len(page["NetworkInterfaces"]))
        seen |= {e["NetworkInterfaceId"] for e in page["NetworkInterfaces"]}
    assert sizes == [5, 5, 2]
    assert seen == made
    with refused("InvalidParameterValue", "between 5 and 1000"):
        ec2.describe_network_interfaces(MaxResults=1001)
    with refused("InvalidNextToken"):
        ec2.describe_network_interfaces(MaxResults=5, NextToken="nonsense")


def test_filters_find_interfaces_by_any_address_tag_or_attachment(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    instance = network.instance(subnet)
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "berth:cluster", "Value": "demo"}]}]
    mine = network.interface(subnet, SecondaryPrivateIpAddressCount=1, TagSpecifications=tags)
    other = network.interface(subnet)
    ec2.attach_network_interface(NetworkInterfaceId=mine, InstanceId=instance, DeviceIndex=1)
    shown = network.shown(mine)
    secondary = shown["PrivateIpAddresses"][1]["PrivateIpAddress"]

    def found(**filters: str | list[str]) -> set[str]:
        asked = [{"Name": "subnet-id", "Values": [subnet]}]
        for name, value in filters.items():
            values = value if isinstance(value, list) else [value]
            asked.append({"Name": name, "Values": values})
        return {e["NetworkInterfaceId"] for e in ec2.describe_network_interfaces(Filters=asked)["NetworkInterfaces"]}

    assert found(**{"addresses.private-ip-address": secondary}) == {mine}
    assert found(**{"addresses.private-ip-address": [secondary, "10.9.9.9"]}) == {mine}
    assert found(**{"private-ip-address": secondary}) == set()
    assert found(**{"tag:berth:cluster": "demo"}) == {mine}
    assert found(**{"tag:berth:cluster": "other"}) == set()
    assert found(**{"tag-key": "berth:*"}) == {mine}
    assert found(**{"attachment.instance-id": instance, "attachment.device-index": "1"}) == {mine}
    assert found(**{"attachment.status": "attached", "attachment.delete-on-termination": "false"}) == {mine}
    assert found(**{"attachment.attachment-id": shown["Attachment"]["AttachmentId"]}) == {mine}
    assert found(status="available") == {other}
    assert found(**{"mac-address": shown["MacAddress"]}) == {mine}
    with refused("InvalidParameterValue", "The filter 'colour' is invalid"):
        found(colour="blue")


def test_attributes_are_changed_one_at_a_time(network: Network, ec2: Any) -> None:
    interface = network.interface(network.subnet("10.0.1.0/24"))
    group = ec2.create_security_group(VpcId=network.vpc, GroupName="g", Description="d")["GroupId"]
    ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, SourceDestCheck={"Value": False})
    ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, Description={"Value": "now"})
    ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, Groups=[group])
    shown = network.shown(interface)
    assert (shown["SourceDestCheck"], shown["Description"]) == (False, "now")
    assert [g["GroupId"] for g in shown["Groups"]] == [group]
    with refused("InvalidParameterCombination"):
        ec2.modify_network_interface_attribute(
            NetworkInterfaceId=interface, Description={"Value": "x"}, SourceDestCheck={"Value": True}
        )


def test_a_subnet_with_interfaces_is_not_deleted(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.1.0/24")
    interface = network.interface(subnet)
    with refused("DependencyViolation"):
        ec2.delete_subnet(SubnetId=subnet)
    ec2.delete_network_interface(NetworkInterfaceId=interface)
    ec2.delete_subnet(SubnetId=subnet)


def test_an_unattached_interface_holds_no_more_than_an_instance_could(network: Network, ec2: Any) -> None:
    interface = network.interface(network.subnet("10.0.1.0/24"))
    with refused("PrivateIpAddressLimitExceeded"):
        ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=60)
