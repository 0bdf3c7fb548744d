"""From changed routes to the nodes whose records are to follow: what is read, who is looked at, what a look makes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from berth.budget import Budget, OutOfTokensError, paying
from berth.contract import Interface, Record
from berth.ec2_wire import Ec2Error, Trouble
from berth.events import MalformedEventError, Signal
from berth.events.node_look_requested import body
from berth.events.route_call import RouteCall, read_call
from berth.follow import FollowEdges, follow_routes
from berth.looks import FRESH_SECONDS, LOOKS_PER_SECOND, ROUTES_CHANGED
from berth.model import Instance, Notes
from berth.reconcile import reconcile
from berth.records import pod_subnets
from berth.route_records import DynamoRouteRecords, Listed
from berth.route_tables import RouteTables
from berth.routes import Route, RouteTable, Routing
from berth.settings import Settings
from berth.store import DynamoStore
from berth.survey import PAGE_IDS, Page
from moto import mock_aws

from tests.unit.control.fake_budget import FakeBudget
from tests.unit.control.fakes import ARN, ARN_PREFIX, NODE, SUBNET, Scene, refusal, settings
from tests.unit.dynamo import make_table

SAMPLE = Path(__file__).parents[3] / "events" / "route-change.json"
OTHER = "i-0123456789abcdef1"
OFFICE = Route(("172.16.0.0/12",), "vgw-1")
UNREAD = Route((), "vgw-1", rank=1, unread="pl-1")
LISTED = ("10.0.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
"""With the route to the office; 192.168.0.0/16 is added by the scene's settings."""


def test_the_sample_is_read_for_the_calls_name_alone() -> None:
    (message,) = json.loads(SAMPLE.read_text())["Records"]
    assert read_call(message["body"]) == RouteCall("DeleteVpnConnectionRoute")


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"source": "a", "detail-type": "b", "detail": {}})])
def test_an_event_that_cannot_be_read_says_why(text: str) -> None:
    with pytest.raises(MalformedEventError):
        read_call(text)


# ------------------------------------------------------------------------------------------------ what a look makes


def look(scene: Scene, *ids: str, reason: str = "test") -> Record | None:
    reconcile(scene.edges, [Signal(i, reason) for i in ids or (NODE,)], 100.0)
    return scene.store.record()


def routed(*routes: Route, name: str = "rtb-1", subnets: Sequence[str] = ()) -> RouteTable:
    return RouteTable(name, not subnets, tuple(subnets), routes)


def test_a_record_lists_what_the_route_tables_lead_to_and_what_the_stack_adds() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.ec2.route_tables = (routed(OFFICE),)
    record = look(scene)
    assert record is not None
    assert record.no_snat_cidrs == LISTED


def test_what_the_stack_excludes_is_in_no_record() -> None:
    scene = Scene()
    scene.ec2.launch()
    scene.ec2.route_tables = (routed(OFFICE),)
    scene.edges = replace(scene.edges, settings=settings(snat_cidrs=("172.16.0.0/13", "192.168.0.0/16")))
    record = look(scene)
    assert record is not None
    assert record.no_snat_cidrs == ("10.0.0.0/16", "172.24.0.0/13")


def test_a_change_of_routes_makes_a_new_revision_and_no_call() -> None:
    scene = Scene()
    scene.ec2.launch()
    before = look(scene)
    calls = len(scene.ec2.calls)
    scene.ec2.route_tables = (routed(OFFICE),)
    after = look(scene)
    assert before is not None
    assert after is not None
    assert (after.revision, after.no_snat_cidrs) == (before.revision + 1, LISTED)
    assert look(scene) == after
    assert len(scene.ec2.calls) == calls


def test_a_look_for_changed_routes_reads_them_anew_and_others_do_not() -> None:
    scene = Scene()
    scene.ec2.launch()
    look(scene)
    assert scene.ec2.routes_forgotten == []
    look(scene, reason=ROUTES_CHANGED)
    assert scene.ec2.routes_forgotten == [FRESH_SECONDS]


