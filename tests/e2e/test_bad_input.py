"""Bad input, from every side: events, tags, instance types, subnets, and what a runtime gives the plugin."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from berth.contract import Record

from tests.e2e.scenes import (
    BusListener,
    FunctionLog,
    assigned,
    blocks_shown,
    dead_letters,
    mutations,
    new_scene,
    settle,
    tell,
)
from tests.sandbox.account import wait_for
from tests.sandbox.demo.stages import Scene, launch, start_agents
from tests.sandbox.landscape import CLUSTER, REGION, NodeSpec, launch_node
from tests.sandbox.runtime import Pod

PLUGIN: Final = "/opt/cni/bin/berth"
SPECS: Final = (
    NodeSpec("plain", "a", "t3.micro", {"mode": "prefixes", "max-pods": "16"}),
    NodeSpec("mistagged", "a", "t3.micro", {"mode": "bogus", "max-pods": "-3", "wram-addresses": "9"}),
    NodeSpec("xen", "b", "m4.large", {"mode": "prefixes", "warm-addresses": "3"}),
    NodeSpec("fragmented", "fragmented", "t3.medium", {"mode": "prefixes", "warm-addresses": "4"}),
    NodeSpec("cramped", "tiny", "t3.medium", {"mode": "prefixes", "warm-addresses": "12", "subnets": "size=tiny"}),
)


@dataclass(slots=True)
class Site:
    scene: Scene
    bus: BusListener

    def id(self, name: str) -> str:
        return self.scene.machines[name].id

    def record(self, name: str) -> Record:
        record = self.scene.stack.record(self.id(name))
        assert record is not None
        return record

    def problems(self, name: str) -> dict[str, str]:
        """What ``Node Policy Invalid`` says of a node: tag → message."""
        told = self.bus.wait_for(self.id(name), "Node Policy Invalid")
        return {problem["key"]: problem["message"] for problem in told["problems"]}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_scene() as scene:
        bus = BusListener(scene)
        _awkward_subnets(scene)
        launch(scene, SPECS)
        start_agents(scene, [scene.machines["plain"]])
        settle(scene)
        yield Site(scene, bus)
        assert dead_letters(scene) == {}


def _awkward_subnets(scene: Scene) -> None:
    """In a zone of their own: one of 16 addresses, and one in which no 16 aligned ones are all free."""
    assert scene.landscape is not None
    ec2 = scene.stack.client("ec2")
    for name, cidr in (("tiny", "10.0.8.0/28"), ("fragmented", "10.0.9.0/26")):
        tags = [{"Key": "berth:allowed", "Value": ""}, {"Key": "size", "Value": name}]
        made = ec2.create_subnet(
            VpcId=scene.landscape.vpc,
            CidrBlock=cidr,
            AvailabilityZone=f"{REGION}c",
            TagSpecifications=[{"ResourceType": "subnet", "Tags": tags}],
        )
        scene.landscape.subnets[name] = made["Subnet"]["SubnetId"]
    for address in ("10.0.9.20", "10.0.9.40"):
        ec2.create_network_interface(SubnetId=scene.landscape.subnets["fragmented"], PrivateIpAddress=address)


def event(instance_id: Any, **changes: Any) -> dict[str, Any]:
    """A state change as EventBridge sends it, with ``changes``."""
    return {
        "id": "7bf73129-1428-4cd3-a780-95db273d1602",
        "source": "aws.ec2",
        "detail-type": "EC2 Instance State-change Notification",
        "time": "2026-11-11T21:29:54Z",
        "detail": {"instance-id": instance_id, "state": "running"},
    } | changes


UNREADABLE: Final[Mapping[str, tuple[str, str, str]]] = {
    "no JSON": ("state = running", "MalformedEvents", "is not JSON"),
    "a list": ("[]", "MalformedEvents", "expected an object"),
    "nested without end": ("[" * 100_000, "MalformedEvents", "is not JSON"),
    "no source": (json.dumps(event("i-0123456789abcdef0", source=None)), "MalformedEvents", "source"),
    "no detail": (json.dumps(event("i-0123456789abcdef0", detail="running")), "MalformedEvents", "detail"),
    "no instance id": (
        json.dumps(event("i-0123456789abcdef0", detail={"state": "running"})),
        "MalformedEvents",
        "detail.instance-id",
    ),
    "an instance id of no instance": (json.dumps(event("i-../../x")), "MalformedEvents", "detail.instance-id"),
    "an instance id that is a number": (json.dumps(event(7)), "MalformedEvents", "detail.instance-id"),
    "another detail-type": (
        json.dumps(event("i-0123456789abcdef0", **{"detail-type": "EC2 Fleet Weather"})),
        "UnknownEvents",
        "EC2 Fleet Weather",
    ),
    "another source": (json.dumps(event("i-0123456789abcdef0", source="aws.ec3")), "UnknownEvents", "aws.ec3"),
}


class TestEvents:
    @pytest.mark.parametrize("kind", UNREADABLE)
    def test_an_unreadable_event_is_counted_logged_with_its_id_and_done_with(self, site: Site, kind: str) -> None:
        body, metric, problem = UNREADABLE[kind]
        before, log = mutations(site.scene), FunctionLog(site.scene)
        url = site.scene.stack.outputs["NodeEventsQueueUrl"]
        message = site.scene.stack.client("sqs").send_message(QueueUrl=url, MessageBody=body)["MessageId"]
        settle(site.scene)
        (line,) = log.about(message)
        assert (line["level"], line["message"]) == ("WARNING", "event not read")
        assert problem in line["error"]
        assert log.metric(metric) == 1
        assert mutations(site.scene) == before

    def test_unreadable_events_hold_up_no_other_of_their_batch(self, site: Site) -> None:
        ec2, instance = site.scene.stack.client("ec2"), site.id("plain")
        ec2.create_tags(Resources=[instance], Tags=[{"Key": "berth:cooldown-seconds", "Value": "77"}])
        bodies = [*(body for body, _, _ in list(UNREADABLE.values())[:9]), json.dumps(event(instance))]
        entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies)]
        url, log = site.scene.stack.outputs["NodeEventsQueueUrl"], FunctionLog(site.scene)
        site.scene.stack.client("sqs").send_message_batch(QueueUrl=url, Entries=entries)
        settle(site.scene)
        assert site.record("plain").policy.cooldown_seconds == 77
        assert log.metric("MalformedEvents") + log.metric("UnknownEvents") == 9

    def test_an_event_of_an_instance_that_does_not_exist_leaves_no_trace(self, site: Site) -> None:
        before, log = mutations(site.scene), FunctionLog(site.scene)
        tell(site.scene, "events", event("i-0feedfacecafebeef"))
        wait_for("it to be counted", lambda: log.metric("NotANode") == 1)
        assert site.scene.stack.record("i-0feedfacecafebeef") is None
        assert mutations(site.scene) == before

    def test_a_malformed_request_on_the_bus_is_counted_and_changes_nothing(self, site: Site) -> None:
        before, log = site.record("plain"), FunctionLog(site.scene)
        detail = {"instance-id": site.id("plain"), "addresses": 10**9, "until": "tomorrow"}
        site.scene.stack.client("events").put_events(
            Entries=[
                {
                    "EventBusName": site.scene.stack.outputs["BusName"],
                    "Source": "berth.request",
                    "DetailType": "Node Capacity Requested",
                    "Detail": json.dumps(detail),
                }
            ]
        )
        wait_for("it to be counted", lambda: log.metric("MalformedEvents") == 1)
        assert site.record("plain") == before


class TestInstancesThatAreNoNodes:
    def test_an_instance_without_our_clusters_tag_gets_nothing(self, site: Site) -> None:
        assert site.scene.landscape is not None
        before, log = mutations(site.scene), FunctionLog(site.scene)
        spec = NodeSpec("stranger", "a", "t3.micro", {"mode": "prefixes", "minimum-addresses": "16"})
        instance = launch_node(site.scene.endpoint, site.scene.landscape, spec, f"{CLUSTER}-2")
        wait_for("both of its events to be seen", lambda: log.metric("NotANode") == 2)
        assert site.scene.stack.state(instance) == "running"
        assert site.scene.stack.record(instance) is None
        assert blocks_shown(site.scene, instance) == set()
        assert mutations(site.scene) == before

    def test_a_node_that_says_unmanaged_is_left_alone(self, site: Site) -> None:
        assert site.scene.landscape is not None
        before, log = mutations(site.scene), FunctionLog(site.scene)
        spec = NodeSpec("own-ways", "a", "t3.micro", {"unmanaged": "true"})
        instance = launch_node(site.scene.endpoint, site.scene.landscape, spec)
        wait_for("both of its events to be seen", lambda: log.metric("Unmanaged") == 2)
        assert site.scene.stack.record(instance) is None
        assert mutations(site.scene) == before


class TestPolicies:
    def test_bad_tags_are_told_on_the_bus_and_the_defaults_used(self, site: Site) -> None:
        problems = site.problems("mistagged")
        assert problems.keys() == {"berth:mode", "berth:max-pods", "berth:wram-addresses"}
        assert "prefixes or addresses" in problems["berth:mode"]
        assert "whole number" in problems["berth:max-pods"]
        assert "berth:warm-addresses" in problems["berth:wram-addresses"]
        policy = site.record("mistagged").policy
        assert (policy.mode, policy.max_pods, policy.warm_addresses) == ("prefixes", 110, 8)
        assert assigned(site.record("mistagged")) == 16

    def test_bad_tags_are_told_once_and_not_at_each_look(self, site: Site) -> None:
        for _ in range(3):
            tell(site.scene, "events", event(site.id("mistagged")))
            settle(site.scene)
        assert len(site.bus.of(site.id("mistagged"), "Node Policy Invalid")) == 1

    def test_a_type_that_can_have_no_prefixes_gets_addresses_and_an_event(self, site: Site) -> None:
        assert "Nitro" in site.problems("xen")["berth:mode"]
        record = site.record("xen")
        assert record.policy.mode == "addresses"
        assert [a.cidr.endswith("/32") for i in record.interfaces for a in i.assignments] == [True] * 3

    def test_a_node_that_is_in_order_is_told_to_be_ready_and_nothing_else(self, site: Site) -> None:
        told = [e["detail-type"] for e in site.bus.all() if e["detail"].get("instance-id") == site.id("plain")]
        assert told == ["Node Addresses Ready"]


class TestSubnets:
    def test_where_no_prefix_is_free_single_addresses_are_assigned(self, site: Site) -> None:
        record = site.record("fragmented")
        blocks = {a.cidr for i in record.interfaces for a in i.assignments}
        assert len(blocks) == 4
        assert all(block.endswith("/32") for block in blocks)
        assert blocks == blocks_shown(site.scene, site.id("fragmented"))
        assert site.bus.of(site.id("fragmented"), "Node Address Demand Unmet") == []

    def test_where_no_address_is_free_the_node_keeps_what_it_got_and_the_rest_is_told(self, site: Site) -> None:
        """11 addresses of a /28 can be used: two are the interfaces' own, 9 are for pods, and 12 are wanted."""
        told = site.bus.wait_for(site.id("cramped"), "Node Address Demand Unmet")
        assert "no subnet" in told["reason"]
        # what one look leaves because EC2's count had fallen meanwhile, the next one takes
        tell(site.scene, "events", event(site.id("cramped")))
        settle(site.scene)
        assert told["addresses"] >= 3
        assert assigned(site.record("cramped")) == 9
        assert len(site.bus.of(site.id("cramped"), "Node Address Demand Unmet")) == 1

    def test_the_sweep_tells_of_subnets_that_run_low(self, site: Site) -> None:
        assert site.scene.landscape is not None
        tiny = site.scene.landscape.subnets["tiny"]

        def told() -> list[dict[str, Any]]:
            low = [e["detail"] for e in site.bus.all() if e["detail-type"] == "Subnet Addresses Low"]
            return [detail for detail in low if detail["subnet-id"] == tiny]

        tell(site.scene, "fire", {"rule": "SweepRule"})
        found = wait_for("Subnet Addresses Low", told)
        assert (found[0]["free"], found[0]["size"]) == (0, 11)

    def test_security_groups_that_are_not_allowed_are_named(self, site: Site) -> None:
        """The primary interface is filled all the same; only another interface would need the group."""
        landscape = site.scene.landscape
        assert landscape is not None
        ec2 = site.scene.stack.client("ec2")
        group = ec2.create_security_group(VpcId=landscape.vpc, GroupName="private", Description="not for pods")[
            "GroupId"
        ]
        spec = NodeSpec("fenced", "a", "t3.micro", {"mode": "prefixes", "minimum-addresses": "20"})
        instance = launch_node(site.scene.endpoint, replace(landscape, security_group=group), spec)
        told = site.bus.wait_for(instance, "Node Address Demand Unmet")
        assert group in told["reason"]
        assert "berth:allowed" in told["reason"]
        settle(site.scene)
        assert len(site.scene.stack.interfaces(instance)) == 1
        assert assigned(site.scene.stack.record(instance)) == 16


