"""The EC2 edge: every request fits botocore's service model, every answer and error is read as AWS writes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from berth.budget import OutOfTokensError
from berth.calls import (
    MUTATING,
    AssignAddresses,
    AssignIpv6Prefixes,
    AssignPrefixes,
    AssociatePublic,
    Attach,
    Call,
    CreateInterface,
    DeleteInterface,
    Detach,
    DisassociatePublic,
    SetDeleteOnTermination,
    SetGroups,
    TagForNode,
    Unassign,
    action_of,
)
from berth.ec2 import CIDRS_SECONDS, CLIENT_CONFIG, GROUPS_SECONDS, MUTATING_CONFIG, SUBNETS_SECONDS, Boto3Ec2
from berth.ec2_wire import Ec2Error, Trouble, classify, ec2_name, request
from berth.looks import FRESH_SECONDS
from berth.model import Attachment, Instance, Intent, InterfaceView, Limits, Outcome
from berth.route_tables import ROUTES_SECONDS
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.stub import ANY, Stubber
from botocore.validate import validate_parameters

NODE = "i-0123456789abcdef0"
PREFIX = "arn:aws:ec2:eu-west-1:123456789012:instance/"
CALLS: list[Call] = [
    CreateInterface("subnet-1", ("sg-1",), prefixes=2),
    CreateInterface("subnet-1", ("sg-1",), addresses=2),
    CreateInterface("subnet-1", ("sg-1",), prefixes=2, ipv6_prefixes=1),
    Attach("eni-1", 1),
    Attach("eni-1", 1, 1),
    SetDeleteOnTermination("eni-1", "eni-attach-1"),
    AssignPrefixes("eni-1", 2),
    AssignAddresses("eni-1", 2),
    AssignIpv6Prefixes("eni-1"),
    SetGroups("eni-1", ("sg-1", "sg-2")),
    TagForNode("eni-1"),
    Unassign("eni-1", ("10.0.1.16/28",)),
    Unassign("eni-1", ("10.0.1.5/32", "10.0.1.6/32")),
    Detach("eni-1", "eni-attach-1"),
    DeleteInterface("eni-1"),
    AssociatePublic("eni-1", "eipalloc-1", "10.0.1.5"),
    DisassociatePublic("eni-1", "eipalloc-1", "eipassoc-1", "10.0.1.5"),
]
DESCRIBED: dict[str, Any] = {
    "NetworkInterfaceId": "eni-1",
    "MacAddress": "06:AA:00:00:00:01",
    "SubnetId": "subnet-1",
    "VpcId": "vpc-1",
    "AvailabilityZone": "eu-west-1a",
    "PrivateIpAddress": "10.0.1.4",
    "PrivateIpAddresses": [
        {"PrivateIpAddress": "10.0.1.4", "Primary": True},
        {"PrivateIpAddress": "10.0.1.5", "Primary": False},
    ],
    "Ipv4Prefixes": [{"Ipv4Prefix": "10.0.1.16/28"}],
    "Ipv6Prefixes": [{"Ipv6Prefix": "2001:db8:0:1:2::/80"}],
    "Groups": [{"GroupId": "sg-1", "GroupName": "nodes"}],
    "Attachment": {
        "AttachmentId": "eni-attach-1",
        "InstanceId": NODE,
        "DeviceIndex": 1,
        "NetworkCardIndex": 0,
        "Status": "attached",
        "DeleteOnTermination": True,
    },
    "TagSet": [
        {"Key": "berth:cluster", "Value": "demo"},
        {"Key": "berth:instance", "Value": NODE},
        {"Key": "berth:created-at", "Value": "2026-11-02T06:00:00Z"},
    ],
}
VIEW = InterfaceView(
    id="eni-1",
    mac="06:aa:00:00:00:01",
    subnet_id="subnet-1",
    vpc_id="vpc-1",
    zone="eu-west-1a",
    primary_address="10.0.1.4",
    addresses=("10.0.1.5",),
    prefixes=("10.0.1.16/28",),
    groups=("sg-1",),
    attachment=Attachment("eni-attach-1", NODE, 1, 0, "attached", True),
    cluster="demo",
    node=NODE,
    created_at=1793599200.0,
    ipv6_prefixes=("2001:db8:0:1:2::/80",),
)


def client() -> Any:
    return boto3.client("ec2", region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test")


def stubbed() -> tuple[Boto3Ec2, Stubber]:
    """An edge whose describes and calls are answered by botocore's stubber, which checks both ways."""
    made = client()
    stub = Stubber(made)
    stub.activate()
    return Boto3Ec2(made, made, PREFIX), stub


