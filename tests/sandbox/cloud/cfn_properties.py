"""Properties that moto's CloudFormation drops on create or update, put in force afterwards.

Each function makes one resource what its properties say, whatever it was before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from moto.awslambda.models import LambdaFunction, LayerVersion, lambda_backends
from moto.dynamodb.models import dynamodb_backends
from moto.events.models import Archive, EventBus
from moto.iam.access_control import PermissionResult
from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.iam.models import AWSManagedPolicy, ManagedPolicy, Role, iam_backends
from moto.logs.models import LogGroup
from moto.s3.models import FakeBucket, s3_backends

from .identity import ACCOUNT, REGION
from .patching import replace

__all__ = ["KEPT_ON_UPDATE", "apply_properties", "install"]

Properties = Mapping[str, Any]


def apply_properties(kind: str, resource: Any, properties: Properties) -> None:
    """Put the properties in force that moto left out."""
    fix = _FIXES.get(kind)
    if fix is not None and resource is not None:
        fix(resource, properties)


def _function(function: Any, properties: Properties) -> None:
    function.layers = function._get_layers_data(properties.get("Layers") or [])
    function.dead_letter_config = properties.get("DeadLetterConfig")
    function.logging_config = properties.get("LoggingConfig")
    function.tracing_config = properties.get("TracingConfig") or {"Mode": "PassThrough"}
    function.architectures = properties.get("Architectures") or ["x86_64"]
    variables = (properties.get("Environment") or {}).get("Variables") or {}
    function.environment_vars = {name: _text(value) for name, value in variables.items()}
    function.timeout = int(properties.get("Timeout") or 3)
    function.memory_size = int(properties.get("MemorySize") or 128)
    function.reserved_concurrency = properties.get("ReservedConcurrentExecutions")
    function.tags = {tag["Key"]: tag["Value"] for tag in properties.get("Tags") or []}


def _role(role: Any, properties: Properties) -> None:
    backend = iam_backends[ACCOUNT]["aws"]
    wanted = {str(a) for a in properties.get("ManagedPolicyArns") or []}
    for policy_arn in wanted - set(role.managed_policies):
        _managed_policy(policy_arn)
        backend.attach_role_policy(policy_arn, role.name)
    declared = {p["PolicyName"]: json.dumps(p["PolicyDocument"]) for p in properties.get("Policies") or []}
    owned: set[str] = getattr(role, "stack_policies", set())
    for name in owned - set(declared):
        role.policies.pop(name, None)
    role.policies.update(declared)
    role.stack_policies = set(declared)
    trust = properties["AssumeRolePolicyDocument"]
    role.assume_role_policy_document = trust if isinstance(trust, str) else json.dumps(trust)
    boundary = properties.get("PermissionsBoundary") or None
    if boundary:
        _managed_policy(boundary)
        if boundary not in backend.managed_policies:
            raise ValueError(f"Scope ARN: {boundary} does not exist or is not attachable.")
    role.permissions_boundary_arn = boundary


def _managed_policy(policy_arn: str) -> None:
    """Load one of AWS's managed policies, of which moto has a copy that it does not load by itself."""
    backend = iam_backends[ACCOUNT]["aws"]
    if policy_arn in backend.managed_policies or not policy_arn.startswith("arn:aws:iam::aws:policy"):
        return
    name = policy_arn.rpartition("/")[2]
    policies = json.loads(aws_managed_policies_data)
    if name not in policies:
        raise ValueError(f"ManagedPolicyArns: there is no {policy_arn}")
    policy = AWSManagedPolicy.from_data(name, ACCOUNT, REGION, policies[name])
    backend.managed_policies[policy.arn] = policy


def _iam_managed_policy(policy: Any, properties: Properties) -> None:
    document = json.dumps(properties["PolicyDocument"])
    for version in policy.versions:
        if version.is_default:
            version.document = document


def _inline_policy(policy: Any, properties: Properties) -> None:
    for name in properties.get("Roles") or []:
        iam_backends[ACCOUNT]["aws"].put_role_policy(name, policy.policy_name, json.dumps(properties["PolicyDocument"]))


def _queue(queue: Any, properties: Properties) -> None:
    queue._set_attributes({k: v for k, v in properties.items() if k not in ("QueueName", "Tags")})


def _table(table: Any, properties: Properties) -> None:
    backend = dynamodb_backends[ACCOUNT][REGION]
    ttl = properties.get("TimeToLiveSpecification")
    if ttl:
        backend.update_time_to_live(table.name, {**ttl, "Enabled": _true(ttl["Enabled"])})
    recovery = (properties.get("PointInTimeRecoverySpecification") or {}).get("PointInTimeRecoveryEnabled")
    if recovery is not None:
        backend.update_continuous_backups(table.name, {"PointInTimeRecoveryEnabled": _true(recovery)})


