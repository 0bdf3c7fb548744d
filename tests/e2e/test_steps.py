"""The end-to-end run of `make demo`, step by step. Tests run in file order and share one sandbox."""

from __future__ import annotations

import ipaddress
import json
from collections import Counter
from typing import Any

from berth.contract import Record, address_count

from tests.e2e.conftest import Told
from tests.sandbox.account import wait_for
from tests.sandbox.demo.stages import ALPHA, BETA, PlacedPod, Scene
from tests.sandbox.landscape import REGION
from tests.sandbox.world import ROOT


def _tags(thing: dict[str, Any]) -> dict[str, str]:
    return {t["Key"]: t["Value"] for t in thing.get("TagSet", [])}


def _function_calls(scene: Scene) -> list[tuple[float, str]]:
    """Every EC2 call by Berth's functions that EC2 granted, in order."""
    lines = [json.loads(line) for line in (ROOT / "cloud" / "calls.jsonl").read_text().splitlines()]
    return [
        (line["time"], line["action"].partition(":")[2])
        for line in lines
        if line["kind"] == "function" and line["action"].startswith("ec2:") and line["outcome"] == "ok"
    ]


class TestTheDeployedStack:
    """Step 2: what runs is what the template made."""

    def test_its_outputs_name_what_an_operator_needs(self, deployed: dict[str, str]) -> None:
        assert {"TableName", "NodeReportsQueueUrl", "NodePolicyArn", "BusName"} <= deployed.keys()

    def test_state_change_events_go_to_the_queue_and_not_to_the_function(
        self, scene: Scene, deployed: dict[str, str]
    ) -> None:
        events = scene.stack.client("events")
        rules = [r for r in events.list_rules()["Rules"] if "State-change" in r.get("EventPattern", "")]
        targets = [t for r in rules for t in events.list_targets_by_rule(Rule=r["Name"])["Targets"]]
        assert [t["Arn"].split(":")[2] for t in targets] == ["sqs"]

    def test_both_queues_feed_the_function_with_partial_failures_reported(
        self, scene: Scene, deployed: dict[str, str]
    ) -> None:
        mappings = scene.stack.client("lambda").list_event_source_mappings(
            FunctionName=deployed["ReconcileFunctionName"]
        )["EventSourceMappings"]
        assert len(mappings) == 2
        assert all(m["FunctionResponseTypes"] == ["ReportBatchItemFailures"] for m in mappings)

    def test_the_function_runs_the_deployed_layer(self, scene: Scene, deployed: dict[str, str]) -> None:
        found = scene.stack.client("lambda").get_function(FunctionName=deployed["ReconcileFunctionName"])
        assert len(found["Configuration"]["Layers"]) == 1


class TestTwoNodes:
    """Step 3: addresses before any pod, by events alone."""

    def test_each_node_has_what_its_policy_asks_for(self, launched: dict[str, Record]) -> None:
        counts = {
            name: sum(address_count(a.cidr) for i in record.interfaces for a in i.assignments)
            for name, record in launched.items()
        }
        assert counts["alpha"] >= 18
        assert counts["beta"] == 16

    def test_the_primary_interface_is_filled_first(self, launched: dict[str, Record]) -> None:
        primary, secondary = launched["alpha"].interfaces[:2]
        assert primary.device_index == 0
        assert len(primary.assignments) == 9  # m5.large holds 10 addresses on an interface
        assert secondary.device_index == 1

    def test_an_interface_is_created_whole_and_then_attached(self, scene: Scene, launched: dict[str, Record]) -> None:
        """One create call carries addresses, tags and groups; nothing is assigned to it afterwards."""
        instance = scene.machines["alpha"].id

        def made() -> list[str]:
            return [action for _, action in _function_calls(scene)]

        # the record lists the interface as soon as it is attached; what follows has no haste
        wait_for("its DeleteOnTermination", lambda: "ModifyNetworkInterfaceAttribute" in made())
        calls = made()
        assert len([i for i in scene.stack.interfaces_made_for(instance) if i["Attachment"]["DeviceIndex"] == 1]) == 1
        assert calls.index("CreateNetworkInterface") < calls.index("AttachNetworkInterface")
        assert calls.index("AttachNetworkInterface") < calls.index("ModifyNetworkInterfaceAttribute")
        # one for each node's primary interface, none for an interface of ours
        assert calls.count("AssignPrivateIpAddresses") == 2

    def test_interfaces_of_ours_carry_their_tags_and_go_with_the_instance(
        self, scene: Scene, launched: dict[str, Record]
    ) -> None:
        instance = scene.machines["alpha"].id
        ours = [i for i in scene.stack.interfaces(instance) if i["Attachment"]["DeviceIndex"] > 0]
        assert ours
        for interface in ours:
            assert interface["Attachment"]["DeleteOnTermination"] is True
            assert _tags(interface).keys() >= {"berth:cluster", "berth:instance", "berth:created-at"}
            assert _tags(interface)["berth:instance"] == instance

    def test_prefixes_are_whole_and_in_the_nodes_subnet(self, launched: dict[str, Record]) -> None:
        (interface,) = launched["beta"].interfaces
        (block,) = [ipaddress.ip_network(a.cidr) for a in interface.assignments]
        assert block.prefixlen == 28
        assert block.subnet_of(ipaddress.ip_network(interface.subnet_cidr))  # type: ignore[arg-type]

    def test_the_record_lists_only_what_ec2_shows(self, scene: Scene, launched: dict[str, Record]) -> None:
        for name in launched:
            machine = scene.machines[name]
            record = scene.stack.record(machine.id)
            assert record is not None
            shown = {
                block
                for i in scene.stack.interfaces(machine.id)
                for block in [a["PrivateIpAddress"] + "/32" for a in i["PrivateIpAddresses"] if not a["Primary"]]
                + [p["Ipv4Prefix"] for p in i.get("Ipv4Prefixes", [])]
            }
            assert {a.cidr for i in record.interfaces for a in i.assignments} <= shown