def made(call: Call) -> Intent:
    return Intent("token-1", call, 1793599200.75)


@pytest.mark.parametrize("call", CALLS, ids=lambda c: type(c).__name__)
def test_every_mutating_call_fits_the_service_model(call: Call) -> None:
    action, parameters = request(made(call), NODE, "demo")
    api = client()
    operation = api.meta.service_model.operation_model(api.meta.method_to_api_mapping[action])
    validate_parameters(parameters, operation.input_shape)


def test_there_is_no_mutating_call_without_such_a_check() -> None:
    assert {type(c) for c in CALLS} == set(MUTATING)


def test_a_creation_carries_tags_token_and_blocks_in_one_call_and_repeats_exactly() -> None:
    first = request(made(CALLS[0]), NODE, "demo")
    assert first == request(made(CALLS[0]), NODE, "demo")
    _, parameters = first
    assert parameters["ClientToken"] == "token-1"
    assert parameters["Ipv4PrefixCount"] == 2
    assert "SecondaryPrivateIpAddressCount" not in parameters
    assert {t["Key"]: t["Value"] for t in parameters["TagSpecifications"][0]["Tags"]} == {
        "berth:cluster": "demo",
        "berth:instance": NODE,
        "berth:created-at": "2026-11-02T06:00:00Z",
    }


def test_clients_have_bounded_time_outs_and_mutating_ones_never_retry() -> None:
    for config in (CLIENT_CONFIG, MUTATING_CONFIG):
        assert config.connect_timeout + config.read_timeout <= 15  # type: ignore[attr-defined]
    assert MUTATING_CONFIG.retries == {"total_max_attempts": 1}  # type: ignore[attr-defined]


def instance(*interfaces: dict[str, Any], instance_id: str = NODE) -> dict[str, Any]:
    """An instance as it is described, with what is attached to it: without tags, zone and its own id."""
    hidden = ("TagSet", "AvailabilityZone")
    shown = [{k: v for k, v in i.items() if k not in hidden} for i in interfaces]
    for i in shown:
        i["Attachment"] = {k: v for k, v in i["Attachment"].items() if k != "InstanceId"}
    return {
        "InstanceId": instance_id,
        "InstanceType": "m5.large",
        "State": {"Name": "running", "Code": 16},
        "SubnetId": "subnet-1",
        "VpcId": "vpc-1",
        "Placement": {"AvailabilityZone": "eu-west-1a"},
        "LaunchTime": datetime(2026, 11, 2, 6, tzinfo=UTC),
        "NetworkInterfaces": shown,
    }


def test_interfaces_are_read_with_their_instance_or_by_tag_page_by_page() -> None:
    ec2, stub = stubbed()
    stub.add_response("describe_instances", {"Reservations": [{"Instances": [instance(DESCRIBED)]}]})
    loose = {**DESCRIBED, "NetworkInterfaceId": "eni-2", "Status": "available"}
    del loose["Attachment"]
    tagged = {"Name": "tag:berth:instance", "Values": [NODE]}
    stub.add_response(
        "describe_network_interfaces", {"NetworkInterfaces": [DESCRIBED], "NextToken": "more"}, {"Filters": [tagged]}
    )
    stub.add_response(
        "describe_network_interfaces", {"NetworkInterfaces": [loose]}, {"Filters": [tagged], "NextToken": "more"}
    )
    ec2.instances([NODE])
    (first, second) = ec2.interfaces([NODE])[NODE]
    assert first == VIEW
    assert (second.id, second.attachment) == ("eni-2", None)
    stub.assert_no_pending_responses()


