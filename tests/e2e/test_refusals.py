"""What a node, or whoever stole its credentials, can do: read its own record and report about itself. Nothing else.

No agent runs here. The credentials come from the instances' own metadata, and the tests speak in the nodes' names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from berth.contract import BODY, KIND, NODE, RECORD_KIND, Interface, Order, Record, Report, Surrender

from tests.e2e.scenes import (
    FunctionLog,
    blocks_shown,
    dead_letters,
    mutations,
    new_scene,
    node_client,
    refusal,
    send_report,
    settle,
)
from tests.sandbox.account import wait_for
from tests.sandbox.demo.stages import Machine, Scene
from tests.sandbox.landscape import NodeSpec, launch_node

REFUSED: Final = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
TAGS: Final = {"mode": "prefixes", "max-pods": "16", "warm-addresses": "8"}


@dataclass(slots=True)
class Site:
    """``mallory`` is the node whose credentials are abused, ``victim`` another one, ``stranger`` no node of ours."""

    scene: Scene
    stranger: str
    sequence: int = 0

    @property
    def mallory(self) -> Machine:
        return self.scene.machines["mallory"]

    @property
    def victim(self) -> Machine:
        return self.scene.machines["victim"]

    def as_mallory(self, service: str) -> Any:
        return node_client(self.scene, self.mallory.id, service)

    def record(self, machine: Machine) -> Record:
        record = self.scene.stack.record(machine.id)
        assert record is not None
        return record

    def order(self) -> Order:
        """Newer than any before."""
        self.sequence += 1
        return Order(5, self.sequence)

    def report(self, **fields: Any) -> Report:
        """A fresh report that says nothing but ``fields``."""
        return replace(Report(order=self.order(), acknowledged_revision=0, in_use=0), **fields)

    def holdings(self) -> tuple[Any, ...]:
        """All that must stay as it is: what both nodes may use, what EC2 shows, and what Berth has changed in EC2."""
        machines = (self.mallory, self.victim)
        return (
            *(self.record(m).interfaces for m in machines),
            *(blocks_shown(self.scene, m) for m in machines),
            mutations(self.scene),
        )


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    specs = [NodeSpec("mallory", "a", "t3.micro", TAGS), NodeSpec("victim", "b", "t3.micro", TAGS)]
    with new_scene(specs) as scene:
        assert scene.landscape is not None
        stranger = launch_node(scene.endpoint, scene.landscape, NodeSpec("stranger", "a", "t3.micro", {}), "another")
        wait_for("the stranger to run", lambda: scene.stack.state(stranger) == "running")
        # With nothing to keep warm, a surrender is all that a report can bring about.
        tag = {"Key": "berth:warm-addresses", "Value": "0"}
        scene.stack.client("ec2").create_tags(Resources=[m.id for m in scene.machines.values()], Tags=[tag])
        settle(scene)
        yield Site(scene, stranger)
        assert dead_letters(scene) == {}


def surrender_all(interface: Interface, *, assignment: str = "") -> tuple[Surrender, ...]:
    """What the owner would send to give everything on an interface back."""
    return tuple(Surrender(interface.mac, a.cidr, assignment or a.id) for a in interface.assignments)


class TestTheTable:
    def test_a_node_reads_its_own_record(self, site: Site) -> None:
        item = site.as_mallory("dynamodb").get_item(**_key(site, site.mallory), ConsistentRead=True)["Item"]
        assert site.mallory.id in item[BODY]["S"]

    def test_a_node_cannot_read_the_record_of_another(self, site: Site) -> None:
        assert refusal(site.as_mallory("dynamodb").get_item, **_key(site, site.victim)) in REFUSED

    @pytest.mark.parametrize(
        "attempt",
        [
            lambda table, own, name: table.scan(TableName=name),
            lambda table, own, name: table.query(
                TableName=name, KeyConditionExpression="node = :n", ExpressionAttributeValues={":n": own[NODE]}
            ),
            lambda table, own, name: table.batch_get_item(RequestItems={name: {"Keys": [own]}}),
            lambda table, own, name: table.put_item(TableName=name, Item={**own, BODY: {"S": "{}"}}),
            lambda table, own, name: table.update_item(TableName=name, Key=own),
            lambda table, own, name: table.delete_item(TableName=name, Key=own),
            lambda table, own, name: table.transact_write_items(
                TransactItems=[{"Delete": {"TableName": name, "Key": own}}]
            ),
            lambda table, own, name: table.delete_table(TableName=name),
        ],
        ids=[
            "Scan",
            "Query",
            "BatchGetItem",
            "PutItem",
            "UpdateItem",
            "DeleteItem",
            "TransactWriteItems",
            "DeleteTable",
        ],
    )
    def test_a_node_cannot_do_anything_else_even_to_its_own_record(
        self, site: Site, attempt: Callable[[Any, Any, str], Any]
    ) -> None:
        before, own = site.holdings(), _key(site, site.mallory)
        table = site.as_mallory("dynamodb")
        assert refusal(lambda: attempt(table, own["Key"], own["TableName"])) in REFUSED
        assert site.holdings() == before


def _key(site: Site, machine: Machine) -> dict[str, Any]:
    key = {NODE: {"S": site.scene.stack.arn(machine.id)}, KIND: {"S": RECORD_KIND}}
    return {"TableName": site.scene.stack.outputs["TableName"], "Key": key}


class TestOtherServices:
    @pytest.mark.parametrize(
        "attempt",
        [
            lambda ec2, interface, own: ec2.describe_instances(),
            lambda ec2, interface, own: ec2.describe_network_interfaces(),
            lambda ec2, interface, own: ec2.assign_private_ip_addresses(
                NetworkInterfaceId=interface, Ipv4PrefixCount=1
            ),
            lambda ec2, interface, own: ec2.unassign_private_ip_addresses(
                NetworkInterfaceId=interface, PrivateIpAddresses=["10.0.1.77"]
            ),
            lambda ec2, interface, own: ec2.create_tags(
                Resources=[own], Tags=[{"Key": "berth:max-pods", "Value": "4096"}]
            ),
            lambda ec2, interface, own: ec2.delete_network_interface(NetworkInterfaceId=interface),
            lambda ec2, interface, own: ec2.terminate_instances(InstanceIds=[own]),
        ],
        ids=[
            "DescribeInstances",
            "DescribeNetworkInterfaces",
            "Assign",
            "Unassign",
            "CreateTags",
            "Delete",
            "Terminate",
        ],
    )
    def test_a_node_has_no_ec2_permission(self, site: Site, attempt: Callable[[Any, str, str], Any]) -> None:
        interface = site.scene.stack.interfaces(site.mallory.id)[0]["NetworkInterfaceId"]
        ec2 = site.as_mallory("ec2")
        assert refusal(lambda: attempt(ec2, interface, site.mallory.id)) in REFUSED

    def test_a_node_cannot_put_events_on_the_queue_of_events(self, site: Site) -> None:
        sqs, url = site.as_mallory("sqs"), site.scene.stack.outputs["NodeEventsQueueUrl"]
        assert refusal(sqs.send_message, QueueUrl=url, MessageBody="{}") in REFUSED

    @pytest.mark.parametrize("queue", ["NodeEventsQueueUrl", "NodeReportsQueueUrl"])
    def test_a_node_cannot_read_or_empty_a_queue(self, site: Site, queue: str) -> None:
        sqs, url = site.as_mallory("sqs"), site.scene.stack.outputs[queue]
        assert refusal(sqs.receive_message, QueueUrl=url) in REFUSED
        assert refusal(sqs.purge_queue, QueueUrl=url) in REFUSED

    def test_a_node_cannot_ask_for_capacity_on_the_bus_or_run_a_function(self, site: Site) -> None:
        outputs = site.scene.stack.outputs
        entry = {"Source": "berth.request", "DetailType": "Node Capacity Requested", "Detail": "{}"}
        bus, functions = site.as_mallory("events"), site.as_mallory("lambda")
        assert refusal(bus.put_events, Entries=[entry | {"EventBusName": outputs["BusName"]}]) in REFUSED
        assert refusal(functions.invoke, FunctionName=outputs["SweepFunctionName"]) in REFUSED


class TestReportsOfOthers:
    """Identity is the SenderId that SQS fills in. What the body says of other nodes means nothing."""

    def test_a_report_of_a_sender_that_is_no_instance_is_counted_and_dropped(self, site: Site) -> None:
        """On AWS the queue's policy refuses it; the sandbox's administrator may do anything, so the function must."""
        before, log = site.holdings(), FunctionLog(site.scene)
        (interface,) = site.record(site.victim).interfaces
        report = site.report(surrendered=surrender_all(interface))
        message = send_report(site.scene.stack.client("sqs"), site.scene, report)
        (line,) = log.about(message)
        assert line["message"] == "report refused"
        assert "is no instance" in line["error"]
        assert log.metric("ReportsRefused") == 1
        assert site.holdings() == before

    def test_a_report_of_an_instance_that_is_no_node_is_counted_and_dropped(self, site: Site) -> None:
        before, log = site.holdings(), FunctionLog(site.scene)
        report = site.report(waiting=("pod",))
        send_report(node_client(site.scene, site.stranger, "sqs"), site.scene, report)
        wait_for("the refusal to be counted", lambda: log.metric("ReportsRefused") == 1)
        assert site.scene.stack.record(site.stranger) is None
        assert blocks_shown(site.scene, site.stranger) == set()
        assert site.holdings() == before

    def test_a_report_cannot_surrender_what_another_node_has(self, site: Site) -> None:
        before = site.holdings()
        (interface,) = site.record(site.victim).interfaces
        report = site.report(
            acknowledged_revision=10**6,
            surrendered=surrender_all(interface),
            unusable=tuple(a.cidr for a in interface.assignments),
        )
        send_report(site.as_mallory("sqs"), site.scene, report)
        assert site.record(site.mallory).accepted == report.order
        assert site.record(site.victim).accepted == Order()
        assert site.holdings() == before

    def test_exaggerated_needs_bring_no_more_than_max_pods(self, site: Site) -> None:
        before = site.holdings()
        waiting = tuple(f"pod-{n}" for n in range(2000))
        send_report(site.as_mallory("sqs"), site.scene, site.report(in_use=10**6, waiting=waiting))
        assert site.holdings() == before


class TestReportsOfItsOwn:
    @pytest.mark.parametrize(
        "body",
        [
            "",
            "not json",
            "[]",
            '{"schema": 99}',
            '{"schema": 1, "order": {"boot": -1}}',
            '{"schema": 1, "order": {"boot": 1e999}}',
            "[" * 100_000,
        ],
        ids=["empty", "text", "list", "of a later release", "negative", "infinite", "nested"],
    )
    def test_a_report_that_cannot_be_read_is_counted_and_dropped(self, site: Site, body: str) -> None:
        before, log = site.holdings(), FunctionLog(site.scene)
        message = send_report(site.as_mallory("sqs"), site.scene, body or " ")
        (line,) = log.about(message)
        assert site.mallory.id in line["error"]
        assert log.metric("ReportsRefused") == 1
        assert site.holdings() == before

    def test_a_surrender_that_names_another_assignment_has_no_effect(self, site: Site) -> None:
        before = site.holdings()
        (interface,) = site.record(site.mallory).interfaces
        for wrong in ("1:10.0.9.0/28", interface.assignments[0].id + "0"):
            report = site.report(acknowledged_revision=10**6, surrendered=surrender_all(interface, assignment=wrong))
            send_report(site.as_mallory("sqs"), site.scene, report)
            assert site.record(site.mallory).accepted == report.order
        assert site.holdings() == before

    @pytest.mark.parametrize("step", [Order(0, -1), Order(-1, 1000)], ids=["earlier in this boot", "earlier boot"])
    def test_an_older_report_is_ignored(self, site: Site, step: Order) -> None:
        newest = site.report()
        send_report(site.as_mallory("sqs"), site.scene, newest)
        before, log = site.holdings(), FunctionLog(site.scene)
        (interface,) = site.record(site.mallory).interfaces
        order = Order(newest.order.boot + step.boot, newest.order.sequence + step.sequence)
        older = site.report(order=order, surrendered=surrender_all(interface))
        send_report(site.as_mallory("sqs"), site.scene, older)
        wait_for("it to be counted", lambda: log.metric("ReportsOlder") == 1)
        assert site.scene.stack.accepted(site.mallory.id) == newest.order
        assert site.holdings() == before

    def test_a_node_may_give_back_what_is_its_own_and_only_in_two_phases(self, site: Site) -> None:
        """The way that the reports above did not find: so they failed for the right reason."""
        (interface,) = site.record(site.mallory).interfaces
        given = {a.cidr for a in interface.assignments}
        surrendered = surrender_all(interface)
        send_report(site.as_mallory("sqs"), site.scene, site.report(surrendered=surrendered))
        marked = site.record(site.mallory)
        assert {a.cidr for i in marked.interfaces for a in i.assignments if a.releasing} == given
        assert given <= blocks_shown(site.scene, site.mallory)
        acknowledging = site.report(acknowledged_revision=marked.revision, surrendered=surrendered)
        send_report(site.as_mallory("sqs"), site.scene, acknowledging)
        # all was given back, so another one came: a node is never left without any address
        left = {a.cidr for i in site.record(site.mallory).interfaces for a in i.assignments}
        assert not left & given
        assert blocks_shown(site.scene, site.mallory) == left
