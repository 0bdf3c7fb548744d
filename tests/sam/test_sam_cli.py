"""From ``sam validate`` to ``sam delete``, as a user goes: the tests are steps, in this order, in one account."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, Project
from .inventory import Inventory, inventory

CLI_STACK = "aws-sam-cli-managed-default"
"""Made once in an account by the CLI's ``--resolve-s3``, for all stacks; the CLI never deletes it."""


@dataclass(frozen=True)
class Deployed:
    """The dev stage, and what the account held before it."""

    before: Inventory
    printed: str
    outputs: dict[str, str]


@pytest.fixture(scope="module")
def built(project: Project) -> Path:
    project.build()
    return project.folder / ".aws-sam" / "build"


@pytest.fixture(scope="module")
def deployed(project: Project, built: Path) -> Deployed:
    before = inventory(project.client)
    printed = project.deploy()
    return Deployed(before, printed, project.outputs())


@pytest.fixture
def prod(project: Project, deployed: Deployed) -> Iterator[dict[str, str]]:
    """The prod stage beside dev, in an account that grants by path and bounds its roles."""
    iam = project.client("iam")
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    boundary = iam.create_policy(PolicyName="boundary", Path="/team/", PolicyDocument=document)["Policy"]["Arn"]
    project.deploy("prod", "--no-confirm-changeset", RolePath="/team/berth/", PermissionsBoundaryArn=boundary)
    yield {**project.outputs("prod"), "boundary": boundary}
    # its tables outlive the stack, and are nobody's now
    outputs = project.outputs("prod")
    project.sam("delete", "--config-env", "prod", "--no-prompts")
    for name in ("TableName", "LedgerTableName"):
        project.client("dynamodb").delete_table(TableName=outputs[name])
    iam.delete_policy(PolicyArn=boundary)


