"""Elastic IP addresses as EC2 shows them and the table has them claimed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from berth.public_store import AwsPublics
from berth.survey import Boto3Survey

from tests.unit.control.fakes import ARN_PREFIX, NODE
from tests.unit.dynamo import new_tables


class Account:
    """An account with Elastic IP addresses, of which the stack may use the pool ``blue``."""

    def __init__(self, table: tuple[Any, str]) -> None:
        self.ec2: Any = boto3.client("ec2", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="s")
        self.paid: list[str] = []
        self.publics = AwsPublics(self.ec2, *table, ["blue"], lambda i: ARN_PREFIX + i, self.paid.append)
        vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = self.ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        made = self.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
        self.interface, self.private = made["NetworkInterfaceId"], made["PrivateIpAddress"]

    def held(self) -> str:
        """One that a request has claimed and that is associated."""
        tags = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "berth:public-pool", "Value": "blue"}]}]
        made = str(self.ec2.allocate_address(Domain="vpc", TagSpecifications=tags)["AllocationId"])
        (shown,) = [p for p in self.publics.load() if p.id == made]
        assert self.publics.claim(shown, NODE, "web/eth0", self.private, 1.0)
        self.ec2.associate_address(AllocationId=made, NetworkInterfaceId=self.interface)
        return made


@pytest.fixture
def account() -> Iterator[Account]:
    with new_tables() as make:
        yield Account(make())


def test_what_is_claimed_is_loaded_with_its_place_although_its_tag_is_gone(account: Account) -> None:
    held = account.held()
    account.ec2.delete_tags(Resources=[held], Tags=[{"Key": "berth:public-pool"}])
    (found,) = account.publics.load()
    assert (found.id, found.shown, found.pool) == (held, False, "")
    assert found.association_id
    assert (found.interface_id, found.private_address) == (account.interface, account.private)
    assert (found.claimed_by, found.request, found.claimed_for) == (NODE, "web/eth0", account.private)


def test_the_sweep_is_shown_those_that_have_the_tag(account: Account) -> None:
    held, other = account.held(), account.ec2.allocate_address(Domain="vpc")["AllocationId"]
    survey = Boto3Survey(account.ec2, lambda: account.ec2, ARN_PREFIX)
    (found,) = survey.pooled_among([held, other, "eipalloc-00000009"], "").items
    assert (found.id, found.pool) == (held, "blue")
    account.ec2.delete_tags(Resources=[held], Tags=[{"Key": "berth:public-pool"}])
    assert survey.pooled_among([held, other], "").items == ()


def test_what_is_claimed_of_a_pool_that_is_the_stacks_no_more_is_loaded_with_its_place(account: Account) -> None:
    held = account.held()
    account.ec2.create_tags(Resources=[held], Tags=[{"Key": "berth:public-pool", "Value": "green"}])
    account.paid.clear()
    (found,) = account.publics.load()
    assert (found.id, found.shown, found.private_address) == (held, False, account.private)
    assert account.paid == ["DescribeAddresses"]


def test_what_was_released_is_known_by_its_claim_alone(account: Account) -> None:
    held = account.held()
    account.ec2.disassociate_address(AssociationId=account.publics.load()[0].association_id)
    account.ec2.release_address(AllocationId=held)
    (found,) = account.publics.load()
    assert (found.id, found.shown, found.association_id, found.claimed_by) == (held, False, "", NODE)


def test_one_describe_does_where_every_claim_has_its_tag(account: Account) -> None:
    account.held()
    account.paid.clear()
    (found,) = account.publics.load()
    assert found.shown
    assert account.paid == ["DescribeAddresses"]
