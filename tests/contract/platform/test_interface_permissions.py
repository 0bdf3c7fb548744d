"""EC2's interface actions are authorized for each resource they touch, with the tags these have."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.sandbox.cloud.identity import arn
from tests.sandbox.cloud.platform import Platform

from .conftest import client

INTERFACES = arn("ec2", "network-interface/*")
CLUSTER = {"StringEquals": {"aws:ResourceTag/berth:cluster": "demo"}}


def allow(action: str | list[str], resource: str, condition: dict[str, Any] | None = None) -> dict[str, Any]:
    statement: dict[str, Any] = {"Effect": "Allow", "Action": action, "Resource": resource}
    return {**statement, "Condition": condition} if condition else statement


POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        allow("ec2:Describe*", "*"),
        allow("ec2:CreateNetworkInterface", INTERFACES, {"StringEquals": {"aws:RequestTag/berth:cluster": "demo"}}),
        allow(
            "ec2:CreateNetworkInterface", arn("ec2", "subnet/*"), {"Null": {"aws:ResourceTag/berth:allowed": "false"}}
        ),
        allow("ec2:CreateNetworkInterface", arn("ec2", "security-group/*")),
        allow("ec2:CreateTags", INTERFACES, {"StringEquals": {"ec2:CreateAction": "CreateNetworkInterface"}}),
        allow(["ec2:AttachNetworkInterface", "ec2:DetachNetworkInterface"], INTERFACES, CLUSTER),
        allow(
            ["ec2:AttachNetworkInterface", "ec2:DetachNetworkInterface"],
            arn("ec2", "instance/*"),
            {"StringEquals": {"aws:ResourceTag/kubernetes.io/cluster/demo": ["owned", "shared"]}},
        ),
        allow("ec2:DeleteNetworkInterface", INTERFACES, CLUSTER),
        allow(
            "ec2:ModifyNetworkInterfaceAttribute",
            INTERFACES,
            {**CLUSTER, "StringEqualsIfExists": {"ec2:Attribute": "Attachment"}},
        ),
        allow(
            "ec2:AssignPrivateIpAddresses",
            INTERFACES,
            {"Null": {"aws:ResourceTag/berth:cluster": "true"}, "ArnLike": {"ec2:Vpc": arn("ec2", "vpc/VPC")}},
        ),
    ],
}


class World:
    """A VPC with an allowed and another subnet, a node and a stranger, and a function that may what POLICY says."""

    def __init__(self, platform: Platform) -> None:
        self.admin = client(platform.endpoint, "ec2")
        vpc = self.admin.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.allowed, self.other = (
            self.admin.create_subnet(VpcId=vpc, CidrBlock=c, AvailabilityZone="eu-west-1a")["Subnet"]["SubnetId"]
            for c in ("10.0.1.0/24", "10.0.2.0/24")
        )
        self.admin.create_tags(Resources=[self.allowed], Tags=[{"Key": "berth:allowed", "Value": "yes"}])
        iam = client(platform.endpoint, "iam")
        iam.create_role(RoleName="reconciler", AssumeRolePolicyDocument="{}")
        document = json.dumps(POLICY).replace("vpc/VPC", f"vpc/{vpc}")
        iam.put_role_policy(RoleName="reconciler", PolicyName="p", PolicyDocument=document)
        role = "arn:aws:iam::123456789012:role/reconciler"
        session = platform.identity.credentials_for_function("reconcile", role)
        self.function = client(platform.endpoint, "ec2", session)
        self.node = self._instance({"kubernetes.io/cluster/demo": "owned"})
        self.stranger = self._instance({})

    def _instance(self, tags: dict[str, str]) -> str:
        image = self.admin.describe_images()["Images"][0]["ImageId"]
        pairs = [{"Key": k, "Value": v} for k, v in tags.items()]
        more = {"TagSpecifications": [{"ResourceType": "instance", "Tags": pairs}]} if pairs else {}
        run = self.admin.run_instances(
            ImageId=image, MinCount=1, MaxCount=1, InstanceType="m5.large", SubnetId=self.allowed, **more
        )
        return str(run["Instances"][0]["InstanceId"])

    def create(self, who: Any, subnet: str, cluster: str | None = "demo") -> str:
        tags = [{"Key": "berth:cluster", "Value": cluster}] if cluster else []
        more = {"TagSpecifications": [{"ResourceType": "network-interface", "Tags": tags}]} if tags else {}
        return str(who.create_network_interface(SubnetId=subnet, **more)["NetworkInterface"]["NetworkInterfaceId"])


@pytest.fixture(scope="module")
def world(platform: Platform) -> World:
    return World(platform)


def unauthorized(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(*arguments, **named)
    assert caught.value.response["Error"]["Code"] == "UnauthorizedOperation"
    return str(caught.value)


def test_describe_is_allowed_as_a_whole(world: World) -> None:
    assert world.function.describe_network_interfaces()["NetworkInterfaces"]


def test_creating_needs_our_tag_and_an_allowed_subnet(world: World) -> None:
    assert world.create(world.function, world.allowed)
    assert ":network-interface/*" in unauthorized(world.create, world.function, world.allowed, cluster=None)
    unauthorized(world.create, world.function, world.allowed, cluster="another")
    assert f":subnet/{world.other}" in unauthorized(world.create, world.function, world.other)


def test_tags_are_given_on_create_alone(world: World) -> None:
    eni = world.create(world.function, world.allowed)
    message = unauthorized(
        world.function.create_tags, Resources=[eni], Tags=[{"Key": "berth:cluster", "Value": "demo"}]
    )
    assert "ec2:CreateTags" in message
    unauthorized(world.function.delete_tags, Resources=[eni], Tags=[{"Key": "berth:cluster"}])


def test_attaching_needs_our_interface_and_our_node(world: World) -> None:
    mine, foreign = world.create(world.function, world.allowed), world.create(world.admin, world.allowed, None)
    attach = world.function.attach_network_interface
    assert f":instance/{world.stranger}" in unauthorized(
        attach, NetworkInterfaceId=mine, InstanceId=world.stranger, DeviceIndex=1
    )
    assert foreign in unauthorized(attach, NetworkInterfaceId=foreign, InstanceId=world.node, DeviceIndex=1)
    attachment = attach(NetworkInterfaceId=mine, InstanceId=world.node, DeviceIndex=1)["AttachmentId"]
    world.function.modify_network_interface_attribute(
        NetworkInterfaceId=mine, Attachment={"AttachmentId": attachment, "DeleteOnTermination": True}
    )
    unauthorized(
        world.function.modify_network_interface_attribute, NetworkInterfaceId=mine, SourceDestCheck={"Value": False}
    )
    world.function.detach_network_interface(AttachmentId=attachment)


def test_deleting_needs_our_tag(world: World) -> None:
    mine, foreign = world.create(world.function, world.allowed), world.create(world.admin, world.allowed, None)
    world.function.delete_network_interface(NetworkInterfaceId=mine)
    unauthorized(world.function.delete_network_interface, NetworkInterfaceId=foreign)


def test_assigning_by_vpc_is_for_interfaces_without_our_tag(world: World) -> None:
    mine, untagged = world.create(world.function, world.allowed), world.create(world.admin, world.allowed, None)
    world.function.assign_private_ip_addresses(NetworkInterfaceId=untagged, SecondaryPrivateIpAddressCount=1)
    unauthorized(world.function.assign_private_ip_addresses, NetworkInterfaceId=mine, SecondaryPrivateIpAddressCount=1)


def test_what_is_not_there_is_not_found(world: World) -> None:
    with pytest.raises(ClientError) as caught:
        world.function.delete_network_interface(NetworkInterfaceId="eni-0123456789abcdef0")
    assert caught.value.response["Error"]["Code"] == "InvalidNetworkInterfaceID.NotFound"


def test_an_action_that_no_statement_names_is_refused(world: World) -> None:
    assert "ec2:TerminateInstances" in unauthorized(world.function.terminate_instances, InstanceIds=[world.node])
