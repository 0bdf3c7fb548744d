"""The stack's parameters: grouped, explained, with defaults that are safe; roles take a path and a boundary."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.cloud.cfn_template import transformed

ROOT = Path(__file__).parents[3]
# as after `sam package`: the transform wants code in S3
TEMPLATE = re.sub(r"(CodeUri|ContentUri): ", r"\1: s3://artifacts/", (ROOT / "template.yaml").read_text())
BOUNDARY = "arn:aws:iam::123456789012:policy/team/boundary"


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return expanded()


def expanded(**parameters: str) -> dict[str, Any]:
    """The template as CloudFormation sees it, after the transform."""
    return transformed(TEMPLATE, {"ClusterNames": "demo", **parameters})[0]


def test_every_parameter_is_in_one_group(template: dict[str, Any]) -> None:
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    assert sorted(grouped) == sorted(template["Parameters"])
    assert all(group["Label"]["default"] for group in groups)


def test_every_parameter_is_explained_in_the_template_and_in_the_documentation(template: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for name, parameter in template["Parameters"].items():
        assert parameter.get("Description"), name
        assert f"`{name}`" in page, name


def test_only_the_clusters_have_no_default(template: dict[str, Any]) -> None:
    assert [n for n, p in template["Parameters"].items() if "Default" not in p] == ["ClusterNames"]


def test_values_that_make_no_sense_are_refused_before_anything_is_made(template: dict[str, Any]) -> None:
    limits = {"AllowedValues", "AllowedPattern", "MinValue"}
    unlimited = [n for n, p in template["Parameters"].items() if not limits & p.keys()]
    assert unlimited == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RolePath", "team/"),
        ("RolePath", "/team"),
        ("RolePath", "//"),
        ("PermissionsBoundaryArn", "boundary"),
        ("PermissionsBoundaryArn", "arn:aws:iam::123456789012:role/boundary"),
    ],
)
def test_a_path_or_boundary_that_iam_would_refuse_is_refused(name: str, value: str) -> None:
    with pytest.raises(Exception, match=f"'{name}' must match pattern"):
        expanded(**{name: value})


@pytest.mark.parametrize("path", ["/", "/team/", "/team/network/"])
def test_every_role_and_policy_takes_the_path_and_every_role_the_boundary(path: str) -> None:
    template = expanded(RolePath=path, PermissionsBoundaryArn=BOUNDARY)
    roles = [r["Properties"] for r in template["Resources"].values() if r["Type"] == "AWS::IAM::Role"]
    policies = [r["Properties"] for r in template["Resources"].values() if r["Type"] == "AWS::IAM::ManagedPolicy"]
    assert len(roles) == 7  # none that the transform made without them
    assert all(p["Path"] == {"Ref": "RolePath"} for p in roles + policies)
    bounded = {"Fn::If": ["HasPermissionsBoundary", {"Ref": "PermissionsBoundaryArn"}, {"Ref": "AWS::NoValue"}]}
    assert all(r["PermissionsBoundary"] == bounded for r in roles)