def test_interfaces_without_addresses_for_pods_have_no_say() -> None:
    bare = Interface("eni-1", "02:00:00:00:00:01", 0, "subnet-1", "10.0.1.0/24", "10.0.1.1", "10.0.1.5")
    assert pod_subnets([bare]) == ("subnet-1",)
    scene = Scene()
    scene.ec2.launch()
    record = look(scene)
    assert record is not None
    (serving,) = record.interfaces
    assert pod_subnets([bare, serving]) == (SUBNET,)


def test_a_record_keeps_what_it_lists_while_a_prefix_list_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """An on-premises host must not suddenly see the node's address. The look says so."""
    caplog.set_level("INFO")
    scene = Scene()
    scene.ec2.launch()
    scene.ec2.route_tables = (routed(replace(OFFICE, rank=1)),)
    before = look(scene)
    scene.ec2.route_tables = (routed(UNREAD),)
    assert look(scene) == before
    outcome = next(r.__dict__["outcome"] for r in reversed(caplog.records) if r.message == "look")
    assert "prefix lists of routes cannot be read" in outcome
    assert "pl-1 (of rtb-1)" in outcome
    scene.ec2.route_tables = (routed(),)
    after = look(scene)
    assert after is not None
    assert "172.16.0.0/12" not in after.no_snat_cidrs


# -------------------------------------------------------------------------------------------------- who is looked at


@dataclass
class Survey:
    """EC2 as the scene has it, in pages of one."""

    scene: Scene
    failing: Exception | None = None
    asked: int = 0

    def vpcs(self, subnets: Sequence[str]) -> Mapping[str, str]:
        return {s: self.scene.ec2.subnets[s].vpc_id for s in subnets if s in self.scene.ec2.subnets}

    def routing(self, vpcs: Sequence[str]) -> Mapping[str, Routing]:
        if self.failing:
            raise self.failing
        network = self.scene.ec2.network(vpcs)
        return {vpc: network.routing(vpc) for vpc in vpcs}

    def instances_among(self, ids: Sequence[str], token: str) -> Page[Instance]:
        self.asked += 1
        assert len(ids) <= PAGE_IDS
        found, start = [i for i in self.scene.ec2.all_instances.values() if i.id in ids], int(token or 0)
        return Page(tuple(found[start : start + 1]), str(start + 1) if start + 1 < len(found) else "")


@dataclass
class Records:
    scene: Scene
    more: list[Listed] = field(default_factory=list)

    def page(self, token: str) -> tuple[tuple[Listed, ...], str]:
        """One record on each page."""
        kept = {arn.rpartition("/")[2]: self.scene.store.record(arn) for arn in self.scene.store.items}
        listed = [Listed(i, pod_subnets(r.interfaces), r.no_snat_cidrs) for i, r in kept.items() if r] + self.more
        start = int(token or 0)
        return tuple(listed[start : start + 1]), str(start + 1) if start + 1 < len(listed) else ""


def edges_of(scene: Scene, survey: Survey | None = None, **changes: Any) -> FollowEdges:
    survey = survey or Survey(scene)
    made = FollowEdges(
        survey, survey, Records(scene), scene.looks, scene.edges.settings, scene.bus, clock=scene.machine.clock
    )
    return replace(made, **changes)


def two_nodes() -> Scene:
    scene = Scene()
    scene.ec2.launch()
    scene.ec2.launch(OTHER)
    look(scene, NODE, OTHER)
    scene.looks.asked.clear()
    return scene


def test_only_nodes_whose_list_has_changed_are_looked_at_and_then_none() -> None:
    scene = two_nodes()
    edges = edges_of(scene)
    assert follow_routes(edges)["NodesRoutesChanged"] == 0
    scene.ec2.route_tables = (routed(OFFICE),)
    counts = follow_routes(edges)
    assert (counts["RoutesCompared"], counts["NodesRoutesChanged"]) == (2, 2)
    assert scene.looks.asked == [(NODE, ROUTES_CHANGED, FRESH_SECONDS), (OTHER, ROUTES_CHANGED, FRESH_SECONDS)]
    look(scene, NODE, OTHER, reason=ROUTES_CHANGED)
    scene.looks.asked.clear()
    assert follow_routes(edges)["NodesRoutesChanged"] == 0
    assert scene.looks.asked == []


