"""One platform with the fixture stack deployed, shared by a module's tests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest
from botocore.config import Config
from moto.moto_api._internal.models import moto_api_backend

from tests.sandbox.cloud.deploy import deploy, this_runtime
from tests.sandbox.cloud.identity import ADMIN_KEY, REGION, SessionCredentials
from tests.sandbox.cloud.lock import API_LOCK
from tests.sandbox.cloud.platform import Platform

FIXTURES = Path(__file__).parent / "fixtures"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Stack:
    """The platform, where it listens, and what was deployed on it."""

    platform: Platform
    endpoint: str
    outputs: dict[str, str]

    def client(self, service: str, credentials: SessionCredentials | None = None) -> Any:
        return client(self.endpoint, service, credentials)

    def rows(self) -> list[dict[str, Any]]:
        items = self.client("dynamodb").scan(TableName=self.outputs["TableName"])["Items"]
        return [{k: next(iter(v.values())) for k, v in item.items()} for item in items]

    def row(self, order: str) -> dict[str, Any]:
        """The row of an order, once it is there."""
        return wait_for(lambda: next((r for r in self.rows() if r["node"] == order), None))

    def role(self, name: str, *policies: str, allow: str | None = None, **more: str) -> str:
        """A role with some managed policies, and perhaps an action that it is allowed anywhere. Returns its name."""
        iam = self.client("iam")
        iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}", **more)
        if allow:
            iam.put_role_policy(RoleName=name, PolicyName="allow", PolicyDocument=policy_document(allow))
        for policy in policies:
            iam.attach_role_policy(RoleName=name, PolicyArn=policy)
        return name


def policy_document(action: str) -> str:
    """A policy that allows one action on anything."""
    statement = {"Effect": "Allow", "Action": action, "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def client(endpoint: str, service: str, credentials: SessionCredentials | None = None) -> Any:
    key, secret, token = ADMIN_KEY, ADMIN_KEY, None
    if credentials:
        key, secret, token = credentials.access_key_id, credentials.secret_access_key, credentials.session_token
    return boto3.client(
        service,  # type: ignore[call-overload]
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=60),
    )


def wait_for(check: Callable[[], _T | None], seconds: float = 30.0) -> _T:
    """Poll until ``check`` gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing after {seconds} s: {check}")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sam-cache")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform(tmp_path_factory.mktemp("platform"), acceleration=600.0)
    running.start()
    yield running
    running.close()
    with API_LOCK:
        moto_api_backend.reset()


@pytest.fixture(scope="module")
def stack(platform: Platform, cache: Path) -> Stack:
    outputs = deploy(
        platform.endpoint, FIXTURES / "template.yaml", "fixture", {"LambdaRuntime": this_runtime()}, cache=cache
    )
    return Stack(platform, platform.endpoint, outputs)
