"""What the sweep reads, by the service models, and where it keeps its place, on a DynamoDB emulation."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
from berth.contract import Order, Record
from berth.free_blocks import BlockMap, usable_size
from berth.model import Notes
from berth.store import DynamoStore
from berth.survey import Boto3Survey, Page, Reservation
from berth.sweep_store import DynamoSweepStore, Outline, Progress, Told
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from tests.unit.control.fakes import ARN, ARN_PREFIX, NODE
from tests.unit.control.test_ec2 import DESCRIBED, VIEW
from tests.unit.dynamo import make_table

KEYS: dict[str, Any] = {"region_name": "eu-west-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
OTHER = ARN_PREFIX + "i-0123456789abcdef1"


class Stubs:
    def __init__(self) -> None:
        clients = boto3.client("ec2", **KEYS), boto3.client("autoscaling", **KEYS)
        self.ec2, self.groups = map(Stubber, clients)
        self.ec2.activate()
        self.groups.activate()
        self.survey = Boto3Survey(clients[0], lambda: clients[1], ARN_PREFIX)

    def answer(self, action: str, answer: dict[str, Any], **filters: list[str]) -> None:
        """One describe, with exactly these filters, in pages."""
        wanted = [{"Name": n.replace("__", "-"), "Values": v} for n, v in filters.items()]
        self.ec2.add_response(action, answer, {"Filters": wanted, "MaxResults": self.size[action]})

    size = {"describe_instances": 200, "describe_network_interfaces": 500, "describe_subnets": 1000}  # noqa: RUF012


@pytest.fixture
def stubs() -> Iterator[Stubs]:
    made = Stubs()
    yield made
    made.ec2.assert_no_pending_responses()
    made.groups.assert_no_pending_responses()


class TestSurvey:
    def test_living_nodes_are_listed_200_at_a_time(self, stubs: Stubs) -> None:
        stubs.answer(
            "describe_instances",
            {"Reservations": [], "NextToken": "more"},
            tag__key=["kubernetes.io/cluster/a", "kubernetes.io/cluster/b"],
            instance__state__name=["pending", "running", "stopping", "stopped"],
        )
        assert stubs.survey.nodes(("b", "a"), "") == Page((), "more")

    def test_a_token_leads_to_the_next_page(self, stubs: Stubs) -> None:
        asked = {"Filters": [{"Name": "attachment.instance-id", "Values": [NODE]}], "MaxResults": 500}
        page = {"NetworkInterfaces": [DESCRIBED]}
        stubs.ec2.add_response("describe_network_interfaces", page, asked | {"NextToken": "more"})
        assert stubs.survey.attached([NODE], "more") == Page((VIEW,), "")

    def test_unattached_ones_are_found_by_their_tag(self, stubs: Stubs) -> None:
        shown = {k: v for k, v in DESCRIBED.items() if k != "Attachment"}
        page = {"NetworkInterfaces": [shown]}
        stubs.answer("describe_network_interfaces", page, tag__key=["berth:instance"], status=["available"])
        assert stubs.survey.unattached("") == Page((replace(VIEW, attachment=None),), "")

    def test_interfaces_are_asked_for_by_filter_since_one_unknown_id_would_fail_the_call(self, stubs: Stubs) -> None:
        stubs.answer("describe_network_interfaces", {"NetworkInterfaces": []}, network__interface__id=["eni-1"])
        assert stubs.survey.interfaces_among(["eni-1"], "") == Page((), "")

    def test_everybodys_addresses_and_prefixes_of_a_subnet_are_read(self, stubs: Stubs) -> None:
        stubs.answer("describe_network_interfaces", {"NetworkInterfaces": [DESCRIBED]}, subnet__id=["subnet-1"])
        assert stubs.survey.used("subnet-1", "").items == ("10.0.1.4", "10.0.1.5", "10.0.1.16/28")

    def test_reserved_ranges_say_whom_they_are_for(self, stubs: Stubs) -> None:
        ranges = [
            {"Cidr": "10.0.1.0/25", "ReservationType": "prefix"},
            {"Cidr": "10.0.1.128/27", "ReservationType": "explicit"},
        ]
        stubs.ec2.add_response(
            "get_subnet_cidr_reservations", {"SubnetIpv4CidrReservations": ranges}, {"SubnetId": "subnet-1"}
        )
        expected = (Reservation("10.0.1.0/25", True), Reservation("10.0.1.128/27", False))
        assert stubs.survey.reserved("subnet-1", "").items == expected

    def test_instances_that_wait_in_a_launch_hook_are_told_with_their_group(self, stubs: Stubs) -> None:
        states = {"i-1": "Pending:Wait", "i-2": "InService", "i-3": "Warmed:Pending:Wait", "i-4": "Terminating:Wait"}
        shown = [
            {
                "InstanceId": i,
                "AutoScalingGroupName": "group",
                "AvailabilityZone": "eu-west-1a",
                "LifecycleState": state,
                "HealthStatus": "HEALTHY",
                "ProtectedFromScaleIn": False,
            }
            for i, state in states.items()
        ]
        asked = {"InstanceIds": list(states)}
        stubs.groups.add_response("describe_auto_scaling_instances", {"AutoScalingInstances": shown}, asked)
        assert stubs.survey.in_hooks(list(states)) == {"i-1": "group", "i-3": "group"}

    @pytest.mark.parametrize(("transition", "ours"), [("LAUNCHING", True), ("TERMINATING", False)])
    def test_a_group_is_asked_whether_the_hook_is_ours(self, stubs: Stubs, transition: str, ours: bool) -> None:
        hook = {"LifecycleHookName": "berth", "LifecycleTransition": f"autoscaling:EC2_INSTANCE_{transition}"}
        asked = {"AutoScalingGroupName": "group"}
        stubs.groups.add_response("describe_lifecycle_hooks", {"LifecycleHooks": [hook]}, asked)
        assert stubs.survey.has_hook("group", "berth") is ours


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with mock_aws():
        made = boto3.client("dynamodb", **KEYS)
        make_table(made, "nodes")
        nodes = DynamoStore(made, "nodes")
        nodes.save(ARN, Record(ARN, 3, accepted=Order(1, 2)), (), Notes(next_look=99.5, unmet=2))
        nodes.bury(OTHER, Record(OTHER, 5), 1e10)
        nodes.take(ARN, "holder", 10.0, 60.5)
        yield made


class TestTable:
    def test_a_page_outlines_records_and_leases_and_nothing_else(self, client: Any) -> None:
        page = DynamoSweepStore(client, "nodes").page("")
        assert set(page.records) == {Outline(ARN, 99.5), Outline(OTHER, buried=True)}
        assert page.leases == ((ARN, 60.5),)
        assert page.token == ""

    def test_pages_follow_one_another(self, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        store, scan = DynamoSweepStore(client, "nodes"), client.scan
        monkeypatch.setattr(client, "scan", lambda **asked: scan(Limit=1, **asked))
        found: list[str] = []
        page = store.page("")
        for _ in range(10):
            found += [r.arn for r in page.records]
            if not page.token:
                break
            page = store.page(page.token)
        assert sorted(found) == [ARN, OTHER]

    def test_a_glance_shows_records_and_who_has_none(self, client: Any) -> None:
        states = DynamoSweepStore(client, "nodes").glance([ARN, OTHER, ARN_PREFIX + "i-2"])
        assert [s.record.revision if s.record else None for s in states.values()] == [3, 5, None]
        assert [s.buried for s in states.values()] == [False, True, False]
        assert states[ARN].notes.unmet == 2

    def test_leases_are_told_by_node(self, client: Any) -> None:
        assert DynamoSweepStore(client, "nodes").leased([ARN, OTHER]) == {ARN: 60.5}

    def test_its_place_is_kept_and_found_again(self, client: Any) -> None:
        store = DynamoSweepStore(client, "nodes")
        assert store.begin("one", 100.0, 200.0) == Progress()
        told = {"subnet-1": Told(5.5, 3, 0, ("addresses", "prefixes")), "subnet-2": Told(6.0, 9)}
        place = Progress("records", '{"node": {"S": "x"}}', 90.0, ("subnet-1",), told)
        assert store.keep("one", place)
        store.end("one")
        assert store.begin("two", 110.0, 300.0) == place

    def test_nobody_overlaps_a_run_before_its_lease_is_over(self, client: Any) -> None:
        store = DynamoSweepStore(client, "nodes")
        assert store.begin("two", 120.0, 300.0) is not None
        assert store.begin("three", 299.0, 500.0) is None
        assert not store.keep("three", Progress())
        store.end("three")
        assert store.begin("three", 301.0, 500.0) is not None
        assert not store.keep("two", Progress())
        store.end("three")

    def test_a_place_that_another_version_wrote_means_from_the_start(self, client: Any) -> None:
        key = {"node": {"S": "sweep"}, "kind": {"S": "sweep"}}
        client.put_item(TableName="nodes", Item={**key, "body": {"S": '{"phase": "x"}'}})
        assert DynamoSweepStore(client, "nodes").begin("four", 600.0, 700.0) == Progress()


@st.composite
def used_blocks(draw: st.DrawFn) -> tuple[str, list[str]]:
    network = ipaddress.IPv4Network((0x0A000000, draw(st.integers(22, 28))))
    offsets = st.integers(0, network.num_addresses - 1)
    singles = draw(st.lists(offsets, max_size=60))
    prefixes = draw(st.lists(st.integers(0, network.num_addresses // 16 - 1), max_size=20))
    blocks = [str(network[n]) for n in singles] + [f"{network[16 * n]}/28" for n in prefixes]
    return str(network), blocks


class TestFreeBlocks:
    @given(used_blocks())
    def test_what_is_free_is_what_counting_one_by_one_finds(self, case: tuple[str, list[str]]) -> None:
        cidr, blocks = case
        network, room = ipaddress.IPv4Network(cidr), BlockMap(cidr)
        room.use(blocks)
        taken = {a for b in blocks for a in ipaddress.IPv4Network(b)} | {*(network[n] for n in range(4)), network[-1]}
        free = set(network) - taken
        found = room.room()
        whole = [n for n in network.subnets(new_prefix=28) if free.issuperset(n)]
        assert found.free_prefixes == len(whole)
        largest = next(
            (
                n
                for length in range(network.prefixlen, 33)
                for n in network.subnets(new_prefix=length)
                if free >= set(n)
            ),
            None,
        )
        assert found.largest == (str(largest) if largest else "")

    def test_the_largest_subnet_takes_no_time_to_speak_of_and_64_kilobytes(self) -> None:
        room = BlockMap("10.0.0.0/16").room()
        assert (room.free_prefixes, room.prefixes, room.largest) == (4094, 4094, "10.0.64.0/18")

    def test_what_lies_outside_of_the_subnet_is_left_out(self) -> None:
        room = BlockMap("10.0.1.0/24")
        room.use(["10.0.0.0/24", "10.0.2.0/28", "10.0.0.0/8"])
        assert room.room().free_prefixes == 0

    def test_a_subnet_keeps_five_addresses(self) -> None:
        assert usable_size("10.0.1.0/24") == 251