def test_a_prefix_list_that_cannot_be_read_is_counted_and_told_and_no_reason_to_look() -> None:
    scene = two_nodes()
    scene.ec2.route_tables = (routed(OFFICE),)
    look(scene, NODE, OTHER, reason=ROUTES_CHANGED)
    scene.ec2.route_tables = (routed(UNREAD), routed(UNREAD, name="rtb-2", subnets=["subnet-of-nobody"]))
    counts = follow_routes(edges_of(scene))
    assert (counts["PrefixListsUnread"], counts["NodesRoutesChanged"]) == (1, 0)
    assert scene.looks.asked == []
    (event,) = scene.bus.named("Routes Unknown")
    assert event.detail == {"prefix-list": "pl-1", "route-tables": ["rtb-1"], "nodes": 2}


def test_where_all_prefix_lists_can_be_read_nothing_is_told() -> None:
    scene = two_nodes()
    scene.ec2.route_tables = (routed(OFFICE),)
    assert follow_routes(edges_of(scene))["PrefixListsUnread"] == 0
    assert scene.bus.named("Routes Unknown") == []


def test_where_nothing_has_changed_no_instance_is_described() -> None:
    scene = two_nodes()
    survey = Survey(scene)
    follow_routes(edges_of(scene, survey))
    assert survey.asked == 0


def test_a_changed_parameter_of_the_stack_is_followed_too() -> None:
    scene = two_nodes()
    changed = edges_of(scene, settings=settings(no_snat_cidrs=()))
    assert follow_routes(changed)["NodesRoutesChanged"] == 2


@pytest.mark.parametrize(
    "tags", [{"berth__unmanaged": "true"}, {"kubernetes_io": "x"}], ids=["unmanaged", "of no cluster"]
)
def test_a_node_that_is_not_looked_after_is_left_alone(tags: dict[str, str]) -> None:
    """A look would leave its record as it is, and each run would ask for another one."""
    scene = two_nodes()
    scene.ec2.launch(OTHER, **tags)
    if "kubernetes_io" in tags:
        scene.ec2.all_instances[OTHER] = replace(scene.ec2.all_instances[OTHER], tags=())
    scene.ec2.all_instances.pop(NODE)
    scene.ec2.route_tables = (routed(OFFICE),)
    assert follow_routes(edges_of(scene))["NodesRoutesChanged"] == 0


