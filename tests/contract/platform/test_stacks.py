"""CloudFormation and what sam build and deploy do."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.cloud.cfn_types import INERT_TYPES
from tests.sandbox.cloud.deploy import DeployError, deploy, this_runtime
from tests.sandbox.cloud.packaging import BuildError, build
from tests.sandbox.cloud.platform import Platform

from .conftest import FIXTURES, Stack, client

ROLE = {
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]
}


def write(folder: Path, resources: dict[str, Any], **parts: Any) -> Path:
    path = folder / "template.yaml"
    path.write_text(json.dumps({"Transform": "AWS::Serverless-2016-10-31", "Resources": resources, **parts}))
    return path


def function(**properties: Any) -> dict[str, Any]:
    given = {"CodeUri": "code", "Handler": "app.handler", "Runtime": this_runtime(), **properties}
    return {"Type": "AWS::Serverless::Function", "Properties": given}


def code(folder: Path, text: str) -> None:
    (folder / "code").mkdir(exist_ok=True)
    (folder / "code" / "app.py").write_text(text)


def test_the_properties_that_moto_drops_are_in_force(stack: Stack) -> None:
    functions = stack.client("lambda")
    behave = functions.get_function(FunctionName=stack.outputs["BehaveName"])
    assert behave["Configuration"]["Layers"][0]["Arn"] == stack.outputs["LayerArn"]
    assert behave["Concurrency"]["ReservedConcurrentExecutions"] == 1
    (mapping,) = functions.list_event_source_mappings()["EventSourceMappings"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 2}
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    dynamodb = stack.client("dynamodb")
    ttl = dynamodb.describe_time_to_live(TableName=stack.outputs["TableName"])["TimeToLiveDescription"]
    assert ttl == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}
    backups = dynamodb.describe_continuous_backups(TableName=stack.outputs["TableName"])["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    (group,) = stack.client("logs").describe_log_groups(logGroupNamePrefix=stack.outputs["LogGroup"])["logGroups"]
    assert group["retentionInDays"] == 7
    role = functions.get_function_configuration(FunctionName=stack.outputs["RecordName"])["Role"].rpartition("/")[2]
    attached = stack.client("iam").list_attached_role_policies(RoleName=role)["AttachedPolicies"]
    assert [p["PolicyName"] for p in attached] == ["AWSLambdaSQSQueueExecutionRole"]


def test_a_rules_targets_are_as_the_template_says(stack: Stack) -> None:
    events = stack.client("events")
    (rule,) = [r for r in events.list_rules(EventBusName="shop")["Rules"] if "OrderRule" in r["Name"]]
    (target,) = events.list_targets_by_rule(Rule=rule["Name"], EventBusName="shop")["Targets"]
    assert target["RetryPolicy"] == {"MaximumRetryAttempts": 4, "MaximumEventAgeInSeconds": 900}
    assert "Failed" in target["DeadLetterConfig"]["Arn"]


def test_no_value_takes_an_element_out_of_a_list(platform: Platform, tmp_path: Path) -> None:
    role = {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": ROLE}}
    statement = {"Effect": "Allow", "Action": "sqs:ListQueues", "Resource": "*"}
    document = {"Version": "2012-10-17", "Statement": [statement]}
    nobody = {"Fn::If": ["Never", {"Ref": "Other"}, {"Ref": "AWS::NoValue"}]}
    resources = {
        "Role": role,
        "Other": {**role, "Condition": "Never"},
        "Policy": {
            "Type": "AWS::IAM::Policy",
            "Properties": {"PolicyName": "shared", "PolicyDocument": document, "Roles": [nobody, {"Ref": "Role"}]},
        },
    }
    parts = {"Conditions": {"Never": {"Fn::Equals": ["a", "b"]}}, "Outputs": {"Role": {"Value": {"Ref": "Role"}}}}
    outputs = deploy(platform.endpoint, write(tmp_path, resources, **parts), "no-value", {})
    held = client(platform.endpoint, "iam").list_role_policies(RoleName=outputs["Role"])["PolicyNames"]
    assert held == ["shared"]


def test_a_resource_type_that_the_sandbox_lacks_is_refused(platform: Platform, tmp_path: Path) -> None:
    path = write(tmp_path, {"Pipe": {"Type": "AWS::Pipes::Pipe", "Properties": {}}})
    with pytest.raises(DeployError, match=r"Unrecognized resource types: \['AWS::Pipes::Pipe'\]"):
        deploy(platform.endpoint, path, "unknown", {})


def test_a_resource_that_fails_is_named_and_the_rest_is_taken_back(platform: Platform, tmp_path: Path) -> None:
    mapping = {"EventSourceArn": "arn:aws:sqs:eu-west-1:123456789012:nowhere", "FunctionName": {"Ref": "Fn"}}
    code(tmp_path, "def handler(e, c): pass")
    resources = {
        "Fn": function(FunctionName="taken-back"),
        "Table": {
            "Type": "AWS::DynamoDB::Table",
            "DeletionPolicy": "RetainExceptOnCreate",
            "Properties": {
                "TableName": "taken-back",
                "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
            },
        },
        "Mapping": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": mapping, "DependsOn": "Table"},
    }
    with pytest.raises(DeployError, match=r"ROLLBACK_COMPLETE: Mapping \(AWS::Lambda::EventSourceMapping\): .*"):
        deploy(platform.endpoint, write(tmp_path, resources), "fails", {}, cache=tmp_path / "cache")
    names = [f["FunctionName"] for f in client(platform.endpoint, "lambda").list_functions()["Functions"]]
    assert "taken-back" not in names
    assert "taken-back" not in client(platform.endpoint, "dynamodb").list_tables()["TableNames"]


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"Mode": "other"}, "must be one of AllowedValues: a, b"),
        ({"Mode": "a", "Count": "99"}, "'Count' is out of range"),
        ({"Mode": "a", "Names": "ok,NOT"}, "'Names' must match pattern"),
        ({"Mode": "a", "Unknown": "x"}, r"\['Unknown'\] do not exist in the template"),
        ({}, r"\['Mode'\] must have values"),
    ],
)
def test_parameters_are_checked(platform: Platform, tmp_path: Path, parameters: dict[str, str], problem: str) -> None:
    declared = {
        "Mode": {"Type": "String", "AllowedValues": ["a", "b"]},
        "Count": {"Type": "Number", "Default": 1, "MaxValue": 9},
        "Names": {"Type": "CommaDelimitedList", "Default": "one", "AllowedPattern": "[a-z]+"},
    }
    path = write(tmp_path, {"Queue": {"Type": "AWS::SQS::Queue"}}, Parameters=declared)
    with pytest.raises(DeployError, match=problem):
        deploy(platform.endpoint, path, "parameters", parameters)


def test_a_mapping_needs_a_role_that_may_read_the_queue(platform: Platform, tmp_path: Path) -> None:
    code(tmp_path, "def handler(e, c): pass")
    event = {"Type": "SQS", "Properties": {"Queue": {"Fn::GetAtt": ["Queue", "Arn"]}}}
    role = {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": ROLE}}
    resources = {
        "Fn": function(Role={"Fn::GetAtt": ["Role", "Arn"]}, Events={"E": event}),
        "Role": role,
        "Queue": {"Type": "AWS::SQS::Queue"},
    }
    with pytest.raises(DeployError, match="does not have permissions to call ReceiveMessage on SQS"):
        deploy(platform.endpoint, write(tmp_path, resources), "unread", {}, cache=tmp_path / "cache")


def test_what_the_transform_refuses_is_told(platform: Platform, tmp_path: Path) -> None:
    broken = {
        "Type": "AWS::Serverless::Function",
        "Properties": {"Handler": "app.handler", "Events": {"E": {"Type": "No"}}},
    }
    with pytest.raises(DeployError, match="Transform AWS::Serverless-2016-10-31 failed with"):
        deploy(platform.endpoint, write(tmp_path, {"Fn": broken}), "broken", {})


def test_an_update_changes_code_and_policies_and_keeps_the_table(platform: Platform, tmp_path: Path) -> None:
    def deployed(answer: str, action: str) -> dict[str, str]:
        code(tmp_path, f"def handler(e, c): return {answer!r}")
        document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*"}]}
        resources = {
            "Fn": function(Role={"Fn::GetAtt": ["Role", "Arn"]}),
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "AssumeRolePolicyDocument": ROLE,
                    "Policies": [{"PolicyName": "p", "PolicyDocument": document}],
                },
            },
            "Table": {
                "Type": "AWS::DynamoDB::Table",
                "Properties": {
                    "BillingMode": "PAY_PER_REQUEST",
                    "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}],
                    "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
                    "TimeToLiveSpecification": {"AttributeName": answer, "Enabled": True},
                },
            },
        }
        outputs = {n: {"Value": {"Ref": n}} for n in resources}
        path = write(tmp_path, resources, Outputs=outputs)
        return deploy(platform.endpoint, path, "updated", {}, cache=tmp_path / "cache")

    first = deployed("one", "sqs:ListQueues")
    client(platform.endpoint, "dynamodb").put_item(TableName=first["Table"], Item={"k": {"S": "kept"}})
    assert platform.workers.invoke(first["Fn"], b"{}").payload == '"one"'

    second = deployed("two", "sqs:SendMessage")

    assert second == first
    assert platform.workers.invoke(second["Fn"], b"{}").payload == '"two"'
    assert client(platform.endpoint, "dynamodb").scan(TableName=second["Table"])["Count"] == 1
    policy = client(platform.endpoint, "iam").get_role_policy(RoleName=second["Role"], PolicyName="p")
    assert policy["PolicyDocument"]["Statement"][0]["Action"] == "sqs:SendMessage"


def test_a_resource_comes_and_goes_with_its_condition(platform: Platform, tmp_path: Path) -> None:
    """Docs: CloudFormation, "Conditions": one whose condition is false is not made; an update re-evaluates it."""
    resources = {
        "Always": {"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": {"Ref": "Seconds"}}},
        "Sometimes": {
            "Type": "AWS::SQS::Queue",
            "Condition": "Wanted",
            "Properties": {"VisibilityTimeout": {"Ref": "Seconds"}, "QueueName": {"Fn::Sub": "${AWS::StackName}-more"}},
        },
        "Never": {"Type": "AWS::SQS::QueuePolicy", "Condition": "Wanted", "Properties": {
            "Queues": [{"Ref": "Sometimes"}], "PolicyDocument": {"Statement": []}}},
    }  # fmt: skip
    declared = {"Seconds": {"Type": "Number"}, "More": {"Type": "String", "AllowedValues": ["yes", "no"]}}
    conditions = {"Wanted": {"Fn::Equals": [{"Ref": "More"}, "yes"]}}
    path = write(tmp_path, resources, Parameters=declared, Conditions=conditions)
    sqs = client(platform.endpoint, "sqs")

    def queues(seconds: str, more: str) -> set[str]:
        deploy(platform.endpoint, path, "sometimes", {"Seconds": seconds, "More": more})
        found = sqs.list_queues(QueueNamePrefix="sometimes-").get("QueueUrls", [])
        for url in found:
            attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
            assert attributes["VisibilityTimeout"] == seconds
        return {url.rpartition("/")[2].rpartition("-")[2] for url in found if url.endswith("-more")}

    assert [queues(*p) for p in (("10", "no"), ("20", "no"), ("30", "yes"), ("40", "yes"), ("50", "no"))] == [
        set(), set(), {"more"}, {"more"}, set(),
    ]  # fmt: skip


def test_a_policy_may_be_text_so_that_a_key_can_hold_a_parameter(platform: Platform, tmp_path: Path) -> None:
    text = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:*","Resource":"*","Condition":'
        '{"StringEquals":{"aws:ResourceTag/cluster/${Name}":"owned","aws:userid":"${!aws:userid}"}}}]}'
    )
    resources = {"Policy": {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": {"Fn::Sub": text}}}}
    declared = {"Name": {"Type": "String"}}
    path = write(tmp_path, resources, Parameters=declared, Outputs={"Arn": {"Value": {"Ref": "Policy"}}})
    outputs = deploy(platform.endpoint, path, "text", {"Name": "demo"})
    iam = client(platform.endpoint, "iam")
    document = iam.get_policy_version(PolicyArn=outputs["Arn"], VersionId="v1")["PolicyVersion"]["Document"]
    keys = document["Statement"][0]["Condition"]["StringEquals"]
    assert keys == {"aws:ResourceTag/cluster/demo": "owned", "aws:userid": "${aws:userid}"}


def test_deleting_a_stack_removes_all_of_it(platform: Platform, cache: Path) -> None:
    before = _inventory(platform)
    parameters = {"LambdaRuntime": this_runtime(), "BusName": "second"}
    deploy(platform.endpoint, FIXTURES / "template.yaml", "second", parameters, cache=cache)
    assert _inventory(platform) != before
    client(platform.endpoint, "cloudformation").delete_stack(StackName="second")
    assert _inventory(platform) == before


def _inventory(platform: Platform) -> dict[str, set[str]]:
    def of(service: str) -> Any:
        return client(platform.endpoint, service)

    buses = [b["Name"] for b in of("events").list_event_buses()["EventBuses"]]
    return {
        "functions": {f["FunctionName"] for f in of("lambda").list_functions()["Functions"]},
        "layers": {v["LayerName"] for v in of("lambda").list_layers()["Layers"]},
        "mappings": {m["UUID"] for m in of("lambda").list_event_source_mappings()["EventSourceMappings"]},
        "queues": set(of("sqs").list_queues().get("QueueUrls", ())),
        "tables": set(of("dynamodb").list_tables()["TableNames"]),
        "roles": {r["RoleName"] for r in of("iam").list_roles()["Roles"]},
        "policies": {p["Arn"] for p in of("iam").list_policies(Scope="Local")["Policies"]},
        "buses": set(buses),
        "rules": {r["Arn"] for bus in buses for r in of("events").list_rules(EventBusName=bus)["Rules"]},
        "pollers": set(platform.pollers.state()),
    }


def test_a_stack_that_cannot_be_deleted_says_why(platform: Platform, tmp_path: Path) -> None:
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}]}
    resources = {"Policy": {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": document}}}
    path = write(tmp_path, resources, Outputs={"Arn": {"Value": {"Ref": "Policy"}}})
    outputs = deploy(platform.endpoint, path, "held", {})
    iam, stacks = client(platform.endpoint, "iam"), client(platform.endpoint, "cloudformation")
    iam.create_role(RoleName="holder", AssumeRolePolicyDocument="{}")
    iam.attach_role_policy(RoleName="holder", PolicyArn=outputs["Arn"])

    stacks.delete_stack(StackName="held")
    assert stacks.describe_stacks(StackName="held")["Stacks"][0]["StackStatus"] == "DELETE_FAILED"
    (event, *_) = [
        e for e in stacks.describe_stack_events(StackName="held")["StackEvents"] if "FAILED" in e["ResourceStatus"]
    ]
    assert "is attached to 1 entities" in event["ResourceStatusReason"]

    iam.detach_role_policy(RoleName="holder", PolicyArn=outputs["Arn"])
    stacks.delete_stack(StackName="held")
    assert outputs["Arn"] not in {p["Arn"] for p in iam.list_policies(Scope="Local")["Policies"]}


def test_what_is_accepted_but_does_nothing_is_listed() -> None:
    assert "AWS::CloudWatch::Alarm" in INERT_TYPES
    assert all(INERT_TYPES.values())


def test_a_build_is_kept_and_equal_sources_give_equal_zips(tmp_path: Path) -> None:
    code(tmp_path, "def handler(e, c): pass")
    path = write(tmp_path, {"Fn": function()})
    (first,) = build(path, this_runtime(), tmp_path / "a")
    (other,) = build(path, this_runtime(), tmp_path / "b")
    assert first.data == other.data
    (kept,) = (tmp_path / "a").iterdir()
    kept.write_bytes(b"kept")
    assert build(path, this_runtime(), tmp_path / "a")[0].data == b"kept"
    code(tmp_path, "def handler(e, c): return 1")
    assert build(path, this_runtime(), tmp_path / "a")[0].data != b"kept"


def test_requirements_are_installed_beside_the_code(tmp_path: Path) -> None:
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "ANSWER = 42\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\n")
    code(tmp_path, "import tiny")
    (tmp_path / "code" / "requirements.txt").write_text(f"tiny @ {wheel.as_uri()}\n")
    (built,) = build(write(tmp_path, {"Fn": function()}), this_runtime(), tmp_path / "cache")
    names = zipfile.ZipFile(io.BytesIO(built.data)).namelist()
    assert {"app.py", "tiny.py"} <= set(names)


def test_a_build_that_fails_says_why(tmp_path: Path) -> None:
    layer = {
        "Type": "AWS::Serverless::LayerVersion",
        "Metadata": {"BuildMethod": "makefile"},
        "Properties": {"ContentUri": "layer"},
    }
    (tmp_path / "layer").mkdir()
    (tmp_path / "layer" / "Makefile").write_text("build-Layer:\n\techo it broke; exit 3\n")
    with pytest.raises(BuildError, match="it broke"):
        build(write(tmp_path, {"Layer": layer}), this_runtime(), tmp_path / "cache")
