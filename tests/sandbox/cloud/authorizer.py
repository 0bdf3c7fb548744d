"""Who may do what: the deployed policies applied to each call."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from moto.iam.models import iam_backends
from moto.s3.models import s3_backends

from .accesses import accesses_of
from .calls import Call
from .iam import Access, Decision, PolicyError, Statement, context, evaluate, parse_policy
from .identity import ACCOUNT, REGION, Principal
from .lock import API_LOCK
from .sqs import find_queue
from .usage import UsageLog
from .workers import find_function

__all__ = ["Authorizer"]

LOG: Final = logging.getLogger(__name__)

_ALWAYS_ALLOWED: Final = {("sts", "GetCallerIdentity")}
"""Needs no permission (STS API reference)."""


class Authorizer:
    """Evaluates calls. Reads policies where moto keeps what the template deployed, at each call."""

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._usage = UsageLog()
        self._lock = threading.Lock()

    def authorize(self, principal: Principal, call: Call) -> str | None:
        """Why the call is refused, in AWS's words, or ``None`` if it is allowed."""
        if principal.kind == "admin" or (call.service, call.action) in _ALWAYS_ALLOWED:
            return None
        with API_LOCK:
            for access in accesses_of(call):
                denial = self._check(principal, access)
                if denial:
                    return denial
        return None

    def may_send(self, sender: Principal, queue_arn: str, source_arn: str | None) -> str | None:
        """Why a service or a function may not send to a queue, or ``None``."""
        values = {"aws:SourceArn": source_arn, "aws:SourceAccount": ACCOUNT if source_arn else None}
        return self._check(sender, Access("sqs:SendMessage", queue_arn, context(values)))

    def may_invoke(self, function_arn: str, source_arn: str) -> str | None:
        """Why EventBridge may not invoke a function (its resource-based policy says so), or ``None``."""
        with API_LOCK:
            function = find_function(function_arn)
            statements = list(function.policy.statements) if function else []
        access = Access(
            "lambda:InvokeFunction",
            function_arn,
            context({"aws:SourceArn": source_arn, "aws:SourceAccount": ACCOUNT}),
        )
        policy = self._parse(json.dumps({"Statement": statements}))
        if evaluate(policy, access, {"Service": "events.amazonaws.com"}) == "allow":
            return None
        return f"events.amazonaws.com is not authorized to perform: lambda:InvokeFunction on resource: {function_arn}"

    def may_deliver(self, service: str, bucket: str, key: str) -> str | None:
        """Why a service may not put an object into a bucket (its policy says so), or ``None``."""
        values = {
            "aws:SourceAccount": ACCOUNT,
            "aws:SourceArn": f"arn:aws:logs:{REGION}:{ACCOUNT}:*",
            "s3:x-amz-acl": "bucket-owner-full-control",
        }
        sender = Principal("service", service, f"AIDA{service}")
        return self._check(sender, Access("s3:PutObject", f"arn:aws:s3:::{bucket}/{key}", context(values)))

    def role_may(self, role_arn: str, action: str, resource: str) -> bool:
        """Whether a role's own policies allow an action (for services that act with an execution role)."""
        role = role_arn.rpartition("/")[2]
        principal = Principal("function", role_arn, f":{role}", role=role)
        return self._check(principal, Access(action, resource)) is None

    def _check(self, principal: Principal, access: Access) -> str | None:
        full = Access(access.action, access.resource, {**_global_keys(principal), **access.context})
        by_resource = self._by_resource(principal, full)
        by_identity = self._by_identity(principal, full)
        if "deny" in (by_resource, by_identity):
            kind = "identity" if by_identity == "deny" else "resource"
            return _refusal(principal, access, f"with an explicit deny in a {kind}-based policy")
        if "allow" in (by_resource, by_identity):
            return None
        return _refusal(principal, access, f"because no identity-based policy allows the {access.action} action")

    def _by_identity(self, principal: Principal, access: Access) -> Decision:
        if principal.role is None:
            return "none"
        with API_LOCK:
            role = _role_named(principal.role)
            documents = list(_role_documents(role)) if role else []
            boundary = _boundary(role) if role else None
        policies = [(name, document, self._parse(document)) for name, document in documents]
        decision = evaluate([s for _, _, statements in policies for s in statements], access)
        self._usage.add(principal, access, policies, decision)
        if boundary is None or decision == "deny":
            return decision
        limit = evaluate(self._parse(boundary), access)
        return decision if limit == "allow" else limit

    def _by_resource(self, principal: Principal, access: Access) -> Decision:
        with API_LOCK:
            policy = _policy_of(access)
        if not policy:
            return "none"
        if principal.kind == "service":
            return evaluate(self._parse(policy), access, {"Service": principal.arn})
        names = [principal.arn, _role_arn(principal.role)]
        decisions = {evaluate(self._parse(policy), access, {"AWS": name}) for name in names}
        return "deny" if "deny" in decisions else "allow" if "allow" in decisions else "none"

    def _parse(self, document: str) -> tuple[Statement, ...]:
        try:
            return parse_policy(document)
        except PolicyError as error:
            with self._lock:
                if document not in self._warned:
                    self._warned.add(document)
                    LOG.warning("a deployed policy is ignored: %s: %.300s", error, document)
            return ()


