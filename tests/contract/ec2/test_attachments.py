"""Attaching and detaching: states, zones, indexes, limits, and what an attachment shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from berth.ec2_wire import read_attached, read_interface

from .conftest import Network, refused
from .waiting import eventually


@pytest.fixture
def subnet(network: Network) -> str:
    return network.subnet("10.0.1.0/24")


def _attach(ec2: Any, interface: str, instance: str, index: int, **more: Any) -> str:
    answer = ec2.attach_network_interface(NetworkInterfaceId=interface, InstanceId=instance, DeviceIndex=index, **more)
    return str(answer["AttachmentId"])


def test_an_attachment_shows_what_ec2_shows(network: Network, ec2: Any, subnet: str) -> None:
    instance, interface = network.instance(subnet), network.interface(subnet)
    attachment = _attach(ec2, interface, instance, 1)
    shown = network.shown(interface)
    assert shown["Status"] == "in-use"
    assert datetime.now(UTC) - shown["Attachment"].pop("AttachTime") < timedelta(minutes=1)
    assert shown["Attachment"] == {
        "AttachmentId": attachment,
        "DeleteOnTermination": False,
        "DeviceIndex": 1,
        "NetworkCardIndex": 0,
        "InstanceId": instance,
        "InstanceOwnerId": "123456789012",
        "Status": "attached",
    }
    described = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert {e["NetworkInterfaceId"] for e in described["NetworkInterfaces"]} >= {interface}


def test_an_instance_shows_its_interfaces_as_they_are_described_themselves(
    network: Network, ec2: Any, subnet: str
) -> None:
    """But for their tags: Berth reads what is attached from there."""
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "berth:cluster", "Value": "demo"}]}]
    instance, interface = network.instance(subnet), network.interface(subnet, Ipv4PrefixCount=2, TagSpecifications=tags)
    _attach(ec2, interface, instance, 1)
    ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=3)
    described = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    shown = {view.id: view for view in read_attached(described)}
    assert len(shown) == 2
    for view in shown.values():
        assert view == replace(read_interface(network.shown(view.id)), cluster=None)
    assert (len(shown[interface].prefixes), len(shown[interface].addresses)) == (2, 3)


def test_a_pending_instance_takes_no_interface(
    network: Network, ec2: Any, subnet: str, timing: Callable[..., None]
) -> None:
    timing(pending=0.3)
    instance, interface = network.instance(subnet), network.interface(subnet)
    with refused("IncorrectState", "is not 'running' or 'stopped'"):
        _attach(ec2, interface, instance, 1)
    eventually(lambda: network.state(instance) == "running")
    _attach(ec2, interface, instance, 1)


def test_a_stopped_instance_takes_an_interface(network: Network, ec2: Any, subnet: str) -> None:
    instance, interface = network.instance(subnet), network.interface(subnet)
    ec2.stop_instances(InstanceIds=[instance])
    _attach(ec2, interface, instance, 1)
    assert network.shown(interface)["Attachment"]["InstanceId"] == instance


def test_a_terminated_instance_takes_no_interface(network: Network, ec2: Any, subnet: str) -> None:
    instance, interface = network.instance(subnet), network.interface(subnet)
    ec2.terminate_instances(InstanceIds=[instance])
    with refused("IncorrectState"):
        _attach(ec2, interface, instance, 1)


def test_an_attachment_takes_its_time(network: Network, ec2: Any, subnet: str, timing: Callable[..., None]) -> None:
    timing(attach=0.2, detach=0.2)
    instance, interface = network.instance(subnet), network.interface(subnet)
    attachment = _attach(ec2, interface, instance, 1)
    assert network.shown(interface)["Attachment"]["Status"] == "attaching"
    eventually(lambda: network.shown(interface)["Attachment"]["Status"] == "attached")
    ec2.detach_network_interface(AttachmentId=attachment)
    assert network.shown(interface)["Attachment"]["Status"] == "detaching"
    with refused("InvalidParameterValue", "currently in use"):
        ec2.delete_network_interface(NetworkInterfaceId=interface)
    eventually(lambda: network.shown(interface)["Status"] == "available")
    assert "Attachment" not in network.shown(interface)
    ec2.delete_network_interface(NetworkInterfaceId=interface)


def test_an_interface_is_attached_once(network: Network, ec2: Any, subnet: str) -> None:
    first, second, interface = network.instance(subnet), network.instance(subnet), network.interface(subnet)
    _attach(ec2, interface, first, 1)
    for instance in (first, second):
        with refused("InvalidNetworkInterface.InUse", f"Interface: [{interface}] in use."):
            _attach(ec2, interface, instance, 2)


def test_a_device_index_is_used_once(network: Network, ec2: Any, subnet: str) -> None:
    instance = network.instance(subnet)
    for index in (0, 1):
        interface = network.interface(subnet)
        if index:
            _attach(ec2, interface, instance, index)
            interface = network.interface(subnet)
        with refused("InvalidParameterValue", f"already has an interface attached at device index '{index}'"):
            _attach(ec2, interface, instance, index)


def test_an_interface_of_another_zone_is_refused(network: Network, ec2: Any, subnet: str) -> None:
    interface = network.interface(network.subnet("10.0.2.0/24", zone="b"))
    with refused("InvalidParameterCombination", "not in the same availability zone"):
        _attach(ec2, interface, network.instance(subnet), 1)


def test_a_type_has_a_number_of_interfaces(network: Network, ec2: Any, subnet: str) -> None:
    instance = network.instance(subnet, "t3.medium")
    for index in (1, 2):
        _attach(ec2, network.interface(subnet), instance, index)
    with refused("AttachmentLimitExceeded", "Interface count 4 exceeds the limit for t3.medium"):
        _attach(ec2, network.interface(subnet), instance, 3)


def test_an_interface_has_a_number_of_addresses_and_prefixes_count_as_one(
    network: Network, ec2: Any, subnet: str
) -> None:
    instance, interface = network.instance(subnet, "t3.medium"), network.interface(subnet)  # 6 addresses each
    _attach(ec2, interface, instance, 1)
    ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, Ipv4PrefixCount=2)
    ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=3)
    for asked in ({"SecondaryPrivateIpAddressCount": 1}, {"Ipv4PrefixCount": 1}):
        with refused("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit."):
            ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, **asked)


def test_an_interface_with_too_many_addresses_for_the_type_is_refused(network: Network, ec2: Any, subnet: str) -> None:
    interface = network.interface(subnet, SecondaryPrivateIpAddressCount=6)
    with refused("PrivateIpAddressLimitExceeded"):
        _attach(ec2, interface, network.instance(subnet, "t3.medium"), 1)


def test_types_before_nitro_have_no_prefixes(network: Network, ec2: Any, subnet: str) -> None:
    with refused("UnsupportedOperation"):
        _attach(ec2, network.interface(subnet, Ipv4PrefixCount=1), network.instance(subnet, "m4.large"), 1)


def test_each_network_card_has_its_own_device_indexes(network: Network, ec2: Any, subnet: str) -> None:
    instance = network.instance(subnet, "c6in.32xlarge")
    interfaces = [network.interface(subnet) for _ in range(3)]
    _attach(ec2, interfaces[0], instance, 1)
    answer = ec2.attach_network_interface(
        NetworkInterfaceId=interfaces[1], InstanceId=instance, DeviceIndex=1, NetworkCardIndex=1
    )
    assert answer["NetworkCardIndex"] == 1
    assert network.shown(interfaces[1])["Attachment"]["NetworkCardIndex"] == 1
    with refused("InvalidParameterValue", "Network card index 7"):
        _attach(ec2, interfaces[2], instance, 2, NetworkCardIndex=7)


def test_a_card_has_a_number_of_interfaces(network: Network, ec2: Any, subnet: str) -> None:
    instance = network.instance(subnet, "c6in.32xlarge")
    cards = ec2.describe_instance_types(InstanceTypes=["c6in.32xlarge"])["InstanceTypes"][0]["NetworkInfo"]
    most = cards["NetworkCards"][1]["MaximumNetworkInterfaces"]
    for index in range(1, most + 1):
        _attach(ec2, network.interface(subnet), instance, index, NetworkCardIndex=1)
    with refused("AttachmentLimitExceeded"):
        _attach(ec2, network.interface(subnet), instance, most + 1, NetworkCardIndex=1)


def test_the_primary_interface_cannot_be_detached(network: Network, ec2: Any, subnet: str) -> None:
    instance = network.instance(subnet)
    _attach(ec2, network.interface(subnet), instance, 1)
    found = ec2.describe_network_interfaces(
        Filters=[
            {"Name": "attachment.instance-id", "Values": [instance]},
            {"Name": "attachment.device-index", "Values": ["0"]},
        ]
    )["NetworkInterfaces"]
    with refused("OperationNotPermitted", "device index 0 and networkCard index 0 cannot be detached"):
        ec2.detach_network_interface(AttachmentId=found[0]["Attachment"]["AttachmentId"])
    with refused("InvalidAttachmentID.NotFound"):
        ec2.detach_network_interface(AttachmentId="eni-attach-0123456789abcdef0")


def test_delete_on_termination_is_changed_on_the_attachment(network: Network, ec2: Any, subnet: str) -> None:
    instance, interface = network.instance(subnet), network.interface(subnet)
    attachment = _attach(ec2, interface, instance, 1)
    change = {"AttachmentId": attachment, "DeleteOnTermination": True}
    ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, Attachment=change)
    assert network.shown(interface)["Attachment"]["DeleteOnTermination"] is True
    with refused("InvalidAttachmentID.NotFound"):
        ec2.modify_network_interface_attribute(
            NetworkInterfaceId=interface, Attachment={**change, "AttachmentId": "eni-attach-0"}
        )


def test_an_interface_in_use_is_not_deleted(network: Network, ec2: Any, subnet: str) -> None:
    instance, interface = network.instance(subnet), network.interface(subnet)
    _attach(ec2, interface, instance, 1)
    with refused("InvalidParameterValue", f"Network interface '{interface}' is currently in use."):
        ec2.delete_network_interface(NetworkInterfaceId=interface)