class TestNodeAgents:
    """Step 4: ready only when an address can be served."""

    def test_the_configuration_is_written_and_status_is_ready(self, serving: Scene) -> None:
        for machine in serving.machines.values():
            assert machine.node.status().cni_configs == ("10-berth.conflist",)
            assert machine.runtime.status() is None

    def test_nodes_make_no_ec2_call(self, serving: Scene) -> None:
        calls = serving.stack.sandbox("calls")["node"]
        assert set(calls) <= {"sqs:SendMessage", "dynamodb:GetItem"}


class TestTwentyPods:
    """Step 5: a runtime executes the plugin."""

    def test_each_has_an_address_of_its_own(self, twenty: list[PlacedPod]) -> None:
        assert len({p.address for p in twenty}) == 20

    def test_each_address_is_on_an_interface_of_its_node(self, twenty: list[PlacedPod]) -> None:
        assert all(p.interface >= 0 for p in twenty)

    def test_pods_are_on_primary_and_secondary_interfaces(self, twenty: list[PlacedPod]) -> None:
        by_link = Counter((p.machine, p.interface) for p in twenty)
        assert by_link[("alpha", 0)] == 9
        assert by_link[("alpha", 1)] == 9

    def test_check_finds_every_pod_as_add_left_it(self, serving: Scene, twenty: list[PlacedPod]) -> None:
        for pod in twenty:
            serving.machines[pod.machine].runtime.check(pod.pod)


class TestGrowthAndShrink:
    """Step 7."""

    def test_waiting_adds_finish_when_more_is_assigned(self, grown: list[PlacedPod]) -> None:
        assert len({p.address for p in grown}) == 30
        assert {p.interface for p in grown} == {0, 1}

    def test_addresses_return_in_two_phases(self, shrunk: Told) -> None:
        assert shrunk.found["before"] == 32
        assert shrunk.found["after"] == 16
        actions = [action for _, action in _function_calls(shrunk.scene)]
        assert actions.count("UnassignPrivateIpAddresses") >= 1

    def test_what_pods_use_is_never_taken(self, shrunk: Told) -> None:
        for pod in shrunk.scene.on("beta"):
            holder = shrunk.scene.stack.holder(pod.address)
            assert holder is not None
            assert holder["Attachment"]["InstanceId"] == shrunk.scene.machines["beta"].id


class TestDeath:
    """Step 8."""

    def test_nothing_of_the_node_is_left(self, ended: Told) -> None:
        assert ended.found == {"interfaces_left": 0, "unattached_left": 0, "addresses_left": 0}

    def test_the_other_node_is_not_touched(self, ended: Told) -> None:
        alpha = ended.scene.machines["alpha"]
        assert alpha.runtime.status() is None
        for pod in ended.scene.on("alpha"):
            alpha.runtime.check(pod.pod)

    def test_the_fabric_dropped_nothing_for_its_source(self, ended: Told) -> None:
        assert ended.scene.stack.sandbox("fabric")["source_check_drops"] == 0

    def test_no_message_is_dead(self, ended: Told) -> None:
        queues = ended.scene.stack.sandbox("queues")
        assert not any(depth for name, depths in queues.items() if "DeadLetter" in name for depth in depths.values())

    def test_no_call_was_refused(self, ended: Told) -> None:
        """The deployed policies grant what Berth does, and Berth does nothing that they refuse."""
        refused = {
            (kind, action, outcome)
            for kind in ("function", "node")
            for action, outcomes in ended.scene.stack.sandbox("calls")[kind].items()
            for outcome in outcomes
            if outcome in ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException")
        }
        assert refused == set()


def test_the_specs_are_what_the_assertions_assume() -> None:
    assert (ALPHA.type, BETA.type, REGION) == ("m5.large", "t3.micro", "eu-west-1")