CONFIG: Final = {"cniVersion": "1.1.0", "name": "berth", "type": "berth"}
POD: Final = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "bad-input",
    "CNI_NETNS": "/run/netns/nowhere",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}

REQUESTS: Final[Mapping[str, tuple[dict[str, str], str | dict[str, Any], int, str]]] = {
    "no command": ({"CNI_COMMAND": ""}, CONFIG, 4, "CNI_COMMAND must be one of"),
    "an unknown command": ({"CNI_COMMAND": "FROB"}, CONFIG, 4, "CNI_COMMAND must be one of"),
    "no container": ({"CNI_CONTAINERID": ""}, CONFIG, 4, "ADD needs CNI_CONTAINERID"),
    "a wrong container": ({"CNI_CONTAINERID": "../x"}, CONFIG, 4, "CNI_CONTAINERID must start with"),
    "no interface name": ({"CNI_IFNAME": ""}, CONFIG, 4, "ADD needs CNI_IFNAME"),
    "a long interface name": ({"CNI_IFNAME": "e" * 16}, CONFIG, 4, "at most 15 bytes"),
    "no namespace": ({"CNI_NETNS": ""}, CONFIG, 4, "ADD needs CNI_NETNS"),
    "no configuration": ({}, "", 6, "is not JSON"),
    "half a configuration": ({}, '{"cniVersion": "1.1.0", ', 6, "is not JSON"),
    "a configuration that nests without end": ({}, "[" * 300_000, 6, "is not JSON"),
    "a list": ({}, "[]", 6, "object"),
    "no network name": ({}, {"cniVersion": "1.1.0", "type": "berth"}, 7, "'name'"),
    "an unknown version": ({}, {**CONFIG, "cniVersion": "0.2.0"}, 1, "0.2.0"),
    "a previous result of text": ({}, {**CONFIG, "prevResult": "x"}, 7, "'prevResult'"),
    "a namespace that is not there": ({}, CONFIG, 8, "'/run/netns/nowhere' cannot be opened"),
    "a namespace that is a file": ({"CNI_NETNS": "/etc/berth/node.toml"}, CONFIG, 8, "is not a namespace"),
    "a namespace of processes": ({"CNI_NETNS": "/proc/self/ns/pid"}, CONFIG, 8, "another type than network"),
    "the node's own namespace": ({"CNI_NETNS": "/proc/1/ns/net"}, CONFIG, 8, "the node's own network namespace"),
    "CHECK without a result": (
        {"CNI_COMMAND": "CHECK", "CNI_NETNS": "/run/netns/{pod}"},
        CONFIG,
        7,
        "CHECK needs 'prevResult'",
    ),
    "CHECK of an unknown container": (
        {"CNI_COMMAND": "CHECK", "CNI_NETNS": "/run/netns/{pod}"},
        {**CONFIG, "prevResult": {"cniVersion": "1.1.0", "ips": []}},
        3,
        "recreate the pod",
    ),
    "GC without a list": ({"CNI_COMMAND": "GC"}, CONFIG, 7, "cni.dev/valid-attachments"),
}


