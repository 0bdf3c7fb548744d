"""The template: what cfn-lint cannot know. Policies that are text are JSON, our own events match no rule of ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from berth import bus
from berth.events import PARSERS, flow_log_object, network_interface_call
from berth.ingest import MAX_REPORT_BYTES

from tests.unit.control.stack_template import load_template


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return load_template()


def rules(template: dict[str, Any]) -> list[dict[str, Any]]:
    patterns = (
        r["Properties"].get("EventPattern") for r in template["Resources"].values() if r["Type"] == "AWS::Events::Rule"
    )
    return [p for p in patterns if p]


@pytest.mark.parametrize("clusters", [["demo"], ["blue", "green", "red"]])
def test_the_instance_policy_has_a_statement_for_each_cluster(template: dict[str, Any], clusters: list[str]) -> None:
    text, values = template["Resources"]["ReconcileInstancesPolicy"]["Properties"]["PolicyDocument"]["Fn::Sub"]
    delimiter, _ = values["Clusters"]["Fn::Join"]
    document = json.loads(text.replace("${Clusters}", delimiter.join(clusters)))
    keys = [next(iter(s["Condition"]["StringEquals"])) for s in document["Statement"]]
    assert keys == [f"aws:ResourceTag/kubernetes.io/cluster/{name}" for name in clusters]
    assert all(s["Action"] == document["Statement"][0]["Action"] for s in document["Statement"])


def test_every_event_that_comes_by_rule_has_a_parser(template: dict[str, Any]) -> None:
    for pattern in rules(template):
        for source in pattern["source"]:
            for detail_type in pattern["detail-type"]:
                assert (source, detail_type) in {*PARSERS, network_interface_call.KEY, flow_log_object.KEY}


def test_no_rule_matches_what_berth_itself_sends(template: dict[str, Any]) -> None:
    assert not any(bus.SOURCE in pattern["source"] for pattern in rules(template))


def test_a_message_that_comes_back_finds_the_lease_of_its_dead_function_expired(template: dict[str, Any]) -> None:
    resources = template["Resources"]
    timeout = resources["ReconcileNodes"]["Properties"]["Timeout"]
    assert resources["NodeEventsQueue"]["Properties"]["VisibilityTimeout"] > timeout + 30
    assert resources["NodeReportsQueue"]["Properties"]["VisibilityTimeout"] > timeout + 30


def test_the_node_may_read_its_own_key_and_send_reports_and_nothing_else(template: dict[str, Any]) -> None:
    statements = template["Resources"]["NodePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert {s["Action"] for s in statements} == {"sqs:SendMessage", "dynamodb:GetItem"}
    (read,) = [s for s in statements if s["Action"] == "dynamodb:GetItem"]
    keys = read["Condition"]["ForAllValues:StringEquals"]["dynamodb:LeadingKeys"]
    assert keys == [{"Fn::Sub": "${!ec2:SourceInstanceARN}"}]


def test_every_mutating_ec2_action_is_conditioned(template: dict[str, Any]) -> None:
    for name, resource in template["Resources"].items():
        if resource["Type"] != "AWS::IAM::Role":
            continue
        for policy in resource["Properties"]["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
                changing = [
                    a for a in actions if a.startswith("ec2:") and not a.startswith(("ec2:Describe", "ec2:Get"))
                ]
                assert not changing or statement.get("Condition"), f"{name}: {statement['Sid']}"


def test_the_outputs_are_those_the_agent_and_the_tests_ask_for(template: dict[str, Any]) -> None:
    assert set(template["Outputs"]) == {
        "TableName",
        "NodeReportsQueueUrl",
        "NodeEventsQueueUrl",
        "BusName",
        "NodePolicyArn",
        "BrakeParameterName",
        "BudgetTable",
        "LedgerTableName",
        "ReconcileFunctionName",
        "SweepFunctionName",
        "FillFunctionName",
        "FollowFunctionName",
        "FlatCheckFunctionName",
        "AttributeFunctionName",
        "FlowLogBucketName",
        "PodFlowsBucketName",
        "FlowsTableName",
    }


def test_changing_an_attachment_is_allowed_on_the_instance_that_it_concerns(template: dict[str, Any]) -> None:
    text, _ = template["Resources"]["ReconcileInstancesPolicy"]["Properties"]["PolicyDocument"]["Fn::Sub"]
    (statement,) = json.loads(text.replace("${Clusters}", "demo"))["Statement"]
    assert "ec2:ModifyNetworkInterfaceAttribute" in statement["Action"]


def test_a_node_that_is_looked_at_again_and_again_is_no_runaway_loop(template: dict[str, Any]) -> None:
    assert template["Resources"]["ReconcileNodes"]["Properties"]["RecursiveLoop"] == "Allow"


def test_the_queue_takes_no_report_that_the_function_refuses_for_its_size(template: dict[str, Any]) -> None:
    queue = template["Resources"]["NodeReportsQueue"]["Properties"]
    assert queue["MaximumMessageSize"] == MAX_REPORT_BYTES