def test_an_attached_interface_without_our_tag_is_read_with_its_instance_alone() -> None:
    ec2, stub = stubbed()
    stub.add_response("describe_instances", {"Reservations": [{"Instances": [instance(DESCRIBED)]}]})
    stub.add_response("describe_network_interfaces", {"NetworkInterfaces": []})
    ec2.instances([NODE])
    (shown,) = ec2.interfaces([NODE])[NODE]
    assert shown == replace(VIEW, cluster=None, node=None, created_at=None, standby=None)


def test_an_interface_tagged_for_one_and_attached_to_another_is_shown_to_both() -> None:
    ec2, stub = stubbed()
    other = "i-0123456789abcdef1"
    moved = {**DESCRIBED, "Attachment": {**DESCRIBED["Attachment"], "InstanceId": other}}
    instances = [instance(), instance(moved, instance_id=other)]
    stub.add_response("describe_instances", {"Reservations": [{"Instances": instances}]})
    stub.add_response("describe_network_interfaces", {"NetworkInterfaces": [moved]})
    ec2.instances([NODE, other])
    found = ec2.interfaces([NODE, other])
    assert [v.id for v in found[NODE]] == [v.id for v in found[other]] == ["eni-1"]
    assert not found[NODE][0].is_ours("demo", NODE)


def test_instances_are_read_and_their_arn_is_ours_to_make() -> None:
    ec2, stub = stubbed()
    described = {
        "InstanceId": NODE,
        "InstanceType": "m5.large",
        "State": {"Name": "running", "Code": 16},
        "SubnetId": "subnet-1",
        "VpcId": "vpc-1",
        "Placement": {"AvailabilityZone": "eu-west-1a"},
        "LaunchTime": datetime(2026, 11, 2, 6, tzinfo=UTC),
        "Tags": [{"Key": "b", "Value": "2"}, {"Key": "a", "Value": "1"}],
    }
    stub.add_response("describe_instances", {"Reservations": [{"Instances": [described]}]})
    assert ec2.instances([NODE, "i-gone"]) == {
        NODE: Instance(
            NODE,
            PREFIX + NODE,
            "running",
            "m5.large",
            "subnet-1",
            "vpc-1",
            "eu-west-1a",
            1793599200.0,
            (("a", "1"), ("b", "2")),
        )
    }


def test_limits_are_those_of_every_network_card_and_asked_once() -> None:
    ec2, stub = stubbed()
    cards = [{"NetworkCardIndex": n, "MaximumNetworkInterfaces": 15} for n in range(4)]
    info = {"MaximumNetworkInterfaces": 60, "Ipv4AddressesPerInterface": 50, "NetworkCards": cards}
    ipv6 = {"Ipv6Supported": True, "Ipv6AddressesPerInterface": 50}
    types = [
        {"InstanceType": "p4d.24xlarge", "Hypervisor": "nitro", "NetworkInfo": info},
        {"InstanceType": "t2.large", "Hypervisor": "xen", "NetworkInfo": {**info, "NetworkCards": []}},
        {"InstanceType": "m5.metal", "NetworkInfo": {**info, "DefaultNetworkCardIndex": 1, **ipv6}},
    ]
    stub.add_response("describe_instance_types", {"InstanceTypes": types})
    wanted = ["p4d.24xlarge", "t2.large", "m5.metal"]
    assert ec2.limits(wanted) == {
        "p4d.24xlarge": Limits(60, 50, cards=((0, 15), (1, 15), (2, 15), (3, 15))),
        "t2.large": Limits(60, 50, prefixes=False),
        "m5.metal": Limits(60, 50, network_card=1, cards=((0, 15), (1, 15), (2, 15), (3, 15)), ipv6=True),
    }
    assert set(ec2.limits(wanted)) == set(wanted)


def test_a_group_that_is_gone_is_no_more_believed_to_be_allowed() -> None:
    ec2, stub = stubbed()
    group = {"GroupId": "sg-1", "VpcId": "vpc-1"}
    empty: list[tuple[str, dict[str, Any]]] = [("describe_subnets", {"Subnets": []}), ("describe_vpcs", {"Vpcs": []})]
    tables: tuple[str, dict[str, Any]] = ("describe_route_tables", {"RouteTables": []})
    for action, answer in (*empty, ("describe_security_groups", {"SecurityGroups": [group]}), tables):
        stub.add_response(action, answer)
    assert ec2.network(["vpc-1"]).allowed_groups == {"sg-1"}
    stub.add_client_error("modify_network_interface_attribute", "InvalidGroup.NotFound", "it does not exist")
    with pytest.raises(Ec2Error) as caught:
        ec2.mutate(made(SetGroups("eni-1", ("sg-1",))), NODE, "demo")
    assert caught.value.trouble is Trouble.GONE
    for action, answer in (*empty, ("describe_security_groups", {"SecurityGroups": []}), tables):
        stub.add_response(action, answer)
    assert ec2.network(["vpc-1"]).allowed_groups == frozenset()