@pytest.fixture(scope="module")
def pod(site: Site) -> Iterator[Pod]:
    """A pod that is in order, next to all that is not."""
    runtime, pod = site.scene.machines["plain"].runtime, Pod.new("in-order")
    runtime.add(pod)
    yield pod
    runtime.delete(pod)


class TestThePlugin:
    def run(self, site: Site, environment: Mapping[str, str], config: str | dict[str, Any]) -> tuple[int, str]:
        stdin = config if isinstance(config, str) else json.dumps(config)
        done = site.scene.machines["plain"].node.run([PLUGIN], env={**POD, **environment}, input=stdin)
        assert done.stderr == ""
        return done.returncode, done.stdout

    @pytest.mark.parametrize("kind", REQUESTS)
    def test_a_bad_request_is_answered_with_cnis_code_and_what_to_do(self, site: Site, pod: Pod, kind: str) -> None:
        changes, config, code, problem = REQUESTS[kind]
        changes = {name: value.format(pod=pod.netns) for name, value in changes.items()}
        status, output = self.run(site, changes, config)
        answer = json.loads(output)
        assert status == 1
        assert answer["code"] == code
        assert problem in answer["msg"]
        assert answer["cniVersion"] in ("0.3.1", "0.4.0", "1.0.0", "1.1.0")

    def test_del_of_what_never_was_succeeds(self, site: Site, pod: Pod) -> None:
        assert self.run(site, {"CNI_COMMAND": "DEL"}, CONFIG) == (0, "")

    def test_nothing_bad_has_cost_an_address_or_the_pod_beside_it(self, site: Site, pod: Pod) -> None:
        machine = site.scene.machines["plain"]
        shown = machine.node.run(["python3", "-m", "berth_node", "status", "--json"])
        status = json.loads(shown.stdout)
        assert (status["in_use"], status["waiting"]) == (1, 0)
        machine.runtime.check(pod)
        assert machine.runtime.status() is None
