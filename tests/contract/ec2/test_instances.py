"""Instances take time, tell of each state, and leave the right interfaces behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.sandbox.cloud import ec2_events
from tests.sandbox.cloud.lock import API_LOCK
from tests.sandbox.cloud.snapshot import backend_of

from .conftest import Cloud, Events, Network, refused
from .waiting import eventually


@pytest.fixture
def subnet(network: Network) -> str:
    return network.subnet("10.0.1.0/24")


def _states(events: Events, instance: str) -> list[str]:
    seen = [e for e in events.take() if e["detail-type"] == "EC2 Instance State-change Notification"]
    return [e["detail"]["state"] for e in seen if e["detail"]["instance-id"] == instance]


def test_a_launch_is_pending_and_then_running_with_an_event_for_each(
    network: Network, subnet: str, events: Events, timing: Callable[..., None]
) -> None:
    timing(pending=0.2)
    instance = network.instance(subnet)
    assert network.state(instance) == "pending"
    assert _states(events, instance) == ["pending"]
    eventually(lambda: network.state(instance) == "running")
    assert _states(events, instance) == ["running"]


def test_a_state_change_event_is_what_aws_documents(network: Network, subnet: str, events: Events) -> None:
    instance = network.instance(subnet)
    seen = events.take()
    assert [e["detail"]["state"] for e in seen] == ["pending", "running"]
    assert len({e.pop("id") for e in seen}) == 2
    assert seen[0].pop("time").endswith("Z")
    seen[0].pop("account", None)  # the rule's pattern has matched it; stock moto does not deliver it
    assert seen[0] == {
        "version": "0",
        "detail-type": "EC2 Instance State-change Notification",
        "source": "aws.ec2",
        "region": "eu-west-1",
        "resources": [f"arn:aws:ec2:eu-west-1:123456789012:instance/{instance}"],
        "detail": {"instance-id": instance, "state": "pending"},
    }


def test_stop_and_start_pass_through_every_state(
    network: Network, ec2: Any, subnet: str, events: Events, timing: Callable[..., None]
) -> None:
    instance = network.instance(subnet)
    events.take()
    timing(stopping=0.1, pending=0.1)
    interfaces = network.free(subnet)
    ec2.stop_instances(InstanceIds=[instance])
    assert network.state(instance) == "stopping"
    with refused("IncorrectInstanceState"):
        ec2.start_instances(InstanceIds=[instance])
    eventually(lambda: network.state(instance) == "stopped")
    assert network.free(subnet) == interfaces
    ec2.start_instances(InstanceIds=[instance])
    eventually(lambda: network.state(instance) == "running")
    assert _states(events, instance) == ["stopping", "stopped", "pending", "running"]


def test_termination_passes_through_shutting_down(
    network: Network, ec2: Any, subnet: str, events: Events, timing: Callable[..., None]
) -> None:
    instance = network.instance(subnet)
    events.take()
    timing(shutting_down=0.2)
    answer = ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"][0]
    assert (answer["PreviousState"]["Name"], answer["CurrentState"]["Name"]) == ("running", "shutting-down")
    assert network.state(instance) == "shutting-down"
    assert network.free(subnet) == 250
    eventually(lambda: network.state(instance) == "terminated")
    assert _states(events, instance) == ["shutting-down", "terminated"]
    assert network.free(subnet) == 251
    again = ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"][0]
    assert (again["PreviousState"]["Name"], again["CurrentState"]["Name"]) == ("terminated", "terminated")
    assert _states(events, instance) == []


def test_terminating_a_pending_instance_never_makes_it_running(
    network: Network, ec2: Any, subnet: str, events: Events, timing: Callable[..., None]
) -> None:
    timing(pending=0.1, shutting_down=0.3)
    instance = network.instance(subnet)
    ec2.terminate_instances(InstanceIds=[instance])
    eventually(lambda: network.state(instance) == "terminated")
    assert _states(events, instance) == ["pending", "shutting-down", "terminated"]


def test_only_interfaces_marked_so_are_deleted_at_termination(network: Network, ec2: Any, subnet: str) -> None:
    instance = network.instance(subnet)
    goes, stays = network.interface(subnet), network.interface(subnet)
    for index, interface in enumerate((goes, stays), 1):
        attached = ec2.attach_network_interface(NetworkInterfaceId=interface, InstanceId=instance, DeviceIndex=index)
        if interface == goes:
            change = {"AttachmentId": attached["AttachmentId"], "DeleteOnTermination": True}
            ec2.modify_network_interface_attribute(NetworkInterfaceId=goes, Attachment=change)
    ec2.terminate_instances(InstanceIds=[instance])
    with refused("InvalidNetworkInterfaceID.NotFound"):
        network.shown(goes)
    assert network.shown(stays)["Status"] == "available"
    assert "Attachment" not in network.shown(stays)
    assert network.free(subnet) == 250


def test_the_primary_interface_goes_with_its_instance_unless_told_otherwise(
    network: Network, ec2: Any, subnet: str
) -> None:
    def primary(instance: str) -> dict[str, Any]:
        described = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        return dict(described["NetworkInterfaces"][0])

    plain = network.instance(subnet)
    kept = network.instance(
        subnet,
        SubnetId=None,
        NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": subnet, "DeleteOnTermination": False}],
    )
    assert primary(plain)["Attachment"]["DeleteOnTermination"] is True
    assert primary(kept)["Attachment"]["DeleteOnTermination"] is False
    ids = [primary(i)["NetworkInterfaceId"] for i in (plain, kept)]
    ec2.terminate_instances(InstanceIds=[plain, kept])
    with refused("InvalidNetworkInterfaceID.NotFound"):
        network.shown(ids[0])
    assert network.shown(ids[1])["Status"] == "available"


def test_an_existing_interface_may_be_the_primary(network: Network, ec2: Any, subnet: str) -> None:
    interface = network.interface(subnet)
    given = [{"DeviceIndex": 0, "NetworkInterfaceId": interface}]
    instance = network.instance(subnet, SubnetId=None, NetworkInterfaces=given)
    assert network.shown(interface)["Attachment"]["InstanceId"] == instance
    with refused("InvalidNetworkInterface.InUse"):
        network.instance(subnet, SubnetId=None, NetworkInterfaces=given)
    ec2.terminate_instances(InstanceIds=[instance])
    assert network.shown(interface)["Status"] == "available"


def test_a_terminated_instance_shows_no_addresses(network: Network, ec2: Any, subnet: str) -> None:
    instance = network.instance(subnet)
    ec2.terminate_instances(InstanceIds=[instance])
    shown = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert shown["NetworkInterfaces"] == []
    assert "PrivateIpAddress" not in shown


def test_launch_takes_addresses_and_prefixes_as_asked(network: Network, ec2: Any, subnet: str) -> None:
    interfaces = [
        {"DeviceIndex": 0, "SubnetId": subnet, "Ipv4PrefixCount": 1},
        {"DeviceIndex": 1, "SubnetId": subnet, "SecondaryPrivateIpAddressCount": 2},
    ]
    instance = network.instance(subnet, SubnetId=None, NetworkInterfaces=interfaces)
    found = ec2.describe_network_interfaces(Filters=[{"Name": "attachment.instance-id", "Values": [instance]}])
    first, second = sorted(found["NetworkInterfaces"], key=lambda e: int(e["Attachment"]["DeviceIndex"]))
    assert (len(first["Ipv4Prefixes"]), len(second["PrivateIpAddresses"])) == (1, 3)
    assert first["Attachment"]["DeleteOnTermination"] is True
    assert second["Attachment"]["DeleteOnTermination"] is False


def test_a_launch_that_fails_leaves_nothing(network: Network, ec2: Any) -> None:
    subnet = network.subnet("10.0.9.0/28")
    with refused("InsufficientFreeAddressesInSubnet"):
        network.instance(subnet, MinCount=12, MaxCount=12)
    assert network.free(subnet) == 11
    found = ec2.describe_instances(Filters=[{"Name": "subnet-id", "Values": [subnet]}])
    assert found["Reservations"] == []


def test_an_unknown_type_is_not_launched(network: Network, subnet: str) -> None:
    with refused("InvalidParameterValue", "Invalid value 'm99.huge' for InstanceType."):
        network.instance(subnet, "m99.huge")
    assert network.free(subnet) == 251


def test_an_unknown_image_is_not_launched(network: Network, subnet: str) -> None:
    with refused("InvalidAMIID.NotFound"):
        network.instance(subnet, ImageId="ami-0123456789abcdef0")


def test_a_client_token_launches_once(network: Network, subnet: str) -> None:
    assert network.instance(subnet, ClientToken="one") == network.instance(subnet, ClientToken="one")
    assert network.free(subnet) == 250
    with refused("IdempotentParameterMismatch"):
        network.instance(subnet, "t3.small", ClientToken="one")


def test_every_instance_of_a_launch_has_the_profile(cloud: Cloud, network: Network, ec2: Any, subnet: str) -> None:
    iam = cloud.client("iam")
    arn = iam.create_instance_profile(InstanceProfileName="node")["InstanceProfile"]["Arn"]
    launched = ec2.run_instances(
        ImageId="ami-1e749f67",
        InstanceType="t3.small",
        MinCount=2,
        MaxCount=2,
        SubnetId=subnet,
        IamInstanceProfile={"Name": "node"},
    )["Instances"]
    shown = ec2.describe_instances(InstanceIds=[i["InstanceId"] for i in launched])["Reservations"][0]["Instances"]
    assert [i["IamInstanceProfile"]["Arn"] for i in shown] == [arn, arn]


def test_termination_protection_stops_all_of_a_call(network: Network, ec2: Any, subnet: str) -> None:
    safe, other = network.instance(subnet), network.instance(subnet)
    ec2.modify_instance_attribute(InstanceId=safe, DisableApiTermination={"Value": True})
    with refused("OperationNotPermitted"):
        ec2.terminate_instances(InstanceIds=[other, safe])
    assert network.state(other) == "running"


def test_spot_warnings_and_rebalance_signs_are_events_on_request(network: Network, subnet: str, events: Events) -> None:
    instance = network.instance(subnet)
    events.take()
    with API_LOCK:
        ec2_events.spot_interruption(backend_of(), instance)
        ec2_events.rebalance_recommendation(backend_of(), instance)
    warning, rebalance = events.take()
    assert warning["detail-type"] == "EC2 Spot Instance Interruption Warning"
    assert warning["detail"] == {"instance-id": instance, "instance-action": "terminate"}
    assert warning["resources"] == [f"arn:aws:ec2:eu-west-1a:instance/{instance}"]
    assert rebalance["detail-type"] == "EC2 Instance Rebalance Recommendation"
    assert rebalance["detail"] == {"instance-id": instance}


def test_disabled_and_scheduled_rules_see_no_events(cloud: Cloud, network: Network, subnet: str) -> None:
    bus, sqs = cloud.client("events"), cloud.client("sqs")
    queue = sqs.create_queue(QueueName="never")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    bus.put_rule(Name="disabled", EventPattern='{"source": ["aws.ec2"]}', State="DISABLED")
    bus.put_rule(Name="clock", ScheduleExpression="rate(1 minute)")
    for rule in ("disabled", "clock"):
        bus.put_targets(Rule=rule, Targets=[{"Id": "queue", "Arn": arn}])
    network.instance(subnet)
    assert "Messages" not in sqs.receive_message(QueueUrl=queue)
