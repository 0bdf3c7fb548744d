"""Lambda's file system for a function, as far as imports see it: runtime, layer and function, each a folder.

The runtime brings boto3 and what it depends upon, compiled, and nothing else; in particular not the AWS Common Runtime,
which is an optional dependency (AWS Lambda developer guide, "Building Lambda functions with Python"). Layer and
functions are what the template's build makes of them.
"""

from __future__ import annotations

import compileall
import importlib.util
import io
import os
import shutil
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from samtranslator.yaml_helper import yaml_parse

from tests.sandbox.cloud.deploy import CACHE, this_runtime
from tests.sandbox.cloud.packaging import build

__all__ = ["Place", "prepare"]

ROOT: Final = Path(__file__).resolve().parents[3]
_RUNTIME: Final = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six")
_FIXED: Final = {
    "CLUSTER_NAMES": "demo",
    "TABLE_NAME": "nodes",
    "NODE_EVENTS_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/123456789012/node-events",
    "NODE_REPORTS_QUEUE_ARN": "arn:aws:sqs:eu-west-1:123456789012:node-reports",
    "BUS_NAME": "berth",
    "INSTANCE_ARN_PREFIX": "arn:aws:ec2:eu-west-1:123456789012:instance/",
    "BUDGET_TABLE_NAME": "budget",
    "BRAKE_PARAMETER": "/berth/brake",
}
_ACCOUNT: Final = {
    "AWS_REGION": "eu-west-1",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "token",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PATH": os.defpath,
}
"""What Lambda sets. The folders are read-only there, so nothing is compiled for the next start."""


@dataclass(frozen=True, slots=True)
class Place:
    """``functions`` gives each function's folder and environment by its folder's name."""

    runtime: Path
    layer: Path
    functions: Mapping[str, tuple[Path, Mapping[str, str]]]

    def environment(self, function: str | None) -> dict[str, str]:
        """A process's environment: of a function, or (None) of a plain script on the runtime alone."""
        if function is None:
            return {**_ACCOUNT, "PYTHONPATH": str(self.runtime)}
        folder, variables = self.functions[function]
        return {**_ACCOUNT, **variables, "PYTHONPATH": os.pathsep.join(map(str, (folder, self.layer, self.runtime)))}


def prepare(target: Path) -> Place:
    """Build everything into ``target``, anew."""
    shutil.rmtree(target, ignore_errors=True)
    runtime = target / "runtime"
    for name in _RUNTIME:
        _copy(name, runtime)
    compileall.compile_dir(runtime, quiet=2)
    for artifact in build(ROOT / "template.yaml", this_runtime(), CACHE):
        with zipfile.ZipFile(io.BytesIO(artifact.data)) as archive:
            archive.extractall(target / artifact.logical_id)
    template = yaml_parse((ROOT / "template.yaml").read_text())
    functions = {
        Path(resource["Properties"]["CodeUri"]).name: (target / logical_id, _variables(template, resource))
        for logical_id, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    }
    return Place(runtime, target / "BerthLayer" / "python", functions)


def _copy(name: str, target: Path) -> None:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise SystemExit(f"{name} is not installed in {sys.prefix}: run `make setup`")
    source = Path(found.origin)
    if source.name == "__init__.py":
        shutil.copytree(source.parent, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target / source.name)


def _variables(template: Mapping[str, Any], resource: Mapping[str, Any]) -> dict[str, str]:
    """A function's environment: names from the template; a parameter's default, or what a deployment would put in."""
    named: dict[str, Any] = {}
    for holder in (template["Globals"]["Function"], resource["Properties"]):
        named |= holder.get("Environment", {}).get("Variables", {})
    parameters = template["Parameters"]

    def value(name: str, given: Any) -> str:
        reference = given.get("Ref") if isinstance(given, dict) else None
        default = parameters.get(reference, {}).get("Default", "") if reference else given
        return _FIXED.get(name, str(default) if isinstance(default, str | int) else "")

    return {name: value(name, given) for name, given in named.items()}