def _bucket(bucket: Any, properties: Properties) -> None:
    backend = s3_backends[ACCOUNT]["aws"]
    bucket.versioning_status = (properties.get("VersioningConfiguration") or {}).get("Status")
    block = properties.get("PublicAccessBlockConfiguration")
    if block:
        backend.put_public_access_block(bucket.name, {name: _text(value) for name, value in block.items()})
    bridge = (properties.get("NotificationConfiguration") or {}).get("EventBridgeConfiguration")
    on = bridge is not None and _true(bridge.get("EventBridgeEnabled", True))
    bucket.set_notification_configuration({"EventBridgeConfiguration": {}} if on else None)


def _flow_log(log: Any, properties: Properties) -> None:
    log.destination_options = properties.get("DestinationOptions") or {}


def _log_group(group: Any, properties: Properties) -> None:
    retention = properties.get("RetentionInDays")
    group.set_retention_policy(int(retention) if retention else None)


def _rule(rule: Any, properties: Properties) -> None:
    rule.state = properties.get("State") or "ENABLED"


def _mapping(mapping: Any, properties: Properties) -> None:
    mapping.enabled = _true(properties.get("Enabled", True))
    for name, attribute in (("ScalingConfig", "scaling_config"), ("FunctionResponseTypes", "function_response_types")):
        setattr(mapping, attribute, properties.get(name))


def _text(value: Any) -> str:
    """CloudFormation makes strings of the numbers and truth values that a template has where a string belongs."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _true(value: Any) -> bool:
    return str(value).lower() == "true"


_FIXES: Final[Mapping[str, Callable[[Any, Properties], None]]] = {
    "AWS::DynamoDB::Table": _table,
    "AWS::EC2::FlowLog": _flow_log,
    "AWS::Events::Rule": _rule,
    "AWS::IAM::ManagedPolicy": _iam_managed_policy,
    "AWS::IAM::Policy": _inline_policy,
    "AWS::IAM::Role": _role,
    "AWS::Lambda::EventSourceMapping": _mapping,
    "AWS::Lambda::Function": _function,
    "AWS::Logs::LogGroup": _log_group,
    "AWS::S3::Bucket": _bucket,
    "AWS::SQS::Queue": _queue,
}

KEPT_ON_UPDATE: Final = frozenset(
    {
        "AWS::DynamoDB::Table",
        "AWS::Events::EventBus",
        "AWS::IAM::ManagedPolicy",
        "AWS::IAM::Role",
        "AWS::Logs::LogGroup",
        "AWS::S3::Bucket",
    }
)
"""moto would replace these on any update (a table with its items), or lose them; here their properties are applied."""


def _configuration(original: Any) -> Any:
    def get_configuration(function: Any, on_create: bool = False) -> dict[str, Any]:
        told: dict[str, Any] = original(function, on_create)
        default = {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{function.function_name}"}
        told["LoggingConfig"] = {**default, **(getattr(function, "logging_config", None) or {})}
        return told

    return get_configuration


def _delete_layer_version(version: Any, _account: str, _region: str) -> None:
    lambda_backends[ACCOUNT][REGION].delete_layer_version(version.name, str(version.version))


def _delete_role(role: Any, account: str, region: str) -> None:
    """A stack's role lets go of its managed policies first; moto would refuse to delete it."""
    backend = iam_backends[ACCOUNT]["aws"]
    for policy_arn in list(role.managed_policies):
        backend.detach_role_policy(policy_arn, role.name)
    type(role).delete_from_cloudformation_json(role.name, {"Properties": {}}, account, region)


def _delete_managed_policy(policy: Any, _account: str, _region: str) -> None:
    if policy.attachment_count > 0:
        raise ValueError(f"{policy.arn} is attached to {policy.attachment_count} entities: detach it first")
    iam_backends[ACCOUNT]["aws"].delete_policy(policy.arn)


def _delete_bucket(bucket: Any, _account: str, _region: str) -> None:
    if s3_backends[ACCOUNT]["aws"].delete_bucket(bucket.name) is None:
        raise ValueError(f"{bucket.name}: The bucket you tried to delete is not empty")


_installed = False


def install() -> None:
    """Repair what ``Ref``, names and deletion give for types that moto has, once in a process."""
    global _installed
    if _installed:
        return
    _installed = True
    # moto answers Ref with a Python object for these
    kinds = (LayerVersion, EventBus, Archive, LogGroup, Role, ManagedPolicy, FakeBucket)
    version, bus, archive, group, role, managed, bucket = (cast(Any, kind) for kind in kinds)
    version.physical_resource_id = property(lambda self: self.arn)
    bus.physical_resource_id = property(lambda self: self.name)
    archive.physical_resource_id = property(lambda self: self.name)
    version.cloudformation_name_type = staticmethod(lambda: "LayerName")
    version.delete = _delete_layer_version
    role.delete = _delete_role
    managed.delete = _delete_managed_policy
    bucket.delete = _delete_bucket
    # moto's own check knows no conditions: a deny without TLS would deny all. The authorizer checks instead.
    bucket.get_permission = lambda _self, _action, _resource: PermissionResult.NEUTRAL
    replace(LambdaFunction, "get_configuration", _configuration(LambdaFunction.get_configuration))
    # GetAtt ends with ":*", so that it covers the streams (CloudFormation reference, AWS::Logs::LogGroup)
    group.get_cfn_attribute = lambda self, _name: f"{self.arn}:*"
