"""The sandbox's account over HTTP: one endpoint with bad luck for functions and nodes, one without for the driver.

In front of the first lies what Berth meets on AWS: buckets and scripted faults; and behind these somebody who watches
every call that has its effect, before and after it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from moto.core.base_backend import BackendDict
from moto.moto_api._internal import mock_random

from tests.sandbox.cloud import consistency, ec2_additions, ec2_addresses
from tests.sandbox.cloud.callers import WsgiApp, call_app, locked
from tests.sandbox.cloud.calls import Call
from tests.sandbox.cloud.faults import Faults
from tests.sandbox.cloud.identity import ADMIN_KEY, REGION
from tests.sandbox.cloud.lock import API_LOCK
from tests.sandbox.cloud.middleware import StartResponse, call_of, respond
from tests.sandbox.cloud.platform import Platform
from tests.sandbox.cloud.server import Server, moto_app
from tests.sandbox.cloud.throttle import Throttle
from tests.simulator.kernel import Kernel
from tests.unit.control.fakes import ARN_PREFIX
from tests.unit.dynamo import make_table

from .virtual_time import ON_COMMAND

__all__ = ["BUS", "QUEUES", "READING", "TABLE", "Account", "Watcher"]

TABLE: Final = "nodes"
BUDGET_TABLE: Final = "budget"
BRAKE: Final = "/berth/wire/brake"
BUS: Final = "berth"
ROLE: Final = "wire-node"
QUEUES: Final = {"events": (120, 345_600, 5), "reports": (120, 300, 3)}
"""Visibility and retention in seconds, and receives before a message is given up (template.yaml)."""
READING: Final = ("Describe", "Get", "List")
Watcher = Callable[[Call, bool], None]
"""Told of a call that is about to have its effect (False) and of one that has had it (True)."""


class Account:
    """One for all schedules of a process, since it replaces parts of moto; :meth:`begin` empties it."""

    def __init__(self, root: Path) -> None:
        ec2_additions.install(ec2_additions.Timing(ON_COMMAND, ON_COMMAND, ON_COMMAND, 1.0, 5.0))
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._watcher: Watcher = lambda _call, _done: None
        self._kernel = Kernel()
        self.platform = Platform(root, middlewares=(self._make_throttle, self._make_faults, self._watching))
        self.endpoint = self.platform.start()
        self._plain = Server(locked(moto_app()))
        self._driver_endpoint = f"http://127.0.0.1:{self._plain.listen()}"
        self.client = cache(self._client)

    def close(self) -> None:
        consistency.set_lag(0)
        self.platform.close()
        self._plain.close()
        with API_LOCK:
            BackendDict.reset()

    # ------------------------------------------------------------------------------------------- in front of moto

    def _make_throttle(self, app: WsgiApp) -> WsgiApp:
        self.throttle = Throttle(app, clock=lambda: self._kernel.now)
        return self.throttle

    def _make_faults(self, app: WsgiApp) -> WsgiApp:
        self.faults = Faults(app, sleep=lambda seconds: self._kernel.advance(seconds))
        return self.faults

    def _watching(self, app: WsgiApp) -> WsgiApp:
        def watched(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            call = call_of(environ)
            if call is None or call.action.startswith(READING):
                return app(environ, start_response)
            self._watcher(call, False)
            answer = call_app(app, environ)
            if answer.status < 400:
                self._watcher(call, True)
            return respond(answer, start_response)

        return watched

    # ------------------------------------------------------------------------------------------- a schedule

    def begin(self, seed: int, kernel: Kernel, watcher: Watcher) -> None:
        """An empty account with Berth's tables, queues, bus and brake, in the time of ``kernel``."""
        consistency.set_lag(0)
        self.faults.clear()
        with API_LOCK:
            BackendDict.reset()
        ec2_addresses._random.seed(seed)
        mock_random.seed(seed)
        self._kernel, self._watcher = kernel, watcher
        self.throttle.enabled = True
        self.throttle.set_scale(1.0)
        self.throttle.reset()
        for table in (TABLE, BUDGET_TABLE):
            make_table(self.client("dynamodb"), table)
        for name, (visibility, retention, receives) in QUEUES.items():
            self._make_queue(name, visibility, retention, receives)
        self.client("events").create_event_bus(Name=BUS)
        self.move_brake("normal")
        policy = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "*"}
        iam = self.client("iam")
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument="{}")
        document = json.dumps({"Version": "2012-10-17", "Statement": [policy]})
        iam.put_role_policy(RoleName=ROLE, PolicyName="reports", PolicyDocument=document)

    def _make_queue(self, name: str, visibility: int, retention: int, receives: int) -> None:
        sqs = self.client("sqs")
        dead = sqs.create_queue(QueueName=f"{name}-dead-letters")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": receives})
        attributes = {"VisibilityTimeout": str(visibility), "MessageRetentionPeriod": str(retention)}
        sqs.create_queue(QueueName=name, Attributes={**attributes, "RedrivePolicy": redrive})

    def queue_url(self, name: str) -> str:
        """Of the queue at the functions' endpoint."""
        return f"{self.endpoint}/123456789012/{name}"

    def move_brake(self, level: str) -> None:
        self.client("ssm").put_parameter(Name=BRAKE, Value=level, Type="String", Overwrite=True)

    def rows(self) -> list[dict[str, Any]]:
        """Everything in the table."""
        found: list[dict[str, Any]] = []
        for page in self.client("dynamodb").get_paginator("scan").paginate(TableName=TABLE):
            found += page["Items"]
        return found

    # ------------------------------------------------------------------------------------------- clients

    def _client(self, service: str) -> Any:
        """The driver's: an administrator, without bad luck."""
        return boto3.client(
            service,  # type: ignore[call-overload]
            region_name=REGION,
            endpoint_url=self._driver_endpoint,
            aws_access_key_id=ADMIN_KEY,
            aws_secret_access_key=ADMIN_KEY,
            config=Config(retries={"total_max_attempts": 1}, max_pool_connections=4),
        )

    def node_sqs(self, instance_id: str) -> Any:
        """SQS as a node calls it: with its role's credentials, so that messages carry its instance id."""
        issued = self.platform.identity.credentials_for_instance(instance_id, ARN_PREFIX + instance_id, ROLE)
        return boto3.client(
            "sqs",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=issued.access_key_id,
            aws_secret_access_key=issued.secret_access_key,
            aws_session_token=issued.session_token,
            config=Config(retries={"total_max_attempts": 1}),
        )