def _refusal(principal: Principal, access: Access, why: str) -> str:
    where = f" on resource: {access.resource}" if access.resource != "*" else ""
    return f"User: {principal.arn} is not authorized to perform: {access.action}{where} {why}"


def _global_keys(principal: Principal) -> dict[str, tuple[str, ...]]:
    """Keys that any request has. The sandbox speaks plain HTTP and reports it as TLS, as clients of AWS would use."""
    account = None if principal.kind == "service" else ACCOUNT
    role_arn = _role_arn(principal.role) if principal.role else None
    return context(
        {
            "aws:PrincipalArn": role_arn,
            "aws:PrincipalAccount": account,
            "aws:PrincipalType": "AssumedRole" if principal.role else None,
            "aws:PrincipalIsAWSService": "true" if principal.kind == "service" else "false",
            "aws:userid": principal.user_id,
            "aws:RequestedRegion": REGION,
            "aws:CurrentTime": datetime.now(UTC).isoformat(timespec="seconds"),
            "aws:SecureTransport": "true",
            "aws:ViaAWSService": "false",
            "ec2:SourceInstanceARN": principal.instance_arn,
            "ec2:RoleDelivery": "2.0" if principal.instance_arn else None,
            "lambda:SourceFunctionArn": principal.function_arn,
        }
    )


def _policy_of(access: Access) -> str | None:
    """The policy of the queue or bucket that is accessed. The API lock must be held."""
    if access.action.startswith("sqs:"):
        queue = find_queue(access.resource)
        return queue.policy if queue else None
    if access.action.startswith("s3:"):
        name = access.resource.removeprefix("arn:aws:s3:::").partition("/")[0]
        bucket = s3_backends[ACCOUNT]["aws"].buckets.get(name)
        return bucket.policy.decode() if bucket and bucket.policy else None
    return None


def _role_named(name: str | None) -> Any:
    """moto's role. Names are unique in an account, whatever the path. The API lock must be held."""
    return next((r for r in iam_backends[ACCOUNT]["aws"].roles.values() if r.name == name), None)


def _role_arn(name: str | None) -> str:
    """With the role's path, which the ARN of its sessions lacks."""
    with API_LOCK:
        role = _role_named(name)
    return str(role.arn) if role else f"arn:aws:iam::{ACCOUNT}:role/{name}"


def _role_documents(role: Any) -> Iterable[tuple[str, str]]:
    """The name and the text of each policy."""
    for name, document in role.policies.items():
        yield name, _document(document)
    for policy in role.managed_policies.values():
        yield policy.name, _managed(policy)


def _boundary(role: Any) -> str | None:
    name = getattr(role, "permissions_boundary_arn", None)
    policy = iam_backends[ACCOUNT]["aws"].managed_policies.get(name) if name else None
    return _managed(policy) if policy else None


def _managed(policy: Any) -> str:
    """The document of a managed policy's default version."""
    return _document(next(v.document for v in policy.versions if v.version_id == policy.default_version_id))


def _document(value: Any) -> str:
    """moto keeps documents as text, or as what a template gave."""
    return value if isinstance(value, str) else json.dumps(value)
