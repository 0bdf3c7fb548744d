"""Stacks as the SAM CLI handles them: by change sets, from S3, with updates that change little and some that fail."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.sandbox.cloud.deploy import CAPABILITIES, deploy, this_runtime
from tests.sandbox.cloud.platform import Platform

from .conftest import FIXTURES, client, wait_for

TRUST = {
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]
}
QUEUE: dict[str, Any] = {"Queue": {"Type": "AWS::SQS::Queue"}}


def template(resources: dict[str, Any], **parts: Any) -> str:
    return json.dumps({"Resources": resources, **parts})


class Stacks:
    """What the CLI does with change sets, step by step."""

    def __init__(self, platform: Platform) -> None:
        self.api = client(platform.endpoint, "cloudformation")
        self.endpoint = platform.endpoint

    def propose(self, name: str, body: str, kind: str = "CREATE", **more: Any) -> dict[str, Any]:
        request = {"StackName": name, "ChangeSetName": f"c{time.monotonic_ns()}", "TemplateBody": body, **more}
        made = self.api.create_change_set(ChangeSetType=kind, **request)
        found: dict[str, Any] = self.api.describe_change_set(ChangeSetName=made["Id"], StackName=name)
        return found

    def apply(self, name: str, body: str, kind: str = "CREATE", **more: Any) -> str:
        change_set = self.propose(name, body, kind, **more)
        self.api.execute_change_set(ChangeSetName=change_set["ChangeSetId"], StackName=name)
        return self.status(name)

    def status(self, name: str) -> str:
        return str(self.describe(name)["StackStatus"])

    def describe(self, name: str) -> dict[str, Any]:
        (stack,) = self.api.describe_stacks(StackName=name)["Stacks"]
        return dict(stack)

    def events(self, name: str) -> list[tuple[str, str]]:
        found = self.api.describe_stack_events(StackName=name)["StackEvents"]
        return [(e["LogicalResourceId"], e["ResourceStatus"]) for e in reversed(found)]

    def refused(self, code: str, *arguments: Any, **more: Any) -> str:
        with pytest.raises(ClientError) as caught:
            self.propose(*arguments, **more)
        assert caught.value.response["Error"]["Code"] == code
        return str(caught.value.response["Error"]["Message"])


@pytest.fixture
def stacks(platform: Platform) -> Stacks:
    return Stacks(platform)


def given(**parameters: str) -> list[dict[str, str]]:
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]


def test_a_bucket_is_what_the_cli_asks_for_and_its_policy_binds_roles(platform: Platform, stacks: Stacks) -> None:
    bucket = {
        "Type": "AWS::S3::Bucket",
        "Properties": {
            "VersioningConfiguration": {"Status": "Enabled"},
            "PublicAccessBlockConfiguration": {"BlockPublicPolicy": "true", "BlockPublicAcls": "true"},
        },
    }
    plain = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": "*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    named = {
        **plain,
        "Action": "s3:GetObject",
        "Condition": {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/team/kept-out"}},
    }
    policy = {
        "Type": "AWS::S3::BucketPolicy",
        "Properties": {"Bucket": {"Ref": "Bucket"}, "PolicyDocument": {"Statement": [plain, named]}},
    }
    outputs = {"Bucket": {"Value": {"Ref": "Bucket"}}}
    assert stacks.apply("bucket", template({"Bucket": bucket, "Policy": policy}, Outputs=outputs)) == "CREATE_COMPLETE"
    name = stacks.describe("bucket")["Outputs"][0]["OutputValue"]
    s3 = client(platform.endpoint, "s3")
    assert s3.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
    blocked = s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
    assert blocked["BlockPublicPolicy"] is True
    assert blocked["RestrictPublicBuckets"] is False
    s3.put_object(Bucket=name, Key="k", Body=b"content")

    iam = client(platform.endpoint, "iam")
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    for role, path in (("let-in", "/"), ("kept-out", "/team/")):
        arn = iam.create_role(RoleName=role, Path=path, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        iam.put_role_policy(RoleName=role, PolicyName="p", PolicyDocument=json.dumps(allow))
        session = platform.identity.credentials_for_function("any", arn)
        reader = client(platform.endpoint, "s3", session)
        if role == "let-in":
            assert reader.get_object(Bucket=name, Key="k")["Body"].read() == b"content"
        else:
            with pytest.raises(ClientError, match="explicit deny in a resource-based policy"):
                reader.get_object(Bucket=name, Key="k")


def test_who_may_not_list_a_bucket_is_not_told_that_an_object_is_gone(platform: Platform) -> None:
    """S3 API Reference, GetObject, Permissions: NoSuchKey with s3:ListBucket, AccessDenied without."""
    here: Any = {"LocationConstraint": "eu-west-1"}
    client(platform.endpoint, "s3").create_bucket(Bucket="kept", CreateBucketConfiguration=here)
    iam = client(platform.endpoint, "iam")
    for role, actions in (("may-list", ["s3:GetObject", "s3:ListBucket"]), ("may-not", ["s3:GetObject"])):
        arn = iam.create_role(RoleName=role, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        iam.put_role_policy(RoleName=role, PolicyName="p", PolicyDocument=json.dumps(allow))
        session = platform.identity.credentials_for_function("any", arn)
        with pytest.raises(ClientError) as error:
            client(platform.endpoint, "s3", session).get_object(Bucket="kept", Key="gone")
        assert error.value.response["Error"]["Code"] == ("NoSuchKey" if role == "may-list" else "AccessDenied")


def test_a_bucket_that_is_not_empty_is_not_deleted(platform: Platform, stacks: Stacks) -> None:
    stacks.apply("full", template({"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "full-one"}}}))
    s3 = client(platform.endpoint, "s3")
    s3.put_object(Bucket="full-one", Key="k", Body=b"")
    stacks.api.delete_stack(StackName="full")
    assert stacks.status("full") == "DELETE_FAILED"
    s3.delete_object(Bucket="full-one", Key="k")
    stacks.api.delete_stack(StackName="full")
    assert "full-one" not in {b["Name"] for b in s3.list_buckets()["Buckets"]}


def test_the_template_is_given_back_as_it_came_and_as_it_was_made(stacks: Stacks, platform: Platform) -> None:
    body = (FIXTURES / "template.yaml").read_text().replace("CodeUri: functions", "CodeUri: s3://artifacts/code #")
    body = body.replace("ContentUri: layers/shared", "ContentUri: s3://artifacts/layer")
    # never executed: the code is nowhere
    stacks.propose("original", body, Parameters=given(BusName="original"), Capabilities=CAPABILITIES)
    path = FIXTURES / "template.yaml"
    deploy(platform.endpoint, path, "stages", {"LambdaRuntime": this_runtime(), "BusName": "stages"})
    submitted = stacks.api.get_template(StackName="stages", TemplateStage="Original")["TemplateBody"]
    processed = stacks.api.get_template(StackName="stages")["TemplateBody"]
    assert submitted["Resources"]["Record"]["Type"] == "AWS::Serverless::Function"
    assert submitted["Resources"]["Record"]["Properties"]["CodeUri"].startswith("s3://")
    assert processed["Resources"]["Record"]["Type"] == "AWS::Lambda::Function"
    stacks.api.delete_stack(StackName="stages")


def test_a_change_set_that_nobody_executed_is_taken_up_again(stacks: Stacks) -> None:
    stacks.propose("twice", template(QUEUE))
    assert stacks.status("twice") == "REVIEW_IN_PROGRESS"
    assert stacks.apply("twice", template(QUEUE)) == "CREATE_COMPLETE"
    message = stacks.refused("ValidationError", "twice", template(QUEUE))
    assert "already exists and cannot be created again" in message


def test_a_change_set_without_changes_fails_as_the_cli_expects(stacks: Stacks) -> None:
    declared = {"Names": {"Type": "CommaDelimitedList"}}
    body = template(QUEUE, Parameters=declared)
    stacks.apply("same", body, Parameters=given(Names="a,b"))
    previous = [{"ParameterKey": "Names", "UsePreviousValue": True}]
    for parameters in (given(Names="a,b"), previous):
        change_set = stacks.propose("same", body, "UPDATE", Parameters=parameters)
        assert change_set["Status"] == "FAILED"
        assert "didn't contain changes" in change_set["StatusReason"]
    assert stacks.describe("same")["Parameters"] == given(Names="a,b")
    with pytest.raises(ClientError, match="No updates are to be performed"):
        stacks.api.update_stack(StackName="same", TemplateBody=body, Parameters=previous)


def test_a_parameter_reaches_every_resource_that_it_is_part_of(stacks: Stacks, platform: Platform) -> None:
    declared = {"Minutes": {"Type": "Number"}, "Boundary": {"Type": "String", "Default": ""}}
    conditions = {"Bounded": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Boundary"}, ""]}]}}
    rule = {"ScheduleExpression": {"Fn::Sub": "rate(${Minutes} minutes)"}}
    bounded = {"Fn::If": ["Bounded", {"Ref": "Boundary"}, {"Ref": "AWS::NoValue"}]}
    role = {"RoleName": "bounded", "AssumeRolePolicyDocument": TRUST, "PermissionsBoundary": bounded}
    resources = {
        "Rule": {"Type": "AWS::Events::Rule", "Properties": {"Name": "often", **rule}},
        "Role": {"Type": "AWS::IAM::Role", "Properties": role},
        "Other": {"Type": "AWS::SQS::Queue"},
    }
    body = template(resources, Parameters=declared, Conditions=conditions)
    more: dict[str, Any] = {"Capabilities": ["CAPABILITY_NAMED_IAM"]}
    stacks.apply("reaches", body, Parameters=given(Minutes="5"), **more)
    read_only = "arn:aws:iam::aws:policy/ReadOnlyAccess"
    update = stacks.propose("reaches", body, "UPDATE", Parameters=given(Minutes="7", Boundary=read_only), **more)
    changed = {c["ResourceChange"]["LogicalResourceId"]: c["ResourceChange"]["Action"] for c in update["Changes"]}
    assert changed == {"Rule": "Modify", "Role": "Modify"}
    stacks.api.execute_change_set(ChangeSetName=update["ChangeSetId"])
    assert client(platform.endpoint, "events").describe_rule(Name="often")["ScheduleExpression"] == "rate(7 minutes)"
    found = client(platform.endpoint, "iam").get_role(RoleName="bounded")["Role"]
    assert found["PermissionsBoundary"]["PermissionsBoundaryArn"] == read_only


def test_a_changed_rule_is_the_same_rule(stacks: Stacks, platform: Platform) -> None:
    def body(minutes: int) -> str:
        rule = {"Type": "AWS::Events::Rule", "Properties": {"ScheduleExpression": f"rate({minutes} minutes)"}}
        return template({"Rule": rule}, Outputs={"Arn": {"Value": {"Fn::GetAtt": ["Rule", "Arn"]}}})

    stacks.apply("rule", body(5))
    before = stacks.describe("rule")["Outputs"]
    stacks.apply("rule", body(7), "UPDATE")
    assert stacks.describe("rule")["Outputs"] == before
    name = before[0]["OutputValue"].rpartition("/")[2]
    assert client(platform.endpoint, "events").describe_rule(Name=name)["ScheduleExpression"] == "rate(7 minutes)"


def test_an_update_that_fails_leaves_all_as_it_was(stacks: Stacks, platform: Platform) -> None:
    def body(seconds: int, **more: Any) -> str:
        queue = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "stays", "VisibilityTimeout": seconds}}
        return template({"Queue": queue, **more})

    mapping = {"EventSourceArn": "arn:aws:sqs:eu-west-1:123456789012:nowhere", "FunctionName": "nothing"}
    kept = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "kept-on"}}
    stacks.apply("back", body(30, Kept=kept))
    broken = {"Added": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "added"}}}
    broken["Mapping"] = {"Type": "AWS::Lambda::EventSourceMapping", "Properties": mapping}
    assert stacks.apply("back", body(60, **broken), "UPDATE") == "UPDATE_ROLLBACK_COMPLETE"
    assert ("Mapping", "UPDATE_FAILED") in stacks.events("back")
    sqs = client(platform.endpoint, "sqs")
    names = {url.rpartition("/")[2] for url in sqs.list_queues()["QueueUrls"]}
    assert {"stays", "kept-on"} <= names
    assert "added" not in names
    url = sqs.get_queue_url(QueueName="stays")["QueueUrl"]
    assert sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]["VisibilityTimeout"] == "30"

    assert stacks.apply("back", body(45), "UPDATE") == "UPDATE_COMPLETE"
    assert "kept-on" not in {url.rpartition("/")[2] for url in sqs.list_queues()["QueueUrls"]}
    assert stacks.apply("back", body(45, Kept=kept), "UPDATE") == "UPDATE_COMPLETE"
    assert "kept-on" in {url.rpartition("/")[2] for url in sqs.list_queues()["QueueUrls"]}


def test_a_resource_that_is_to_be_kept_outlives_its_place_in_the_template(stacks: Stacks, platform: Platform) -> None:
    kept = {
        "Type": "AWS::SQS::Queue",
        "DeletionPolicy": "RetainExceptOnCreate",
        "Properties": {"QueueName": "outlives"},
    }
    stacks.apply("outliving", template({**QUEUE, "Kept": kept}))
    stacks.apply("outliving", template(QUEUE), "UPDATE")
    assert client(platform.endpoint, "sqs").get_queue_url(QueueName="outlives")


def test_the_events_tell_of_each_resource(stacks: Stacks) -> None:
    kept = {"Type": "AWS::SQS::Queue", "DeletionPolicy": "Retain"}
    stacks.apply("told", template({**QUEUE, "Kept": kept}))
    stack_id = stacks.describe("told")["StackId"]
    assert {("Queue", "CREATE_COMPLETE"), ("Kept", "CREATE_COMPLETE")} <= set(stacks.events("told"))
    stacks.api.delete_stack(StackName="told")
    assert {("Queue", "DELETE_COMPLETE"), ("Kept", "DELETE_SKIPPED")} <= set(stacks.events(stack_id))


def test_a_stack_that_never_came_up_can_only_be_deleted(stacks: Stacks) -> None:
    policy = {"Type": "AWS::SQS::QueuePolicy", "Properties": {"Queues": ["http://x/nowhere"], "PolicyDocument": {}}}
    assert stacks.apply("never", template({"Policy": policy})) == "ROLLBACK_COMPLETE"
    assert "ROLLBACK_COMPLETE state and can not be updated" in stacks.refused(
        "ValidationError", "never", template(QUEUE), "UPDATE"
    )
    stacks.api.delete_stack(StackName="never")
    assert stacks.apply("never", template(QUEUE)) == "CREATE_COMPLETE"


@pytest.mark.parametrize(
    ("name", "given_capabilities", "missing"),
    [
        (None, [], "CAPABILITY_IAM"),
        (None, ["CAPABILITY_IAM"], None),
        (None, ["CAPABILITY_NAMED_IAM"], None),
        ("named", ["CAPABILITY_IAM"], "CAPABILITY_NAMED_IAM"),
    ],
)
def test_identities_are_made_only_with_the_callers_word(
    stacks: Stacks, name: str | None, given_capabilities: list[str], missing: str | None
) -> None:
    properties = {"AssumeRolePolicyDocument": TRUST, **({"RoleName": name} if name else {})}
    body = template({"Role": {"Type": "AWS::IAM::Role", "Properties": properties}})
    if missing:
        message = stacks.refused("InsufficientCapabilitiesException", "word", body, Capabilities=given_capabilities)
        assert message == f"Requires capabilities : [{missing}]"
    else:
        assert stacks.propose("word", body, Capabilities=given_capabilities)["Status"] == "CREATE_COMPLETE"


def test_the_transform_without_a_change_set_needs_a_word_too(stacks: Stacks) -> None:
    body = template(QUEUE, Transform="AWS::Serverless-2016-10-31")
    with pytest.raises(ClientError, match="CAPABILITY_AUTO_EXPAND"):
        stacks.api.create_stack(StackName="expanded", TemplateBody=body)
    stacks.api.create_stack(StackName="expanded", TemplateBody=body, Capabilities=["CAPABILITY_AUTO_EXPAND"])


def test_a_boundary_must_exist_and_limits_what_its_role_may(platform: Platform, stacks: Stacks) -> None:
    def role(boundary: Any) -> dict[str, Any]:
        statement = {"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}
        document = {"Version": "2012-10-17", "Statement": [statement]}
        properties = {
            "RoleName": "limited",
            "Path": "/team/",
            "AssumeRolePolicyDocument": TRUST,
            "PermissionsBoundary": boundary,
            "Policies": [{"PolicyName": "all", "PolicyDocument": document}],
        }
        return {"Type": "AWS::IAM::Role", "Properties": properties}

    more: dict[str, Any] = {"Capabilities": ["CAPABILITY_NAMED_IAM"]}
    missing = template({"Role": role("arn:aws:iam::123456789012:policy/none")})
    assert stacks.apply("bounds", missing, **more) == "ROLLBACK_COMPLETE"
    stacks.api.delete_stack(StackName="bounds")

    statements = [
        {"Effect": "Allow", "Action": "sqs:ListQueues", "Resource": "*"},
        {"Effect": "Deny", "Action": "sqs:SendMessage", "Resource": "*"},
    ]
    document = {"Version": "2012-10-17", "Statement": statements}
    boundary = {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": document}}
    body = template({"Boundary": boundary, "Role": role({"Ref": "Boundary"})})
    assert stacks.apply("bounds", body, **more) == "CREATE_COMPLETE"
    arn = "arn:aws:iam::123456789012:role/team/limited"
    assert platform.authorizer.role_may(arn, "sqs:ListQueues", "*")
    assert not platform.authorizer.role_may(arn, "sqs:CreateQueue", "*")
    assert not platform.authorizer.role_may(arn, "sqs:SendMessage", "*")
    assert client(platform.endpoint, "iam").get_role(RoleName="limited")["Role"]["Arn"] == arn


def test_a_function_tells_its_log_group(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text("def handler(e, c): pass")
    function = {"CodeUri": "code", "Handler": "app.handler", "Runtime": this_runtime()}
    resources = {
        "Plain": {"Type": "AWS::Serverless::Function", "Properties": function},
        "Own": {
            "Type": "AWS::Serverless::Function",
            "Properties": {**function, "LoggingConfig": {"LogGroup": "own-group"}},
        },
    }
    outputs = {n: {"Value": {"Ref": n}} for n in resources}
    path = tmp_path / "template.yaml"
    path.write_text(template(resources, Transform="AWS::Serverless-2016-10-31", Outputs=outputs))
    names = deploy(platform.endpoint, path, "groups", {}, cache=tmp_path / "cache")
    functions = client(platform.endpoint, "lambda")
    own = functions.get_function_configuration(FunctionName=names["Own"])["LoggingConfig"]
    plain = functions.get_function_configuration(FunctionName=names["Plain"])["LoggingConfig"]
    assert own == {"LogFormat": "Text", "LogGroup": "own-group"}
    assert plain == {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{names['Plain']}"}


def test_a_function_that_still_runs_does_not_bring_its_deleted_log_group_back(
    platform: Platform, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text("def handler(e, c): print('line')")
    statement = {"Effect": "Allow", "Action": ["logs:CreateLogStream", "logs:PutLogEvents"], "Resource": "*"}
    policy = {"PolicyName": "logs", "PolicyDocument": {"Version": "2012-10-17", "Statement": [statement]}}
    role = {"AssumeRolePolicyDocument": TRUST, "Policies": [policy]}
    function = {
        "CodeUri": "code",
        "Handler": "app.handler",
        "Runtime": this_runtime(),
        "Role": {"Fn::GetAtt": ["Role", "Arn"]},
        "LoggingConfig": {"LogGroup": {"Ref": "Logs"}},
    }
    resources = {
        "Fn": {"Type": "AWS::Serverless::Function", "Properties": function},
        "Role": {"Type": "AWS::IAM::Role", "Properties": role},
        "Logs": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "gone-for-good"}},
    }
    path = tmp_path / "template.yaml"
    outputs = {"Fn": {"Value": {"Ref": "Fn"}}}
    path.write_text(template(resources, Transform="AWS::Serverless-2016-10-31", Outputs=outputs))
    name = deploy(platform.endpoint, path, "logs", {}, cache=tmp_path / "cache")["Fn"]
    logs = client(platform.endpoint, "logs")

    def lines() -> list[str]:
        return [e["message"] for e in logs.filter_log_events(logGroupName="gone-for-good")["events"]]

    platform.workers.invoke(name, b"{}")
    wait_for(lambda: "line" in lines() or None)
    logs.delete_log_group(logGroupName="gone-for-good")
    platform.workers.invoke(name, b"{}")
    # the marker goes through the same queue of lines, so the function's own have been handled when it shows
    logs.create_log_group(logGroupName="marker")
    platform.workers._logs.write("marker", "marker", "marker", "marker")
    wait_for(lambda: logs.filter_log_events(logGroupName="marker")["events"] or None)
    assert not logs.describe_log_groups(logGroupNamePrefix="gone-for-good")["logGroups"]