def test_looks_at_many_nodes_are_spread() -> None:
    scene = Scene()
    scene.ec2.launch()
    (instance,) = scene.ec2.all_instances.values()
    ids = [f"i-{n:017x}" for n in range(100)]
    scene.ec2.all_instances = {i: replace(instance, id=i, arn=ARN_PREFIX + i) for i in ids}
    records = Records(scene, [Listed(i, (SUBNET,), ()) for i in ids])
    assert follow_routes(edges_of(scene, records=records))["NodesRoutesChanged"] == 100
    delays = [delay for _, _, delay in scene.looks.asked]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (FRESH_SECONDS, FRESH_SECONDS + 90 // LOOKS_PER_SECOND)


def test_a_subnet_that_is_gone_and_a_vpc_that_is_not_shown_concern_nobody() -> None:
    scene = Scene()
    records = Records(scene, [Listed(NODE, ("subnet-gone",), ())])
    assert follow_routes(edges_of(scene, records=records))["NodesRoutesChanged"] == 0


@pytest.mark.parametrize(
    "failing", [OutOfTokensError("DescribeRouteTables", 9.0), refusal("RequestLimitExceeded", Trouble.THROTTLED)]
)
def test_without_a_token_it_is_left_to_the_next_run(failing: Exception) -> None:
    scene = two_nodes()
    scene.ec2.route_tables = (routed(OFFICE),)
    counts = follow_routes(edges_of(scene, Survey(scene, failing)))
    assert (counts["RouteLooksPutOff"], counts["NodesRoutesChanged"]) == (1, 0)
    assert scene.looks.asked == []


def test_a_refusal_is_for_a_person_to_see() -> None:
    scene = two_nodes()
    with pytest.raises(Ec2Error):
        follow_routes(edges_of(scene, Survey(scene, refusal("UnauthorizedOperation", Trouble.REFUSED))))


def test_a_describe_takes_a_token_or_is_not_made() -> None:
    budget: Budget = FakeBudget()
    pay = paying(budget, lambda: 0.0)
    pay("DescribeVpcs")

    def until_none_is_left() -> None:
        for _ in range(1000):
            pay("DescribeVpcs")

    with pytest.raises(OutOfTokensError):
        until_none_is_left()


def test_the_look_that_is_asked_for_is_one_that_reads_routes_anew() -> None:
    """The reason goes through a queue."""
    from berth.events import parse

    assert parse(body(NODE, ROUTES_CHANGED)).reason == ROUTES_CHANGED


# -------------------------------------------------------------------------------------------------- what is read


class Answers:
    """EC2's answers, by call, each used once; a refusal is raised."""

    def __init__(self, **pages: list[Any]) -> None:
        self.pages, self.asked = pages, list[tuple[str, Mapping[str, Any]]]()

    def __call__(self, action: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append((action, parameters))
        page = self.pages[action].pop(0)
        if isinstance(page, Exception):
            raise page
        assert isinstance(page, dict)
        return page


def described(*routes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"RouteTableId": "rtb-1", "VpcId": "vpc-1", "Routes": list(routes), **more}


def test_route_tables_are_read_page_by_page_with_their_prefix_lists() -> None:
    listed = {
        "DestinationPrefixListId": "pl-1",
        "TransitGatewayId": "tgw-1",
        "State": "active",
        "Origin": "CreateRoute",
    }
    s3 = {"DestinationPrefixListId": "pl-s3", "GatewayId": "vpce-1", "State": "active"}
    learnt = {
        "DestinationCidrBlock": "172.16.0.0/12", "GatewayId": "vgw-1", "State": "active",
        "Origin": "EnableVgwRoutePropagation",
    }  # fmt: skip
    gone = {"DestinationCidrBlock": "10.9.0.0/16", "VpcPeeringConnectionId": "pcx-1", "State": "blackhole"}
    six = {"DestinationIpv6CidrBlock": "::/0", "EgressOnlyInternetGatewayId": "eigw-1", "State": "active"}
    associations = [
        {"Main": True, "AssociationState": {"State": "associated"}},
        {"SubnetId": "subnet-2", "AssociationState": {"State": "associated"}},
        {"SubnetId": "subnet-3", "AssociationState": {"State": "disassociating"}},
    ]
    entries = [{"Cidr": "192.168.0.0/24"}, {"Cidr": "2001:db8::/32"}]
    answers = Answers(
        describe_route_tables=[
            {"RouteTables": [described(listed, s3, learnt, gone, six, Associations=associations)], "NextToken": "2"},
            {"RouteTables": [described(RouteTableId="rtb-0", VpcId="vpc-2")]},
        ],
        get_managed_prefix_list_entries=[
            {"Entries": entries, "NextToken": "2"},
            {"Entries": [{"Cidr": "192.168.1.0/24"}]},
        ],
    )
    found = RouteTables(answers).of(["vpc-1", "vpc-2"])
    assert set(found) == {"vpc-1", "vpc-2"}
    assert found["vpc-1"] == (
        RouteTable(
            "rtb-1",
            main=True,
            subnets=("subnet-2",),
            routes=(
                Route(("192.168.0.0/24", "192.168.1.0/24"), "tgw-1", rank=1),
                Route(("172.16.0.0/12",), "vgw-1", rank=2),
                Route(("10.9.0.0/16",), "pcx-1", black_hole=True),
            ),
        ),
    )
    lists = [p for action, p in answers.asked if action == "get_managed_prefix_list_entries"]
    assert {p["PrefixListId"] for p in lists} == {"pl-1"}, "a gateway endpoint's list is AWS's own and long"
    assert lists[1]["NextToken"] == "2"


def test_a_prefix_list_that_cannot_be_read_keeps_nobody_from_the_other_routes() -> None:
    listed = {"DestinationPrefixListId": "pl-1", "TransitGatewayId": "tgw-1"}
    office = {"DestinationCidrBlock": "172.16.0.0/12", "GatewayId": "vgw-1"}
    answers = Answers(
        describe_route_tables=[{"RouteTables": [described(listed, office)]}] * 2,
        get_managed_prefix_list_entries=[
            refusal("InvalidPrefixListID.NotFound", Trouble.GONE), refusal("RequestLimitExceeded", Trouble.THROTTLED),
        ],
    )  # fmt: skip
    unread = Route((), "tgw-1", rank=1, unread="pl-1")
    assert RouteTables(answers).of(["vpc-1"])["vpc-1"][0].routes == (unread, Route(("172.16.0.0/12",), "vgw-1"))
    with pytest.raises(Ec2Error):
        RouteTables(answers).of(["vpc-1"])


def test_vpcs_and_their_cidrs_are_found_by_subnet() -> None:
    vpc = {"VpcId": "vpc-1", "CidrBlock": "10.0.0.0/16"}
    answers = Answers(
        describe_subnets=[{"Subnets": [{"SubnetId": "subnet-1", "VpcId": "vpc-1"}]}],
        describe_vpcs=[{"Vpcs": [vpc]}],
        describe_route_tables=[{"RouteTables": []}],
    )
    routes = RouteTables(answers)
    assert routes.vpcs(["subnet-1"]) == {"subnet-1": "vpc-1"}
    assert routes.routing(["vpc-1"]) == {"vpc-1": Routing(("10.0.0.0/16",))}
    assert routes.vpcs([]) == {}


def test_the_table_is_read_for_what_records_list(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    scene.ec2.launch()
    record = look(scene)
    assert record is not None
    with mock_aws():
        client = boto3.client("dynamodb", region_name="eu-west-1")
        make_table(client, "nodes")
        store = DynamoStore(client, "nodes")
        store.save(ARN, record, (), Notes())
        bare = replace(record, instance_arn=ARN_PREFIX + OTHER, interfaces=())
        store.save(bare.instance_arn, bare, (), Notes())
        dead = ARN_PREFIX + "i-0123456789abcdef2"
        store.save(dead, replace(record, instance_arn=dead), (), Notes())
        store.bury(dead, Record(dead, record.revision + 1), 9e9)
        broken = {"node": {"S": ARN_PREFIX + "i-0123456789abcdef3"}, "kind": {"S": "record"}, "body": {"S": "{"}}
        client.put_item(TableName="nodes", Item=broken)
        page, token = DynamoRouteRecords(client, "nodes").page("")
    assert page == (Listed(NODE, (SUBNET,), record.no_snat_cidrs),)
    assert token == ""


@pytest.mark.parametrize("variable", ["NO_SNAT_CIDRS", "SNAT_CIDRS"])
def test_a_network_that_is_none_is_refused_by_its_variables_name(variable: str) -> None:
    environ = {
        "CLUSTER_NAMES": "demo", "TABLE_NAME": "t", "NODE_EVENTS_QUEUE_URL": "u", "NODE_REPORTS_QUEUE_ARN": "a",
        "BUS_NAME": "b", "INSTANCE_ARN_PREFIX": ARN_PREFIX, "DEFAULT_MODE": "prefixes", "DEFAULT_WARM_ADDRESSES": "8",
        "DEFAULT_MINIMUM_ADDRESSES": "0", "DEFAULT_MAX_PODS": "110", "DEFAULT_COOLDOWN_SECONDS": "120",
    }  # fmt: skip
    read = Settings.from_environment(environ | {variable: "10.1.2.3/8, 172.16.0.0/12"})
    assert getattr(read, variable.lower()) == ("10.0.0.0/8", "172.16.0.0/12")
    with pytest.raises(ValueError, match=f"{variable}: expected IPv4 CIDRs"):
        Settings.from_environment(environ | {variable: "10.0.0.0/33"})