def test_an_unknown_instance_type_is_missing() -> None:
    ec2, stub = stubbed()
    stub.add_response("describe_instance_types", {"InstanceTypes": []}, {"Filters": ANY})
    assert ec2.limits(["m99.huge"]) == {}


def test_the_network_around_the_nodes_is_read() -> None:
    ec2, stub = stubbed()
    subnet = {
        "SubnetId": "subnet-1",
        "CidrBlock": "10.0.1.0/24",
        "VpcId": "vpc-1",
        "AvailabilityZone": "eu-west-1a",
        "AvailableIpAddressCount": 200,
        "Tags": [{"Key": "berth:allowed", "Value": ""}],
    }
    vpc = {
        "VpcId": "vpc-1",
        "CidrBlock": "10.0.0.0/16",
        "CidrBlockAssociationSet": [
            {"CidrBlock": "10.0.0.0/16", "CidrBlockState": {"State": "associated"}},
            {"CidrBlock": "100.64.0.0/16", "CidrBlockState": {"State": "associated"}},
            {"CidrBlock": "10.9.0.0/16", "CidrBlockState": {"State": "disassociated"}},
        ],
    }
    stub.add_response("describe_subnets", {"Subnets": [subnet, {**subnet, "SubnetId": "subnet-0", "Tags": []}]})
    stub.add_response("describe_vpcs", {"Vpcs": [vpc]})
    stub.add_response("describe_security_groups", {"SecurityGroups": [{"GroupId": "sg-1", "VpcId": "vpc-1"}]})
    stub.add_response("describe_route_tables", {"RouteTables": []}, {"Filters": ANY, "MaxResults": 100})
    network = ec2.network(["vpc-1", "vpc-1"])
    assert [(s.id, s.free, s.allowed) for s in network.subnets] == [("subnet-0", 200, False), ("subnet-1", 200, True)]
    assert network.vpc_cidrs == (("vpc-1", ("10.0.0.0/16", "100.64.0.0/16")),)
    assert network.allowed_groups == {"sg-1"}


def test_a_creation_is_ours_even_if_the_answer_has_no_tags_yet() -> None:
    ec2, stub = stubbed()
    answer = {**DESCRIBED, "TagSet": []}
    del answer["Attachment"]
    stub.add_response("create_network_interface", {"NetworkInterface": answer})
    made_interface = ec2.mutate(made(CALLS[0]), NODE, "demo").interface
    assert made_interface is not None
    assert made_interface.is_ours("demo", NODE)
    assert made_interface.created_at == 1793599200.0


def test_answers_to_assignments_are_read() -> None:
    ec2, stub = stubbed()
    stub.add_response("assign_private_ip_addresses", {"AssignedIpv4Prefixes": [{"Ipv4Prefix": "10.0.1.16/28"}]})
    stub.add_response("assign_private_ip_addresses", {"AssignedPrivateIpAddresses": [{"PrivateIpAddress": "10.0.1.5"}]})
    stub.add_response("attach_network_interface", {"AttachmentId": "eni-attach-1"})
    stub.add_response("unassign_private_ip_addresses", {})
    assert ec2.mutate(made(AssignPrefixes("eni-1", 1)), NODE, "demo").blocks == ("10.0.1.16/28",)
    assert ec2.mutate(made(AssignAddresses("eni-1", 1)), NODE, "demo").blocks == ("10.0.1.5/32",)
    assert ec2.mutate(made(Attach("eni-1", 1)), NODE, "demo").attachment_id == "eni-attach-1"
    assert ec2.mutate(made(Unassign("eni-1", ("10.0.1.5/32",))), NODE, "demo") == Outcome()


