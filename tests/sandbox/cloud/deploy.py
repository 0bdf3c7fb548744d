"""What ``sam deploy`` does: builds, uploads to S3, and creates or updates a stack through CloudFormation's API."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from .identity import ACCOUNT, ADMIN_KEY, REGION
from .packaging import Artifact, build, packaged

__all__ = ["DeployError", "deploy", "this_runtime"]

BUCKET: Final = f"berth-artifacts-{ACCOUNT}-{REGION}"
CACHE: Final = Path(__file__).resolve().parents[3] / "build" / "sam-cache"
CAPABILITIES: Final = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
_INLINE_BYTES: Final = 51_200
"""Longer templates go by S3 (CloudFormation quotas, "Template body size in a request")."""

Progress = Callable[[str], None]


class DeployError(RuntimeError):
    """The stack did not come up. The message names the resource that failed, and why."""


def this_runtime() -> str:
    """The Lambda runtime that this interpreter can stand for."""
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def deploy(
    endpoint: str,
    template_path: Path,
    stack_name: str,
    parameters: Mapping[str, str],
    *,
    session: boto3.Session | None = None,
    progress: Progress = lambda _: None,
    cache: Path = CACHE,
) -> dict[str, str]:
    """Build and deploy ``template_path`` and return the stack's outputs.

    ``session`` defaults to the sandbox's administrator. Raises :class:`DeployError`, or ``BuildError`` from building.
    """
    session = session or boto3.Session(aws_access_key_id=ADMIN_KEY, aws_secret_access_key=ADMIN_KEY, region_name=REGION)
    config = Config(retries={"mode": "standard", "max_attempts": 1}, read_timeout=120)
    s3 = session.client("s3", endpoint_url=endpoint, config=config)
    stacks = session.client("cloudformation", endpoint_url=endpoint, config=config)
    artifacts = build(template_path, parameters.get("LambdaRuntime", this_runtime()), cache, progress)
    progress("upload")
    _upload(s3, artifacts)
    body = packaged(template_path, BUCKET, artifacts)
    where = {"TemplateBody": body} if len(body) <= _INLINE_BYTES else {"TemplateURL": _put_template(s3, endpoint, body)}
    progress(f"stack {stack_name}")
    try:
        return _apply(stacks, stack_name, where, parameters)
    except ClientError as error:
        raise DeployError(f"{stack_name}: {error.response['Error'].get('Message', error)}") from error


def _upload(s3: Any, artifacts: list[Artifact]) -> None:
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    for artifact in artifacts:
        s3.put_object(Bucket=BUCKET, Key=artifact.key, Body=artifact.data)


def _put_template(s3: Any, endpoint: str, body: str) -> str:
    s3.put_object(Bucket=BUCKET, Key="template.json", Body=body.encode())
    return f"{endpoint}/{BUCKET}/template.json"


def _apply(stacks: Any, name: str, where: Mapping[str, str], parameters: Mapping[str, str]) -> dict[str, str]:
    given = [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()]
    request = {"StackName": name, "Parameters": given, "Capabilities": CAPABILITIES, **where}
    if _status(stacks, name) is None:
        stacks.create_stack(**request)
    else:
        with _unchanged_is_fine():
            stacks.update_stack(**request)
    stack = _settled(stacks, name)
    if stack["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise DeployError(f"{name} is {stack['StackStatus']}: {_reason(stacks, name)}")
    return {o["OutputKey"]: o["OutputValue"] for o in stack.get("Outputs", [])}


@contextlib.contextmanager
def _unchanged_is_fine() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise


def _status(stacks: Any, name: str) -> str | None:
    try:
        found = stacks.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":
            return None
        raise
    return str(found[0]["StackStatus"]) if found else None


def _settled(stacks: Any, name: str, seconds: float = 120.0) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        stack: dict[str, Any] = stacks.describe_stacks(StackName=name)["Stacks"][0]
        if not stack["StackStatus"].endswith("_IN_PROGRESS") or time.monotonic() > end:
            return stack
        time.sleep(0.2)


def _reason(stacks: Any, name: str) -> str:
    events = stacks.describe_stack_events(StackName=name)["StackEvents"]
    failed = [e for e in events if e["ResourceStatus"].endswith("_FAILED")]
    texts = [f"{e['LogicalResourceId']} ({e['ResourceType']}): {e.get('ResourceStatusReason', '')}" for e in failed]
    return "; ".join(texts) or "no reason is recorded"
