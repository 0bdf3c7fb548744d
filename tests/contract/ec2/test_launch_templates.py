"""Launch templates: their interfaces, with prefixes and tags, are those of the instances launched from them."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Cloud, Network, refused
from .waiting import eventually


@pytest.fixture
def subnet(network: Network) -> str:
    return network.subnet("10.0.1.0/24")


def _template(ec2: Any, name: str, interface: dict[str, Any], **data: Any) -> str:
    data = {"ImageId": "ami-1e749f67", "InstanceType": "m5.large", "NetworkInterfaces": [interface], **data}
    made = ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    return str(made["LaunchTemplate"]["LaunchTemplateId"])


def _launch(ec2: Any, template: str, **more: Any) -> Any:
    launched = ec2.run_instances(LaunchTemplate={"LaunchTemplateId": template}, MinCount=1, MaxCount=1, **more)
    return launched["Instances"][0]


def _primary(network: Network, instance: Any) -> dict[str, Any]:
    return network.shown(instance["NetworkInterfaces"][0]["NetworkInterfaceId"])


def test_the_first_interface_has_the_prefixes_and_tags_of_the_template(ec2: Any, network: Network) -> None:
    tags = [{"Key": "berth:cluster", "Value": "demo"}]
    template = _template(
        ec2,
        "with-prefixes",
        {"DeviceIndex": 0, "Ipv4PrefixCount": 3, "DeleteOnTermination": True},
        TagSpecifications=[{"ResourceType": "network-interface", "Tags": tags}],
    )
    shown = _primary(network, _launch(ec2, template))
    assert len(shown["Ipv4Prefixes"]) == 3
    assert shown["TagSet"] == tags
    assert shown["Attachment"]["DeleteOnTermination"]


def test_single_addresses_and_groups_of_the_template_count_too(ec2: Any, network: Network) -> None:
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="pods", Description="pods", VpcId=vpc)["GroupId"]
    template = _template(
        ec2, "with-addresses", {"DeviceIndex": 0, "SecondaryPrivateIpAddressCount": 4, "Groups": [group]}
    )
    shown = _primary(network, _launch(ec2, template))
    assert len(shown["PrivateIpAddresses"]) == 5
    assert [g["GroupId"] for g in shown["Groups"]] == [group]


def test_an_auto_scaling_group_puts_the_interface_into_its_own_subnet(
    ec2: Any, cloud: Cloud, network: Network, subnet: str
) -> None:
    template = _template(ec2, "for-group", {"DeviceIndex": 0, "Ipv4PrefixCount": 2})
    cloud.client("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName="nodes",
        LaunchTemplate={"LaunchTemplateId": template},
        MinSize=2,
        MaxSize=2,
        VPCZoneIdentifier=subnet,
    )

    def launched() -> list[Any]:
        found = ec2.describe_network_interfaces(Filters=[{"Name": "subnet-id", "Values": [subnet]}])
        return [i for i in found["NetworkInterfaces"] if len(i.get("Ipv4Prefixes", ())) == 2]

    eventually(lambda: len(launched()) == 2)


def test_a_subnet_beside_the_interfaces_is_refused(ec2: Any, subnet: str) -> None:
    template = _template(ec2, "beside", {"DeviceIndex": 0, "Ipv4PrefixCount": 1})
    with refused("InvalidParameterCombination", "instance-level subnet ID"):
        _launch(ec2, template, SubnetId=subnet)


def test_without_room_for_its_prefixes_the_launch_fails_and_leaves_nothing(
    ec2: Any, network: Network, cloud: Cloud
) -> None:
    small = network.subnet("10.0.2.0/27")
    template = _template(ec2, "too-many", {"DeviceIndex": 0, "SubnetId": small, "Ipv4PrefixCount": 2})
    free = network.free(small)
    with refused("InvalidParameterValue", "sufficient free Ipv4 addresses or prefixes"):
        _launch(ec2, template)
    assert network.free(small) == free


def test_more_prefixes_than_the_type_allows_are_refused(ec2: Any) -> None:
    template = _template(ec2, "beyond", {"DeviceIndex": 0, "Ipv4PrefixCount": 10})
    with refused("PrivateIpAddressLimitExceeded"):
        _launch(ec2, template)


def test_an_ipv6_prefix_comes_with_the_launch(ec2: Any, network: Network) -> None:
    ec2.associate_vpc_cidr_block(VpcId=network.vpc, AmazonProvidedIpv6CidrBlock=True)
    block = ec2.describe_vpcs(VpcIds=[network.vpc])["Vpcs"][0]["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"]
    subnet = ec2.create_subnet(VpcId=network.vpc, CidrBlock="10.0.9.0/24", Ipv6CidrBlock=block.replace("/56", "/64"))
    first = {"DeviceIndex": 0, "SubnetId": subnet["Subnet"]["SubnetId"], "Ipv4PrefixCount": 1, "Ipv6PrefixCount": 1}
    shown = _primary(network, _launch(ec2, _template(ec2, "both", first)))
    assert (len(shown["Ipv4Prefixes"]), len(shown["Ipv6Prefixes"])) == (1, 1)