@pytest.mark.parametrize(
    ("code", "message", "trouble"),
    [
        ("RequestLimitExceeded", "Request limit exceeded.", Trouble.THROTTLED),
        ("IncorrectState", "Instance 'i-1' is not 'running' or 'stopped'", Trouble.STATE),
        ("InsufficientCidrBlocks", "…not have enough free cidr blocks…", Trouble.FRAGMENTED),
        ("InvalidParameterValue", "There aren't sufficient free Ipv4 addresses or prefixes", Trouble.FRAGMENTED),
        ("InsufficientFreeAddressesInSubnet", "…", Trouble.EXHAUSTED),
        ("AttachmentLimitExceeded", "Interface count 4 exceeds the limit for t3.medium", Trouble.LIMIT),
        ("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.", Trouble.LIMIT),
        ("InvalidNetworkInterfaceID.NotFound", "…", Trouble.GONE),
        ("InvalidAttachmentID.NotFound", "…", Trouble.GONE),
        ("InvalidParameterValue", "Network interface 'eni-1' is currently in use.", Trouble.STATE),
        (
            "InvalidParameterValue",
            "Instance 'i-1' already has an interface attached at device index '1'.",
            Trouble.STATE,
        ),
        ("InternalError", "…", Trouble.IN_DOUBT),
        ("UnauthorizedOperation", "You are not authorized to perform this operation.", Trouble.REFUSED),
        ("InvalidParameterValue", "whatever else", Trouble.REFUSED),
    ],
)
def test_errors_are_sorted_by_what_to_do_about_them(code: str, message: str, trouble: Trouble) -> None:
    ec2, stub = stubbed()
    stub.add_client_error("delete_network_interface", code, message)
    with pytest.raises(Ec2Error, match=code) as caught:
        ec2.mutate(made(DeleteInterface("eni-1")), NODE, "demo")
    assert caught.value.trouble is trouble
    assert classify(code, message) is trouble


def test_a_time_out_leaves_the_outcome_in_doubt() -> None:
    class Slow:
        def delete_network_interface(self, **_: object) -> object:
            raise ReadTimeoutError(endpoint_url="https://ec2")

    ec2 = Boto3Ec2(client(), Slow(), PREFIX)  # type: ignore[arg-type]
    with pytest.raises(Ec2Error) as caught:
        ec2.mutate(made(DeleteInterface("eni-1")), NODE, "demo")
    assert caught.value.trouble is Trouble.IN_DOUBT


# ------------------------------------------------------------------------------------------------ what is remembered


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Counting:
    """Answers describes with nothing, but for a subnet, and counts them; refuses assignments when told to."""

    def __init__(self) -> None:
        self.described: Counter[str] = Counter()
        self.refusal = ""
        self.unanswered = 0

    def __getattr__(self, method: str) -> Any:
        def describe(**_: Any) -> dict[str, Any]:
            self.described[method] += 1
            if self.unanswered:
                self.unanswered -= 1
                raise ReadTimeoutError(endpoint_url="https://ec2")
            vpc = {"VpcId": "vpc-1", "CidrBlock": "10.0.0.0/16"}
            table = {"VpcId": "vpc-1", "RouteTableId": "rtb-1"}
            empty = dict.fromkeys(("Subnets", "SecurityGroups", "InstanceTypes", "Reservations"), ())
            return {"Vpcs": [vpc], "RouteTables": [table], **empty}

        return describe

    def assign_private_ip_addresses(self, **_: Any) -> dict[str, Any]:
        if self.refusal:
            raise ClientError({"Error": {"Code": self.refusal, "Message": ""}}, "AssignPrivateIpAddresses")
        return {}


def test_what_is_around_the_nodes_is_remembered_for_its_stated_time() -> None:
    client, clock = Counting(), Clock()
    ec2 = Boto3Ec2(client, client, PREFIX, clock)  # type: ignore[arg-type]
    for clock.now in (0.0, SUBNETS_SECONDS - 1):
        ec2.network(["vpc-1"])
    once = ("describe_subnets", "describe_vpcs", "describe_security_groups", "describe_route_tables")
    assert client.described == dict.fromkeys(once, 1)
    for clock.now in (SUBNETS_SECONDS, GROUPS_SECONDS, ROUTES_SECONDS, CIDRS_SECONDS):
        ec2.network(["vpc-1"])
    assert client.described == dict(zip(once, (5, 2, 4, 3), strict=True))