def until(check: Callable[[], Any], seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"nothing after {seconds} s"
        time.sleep(0.1)
    return found


def without_objects(held: Inventory) -> Inventory:
    return {kind: names for kind, names in held.items() if kind != "object"}


def test_the_template_is_valid(project: Project) -> None:
    assert "is a valid SAM Template" in project.sam("validate", "--lint")


def test_the_build_holds_the_functions_and_one_layer_for_all(built: Path) -> None:
    assert (built / "ReconcileNodes" / "app.py").exists()
    assert (built / "Sweep" / "app.py").exists()
    layer = built / "BerthLayer"
    assert [entry.name for entry in layer.iterdir()] == ["python"]
    assert (layer / "python" / "berth" / "contract.py").exists()
    assert (layer / "python" / "aws_lambda_powertools").is_dir()
    assert not list(layer.rglob("*.so"))
    assert list(layer.rglob("*.pyc")), "what is not compiled here is compiled at each cold start"


def test_the_layer_builds_where_there_is_neither_uv_nor_pip(tmp_path: Path, project: Project) -> None:
    bare = tmp_path / "bare"
    subprocess.run([f"{ROOT}/.venv/bin/python", "-m", "venv", "--without-pip", str(bare)], check=True)
    environ = {**project.environ, "PATH": f"{bare}/bin:/usr/bin:/bin", "ARTIFACTS_DIR": str(tmp_path / "artifacts")}
    command = ["make", "--directory", str(project.folder / "layers" / "berth"), "build-BerthLayer"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [entry.name for entry in (tmp_path / "artifacts").iterdir()] == ["python"]
    assert (tmp_path / "artifacts" / "python" / "aws_lambda_powertools").is_dir()


def test_the_deployment_tells_of_each_resource(deployed: Deployed) -> None:
    assert "Successfully created/updated stack - berth-dev" in deployed.printed
    assert "AWS::Lambda::Function" in deployed.printed
    assert set(deployed.outputs) >= {"TableName", "NodeReportsQueueUrl", "NodePolicyArn", "BusName"}
    assert deployed.outputs["BusName"] == "berth-dev"


def test_the_stack_lists_its_resources(project: Project, deployed: Deployed) -> None:
    found = {r["LogicalResourceId"]: r["PhysicalResourceId"] for r in project.json("list", "resources")}
    assert found["NodeTable"] == deployed.outputs["TableName"]
    assert found["ReconcileNodes"] == deployed.outputs["ReconcileFunctionName"]
    assert found["NodePolicy"] == deployed.outputs["NodePolicyArn"]


@pytest.mark.parametrize(
    ("function", "event", "answer"),
    [
        ("Sweep", "scheduled-sweep.json", None),
        ("ReconcileNodes", "node-look-requested.json", {"batchItemFailures": []}),
        ("ReconcileNodes", "instance-state-change.json", {"batchItemFailures": []}),
        ("ReconcileNodes", "launch-lifecycle-action.json", {"batchItemFailures": []}),
        ("ReconcileNodes", "node-capacity-requested.json", {"batchItemFailures": []}),
    ],
)
def test_a_file_of_events_can_be_invoked(
    project: Project, deployed: Deployed, function: str, event: str, answer: Any
) -> None:
    outcome = project.json("remote", "invoke", function, "--event-file", f"events/{event}")
    assert outcome["StatusCode"] == 200
    assert "FunctionError" not in outcome
    if answer is not None:
        assert json.loads(outcome["Payload"]) == answer


def test_the_logs_show_what_the_functions_did(project: Project, deployed: Deployed) -> None:
    project.sam("remote", "invoke", "Sweep", "--event-file", "events/scheduled-sweep.json")
    assert "swept" in until(lambda: project.sam("logs", "--name", "Sweep"))


def test_another_deployment_of_the_same_changes_nothing(project: Project, deployed: Deployed) -> None:
    assert "No changes to deploy" in project.deploy()


def test_a_changed_function_and_a_changed_parameter_are_deployed_again(project: Project, deployed: Deployed) -> None:
    functions, iam = project.client("lambda"), project.client("iam")
    before = inventory(project.client)
    kept = functions.get_function(FunctionName=deployed.outputs["ReconcileFunctionName"])["Configuration"]
    source = project.folder / "functions" / "sweep" / "app.py"
    source.write_text(
        source.read_text() + "\n\ndef other(event, context):\n    return 'changed'\n\n\nhandler = other\n"
    )
    project.build()
    printed = project.deploy(SweepMinutes="7")
    assert "UPDATE_COMPLETE" in printed
    assert "CREATE_COMPLETE" not in printed
    outcome = project.json("remote", "invoke", "Sweep", "--event", "{}")
    assert json.loads(outcome["Payload"]) == "changed"
    (rule,) = [r for r in project.client("events").list_rules()["Rules"] if "SweepRule" in r["Name"]]
    assert rule["ScheduleExpression"] == "rate(7 minutes)"
    again = functions.get_function(FunctionName=deployed.outputs["ReconcileFunctionName"])["Configuration"]
    assert again["CodeSha256"] == kept["CodeSha256"]
    assert project.outputs() == deployed.outputs
    assert without_objects(inventory(project.client)) == without_objects(before)
    assert iam.get_role(RoleName=_role(again))["Role"]["Path"] == "/"


def test_a_changed_layer_replaces_the_one_before(project: Project, deployed: Deployed) -> None:
    before = inventory(project.client)["layer version"]
    source = project.folder / "layers" / "berth" / "berth" / "__init__.py"
    source.write_text(source.read_text() + "\nCHANGED = True\n")
    project.build()
    project.deploy(SweepMinutes="7")
    (layer,) = inventory(project.client)["layer version"]
    assert {layer} != before
    for name in ("ReconcileFunctionName", "SweepFunctionName"):
        function = project.client("lambda").get_function_configuration(FunctionName=deployed.outputs[name])
        assert [used["Arn"] for used in function["Layers"]] == [layer]


def test_prod_stands_beside_dev_with_a_path_and_a_boundary(
    project: Project, deployed: Deployed, prod: dict[str, str]
) -> None:
    assert prod["BusName"] == "berth"
    assert prod["TableName"] != deployed.outputs["TableName"]
    assert ":policy/team/berth/" in prod["NodePolicyArn"]
    for name in ("ReconcileFunctionName", "SweepFunctionName"):
        function = project.client("lambda").get_function_configuration(FunctionName=prod[name])
        role = project.client("iam").get_role(RoleName=_role(function))["Role"]
        assert role["Path"] == "/team/berth/"
        assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == prod["boundary"]
    (stack,) = project.client("cloudformation").describe_stacks(StackName="berth")["Stacks"]
    assert stack["Tags"] == [{"Key": "stage", "Value": "prod"}]
    event = ("--event-file", "events/node-look-requested.json")
    outcome = project.json("remote", "invoke", "ReconcileNodes", "--config-env", "prod", *event)
    assert json.loads(outcome["Payload"]) == {"batchItemFailures": []}


def test_staging_is_accepted_as_it_is_configured(project: Project, deployed: Deployed) -> None:
    printed = project.deploy("staging", "--no-execute-changeset")
    assert "Changeset created successfully" in printed
    # what was proposed and never made is not for `sam delete`
    project.client("cloudformation").delete_stack(StackName="berth-staging")
    s3 = project.client("s3")
    (bucket,) = inventory(project.client)["bucket"]
    keys = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix="berth-staging/")["Contents"]]
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})


def test_a_value_that_the_template_refuses_changes_nothing(project: Project, deployed: Deployed) -> None:
    before = inventory(project.client)
    printed = project.sam("deploy", *project.parameters("default", RolePath="no-slash"), fails=True)
    assert "RolePath" in printed
    assert without_objects(inventory(project.client)) == without_objects(before)


def test_after_the_delete_only_the_node_table_and_the_ledger_are_left(project: Project, deployed: Deployed) -> None:
    assert all(key.startswith("berth-dev/") for key in inventory(project.client)["object"])
    assert "Deleted successfully" in project.sam("delete", "--no-prompts")
    left = inventory(project.client)
    (bucket,) = left.pop("bucket")
    assert bucket.startswith(CLI_STACK)
    assert left.pop("stack") == {CLI_STACK}
    # RetainExceptOnCreate: revisions never go back, and who had an address is asked long after
    assert left.pop("table") == {deployed.outputs["TableName"], deployed.outputs["LedgerTableName"]}
    assert left == deployed.before
    assert project.platform.pollers.state() == {}
    assert "does not exist" in project.sam("list", "resources", fails=True)


def _role(function: dict[str, Any]) -> str:
    return str(function["Role"]).rpartition("/")[2]