def test_routes_are_read_anew_where_a_change_is_told_of_but_not_by_each_batch() -> None:
    client, clock = Counting(), Clock()
    ec2 = Boto3Ec2(client, client, PREFIX, clock)  # type: ignore[arg-type]
    ec2.network(["vpc-1"])
    for clock.now in (10.0, 12.0):
        ec2.forget_routes(FRESH_SECONDS)
        ec2.network(["vpc-1"])
    assert (client.described["describe_route_tables"], client.described["describe_vpcs"]) == (2, 2)
    clock.now = 10.0 + FRESH_SECONDS
    ec2.forget_routes(FRESH_SECONDS)
    ec2.network(["vpc-1"])
    assert client.described["describe_route_tables"] == 3


def test_another_vpc_is_asked_about_alone() -> None:
    client = Counting()
    ec2 = Boto3Ec2(client, client, PREFIX, Clock())  # type: ignore[arg-type]
    ec2.network(["vpc-1"])
    assert set(dict(ec2.network(["vpc-1", "vpc-2"]).vpc_cidrs)) == {"vpc-1"}
    assert client.described["describe_subnets"] == 2


@pytest.mark.parametrize(
    ("refusal", "asked"),
    [("InsufficientCidrBlocks", 2), ("InsufficientFreeAddressesInSubnet", 2), ("IncorrectState", 1)],
)
def test_free_addresses_are_counted_anew_once_ec2_has_refused_for_want_of_them(refusal: str, asked: int) -> None:
    client = Counting()
    ec2 = Boto3Ec2(client, client, PREFIX, Clock())  # type: ignore[arg-type]
    ec2.network(["vpc-1"])
    client.refusal = refusal
    with pytest.raises(Ec2Error):
        ec2.mutate(made(AssignPrefixes("eni-1", 1)), NODE, "demo")
    ec2.network(["vpc-1"])
    assert client.described["describe_subnets"] == asked


def test_a_describe_that_was_not_answered_is_made_once_more() -> None:
    client = Counting()
    ec2 = Boto3Ec2(client, client, PREFIX, Clock())  # type: ignore[arg-type]
    client.unanswered = 1
    assert ec2.instances([NODE]) == {}
    client.unanswered = 2
    with pytest.raises(Ec2Error, match="ReadTimeoutError"):
        ec2.instances([NODE])


def test_what_the_caller_cannot_foresee_is_paid_for_call_by_call() -> None:
    client, clock = Counting(), Clock()
    paid: list[str] = []
    ec2 = Boto3Ec2(client, client, PREFIX, clock, paid.append)  # type: ignore[arg-type]
    ec2.instances([NODE])
    assert paid == []
    for clock.now in (0.0, 1.0):
        ec2.network(["vpc-1"])
        ec2.limits([])
    assert sorted(paid) == ["DescribeRouteTables", "DescribeSecurityGroups", "DescribeSubnets", "DescribeVpcs"]
    paid.clear()
    client.unanswered = 1
    ec2.instances([NODE])
    assert paid == ["DescribeInstances"]


def test_a_describe_that_cannot_be_paid_for_is_not_made() -> None:
    client = Counting()

    def refuse(action: str) -> None:
        raise OutOfTokensError(action, 5.0)

    ec2 = Boto3Ec2(client, client, PREFIX, Clock(), refuse)  # type: ignore[arg-type]
    with pytest.raises(OutOfTokensError):
        ec2.network(["vpc-1"])
    assert not client.described


def test_a_throttled_describe_is_not_repeated() -> None:
    ec2, stub = stubbed()
    stub.add_client_error("describe_instances", "RequestLimitExceeded")
    with pytest.raises(Ec2Error, match="RequestLimitExceeded"):
        ec2.instances([NODE])


@pytest.mark.parametrize("call", CALLS, ids=lambda c: type(c).__name__)
def test_the_name_of_each_calls_bucket_is_that_of_the_request(call: Call) -> None:
    assert action_of(call) == ec2_name(request(made(call), NODE, "demo")[0])
