"""CloudFormation resource types that moto lacks, and the list of what is accepted but does nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from moto.cloudformation import parsing
from moto.core.common_models import CloudFormationModel
from moto.s3.models import s3_backends
from moto.scheduler.models import scheduler_backends

from .identity import ACCOUNT, REGION, arn
from .patching import replace
from .sqs import find_queue
from .workers import find_function

__all__ = ["INERT_PROPERTIES", "INERT_TYPES", "ExtraResource", "install"]

Properties = Mapping[str, Any]

INERT_TYPES: Final[Mapping[str, str]] = {
    "AWS::CloudWatch::Alarm": "kept by name; never evaluated, so it never goes off",
    "AWS::CloudWatch::Dashboard": "kept; there are no metrics to show",
    "AWS::Events::EventBusPolicy": "kept by name; callers of one account need no bus policy",
    "AWS::Glue::Database": "kept by name; there is no Athena",
    "AWS::Glue::Table": "kept by name; there is no Athena",
    "AWS::Logs::MetricFilter": "kept by name; no metric is made of it",
    "AWS::Logs::ResourcePolicy": "kept; log groups check no policy",
}
"""Resource types that a template may have and that have no effect in the sandbox, with what happens instead."""

INERT_PROPERTIES: Final[Mapping[str, str]] = {
    "AWS::DynamoDB::Table TimeToLiveSpecification": "stored and described; expired items stay",
    "AWS::DynamoDB::Table SSESpecification, PointInTimeRecoverySpecification": "stored; nothing is encrypted or kept",
    "AWS::Lambda::Function MemorySize": "told to the function; not enforced",
    "AWS::Lambda::Function Architectures, TracingConfig, VpcConfig": "stored; every function runs on this machine",
    "AWS::Logs::LogGroup RetentionInDays": "stored and described; nothing expires",
    "AWS::S3::Bucket LifecycleConfiguration, BucketEncryption": "stored; nothing expires or is encrypted",
    "AWS::SQS::Queue SqsManagedSseEnabled, KmsMasterKeyId": "stored; nothing is encrypted",
}
"""Properties that are stored and described but have no effect."""


class ExtraResource(CloudFormationModel):
    """A resource of a type that moto lacks. ``apply`` makes it and returns (Ref, attributes); ``remove`` undoes it."""

    # moto's metaclass files a model under the service that its module names
    __module__ = "moto.extra"
    TYPE: ClassVar[str] = ""

    def __init__(self, ref: str, attributes: Mapping[str, str], properties: Properties) -> None:
        self.ref, self.attributes, self.properties = ref, attributes, properties

    @property
    def physical_resource_id(self) -> str:
        return self.ref

    @classmethod
    def apply(cls, name: str, properties: Properties) -> tuple[str, Mapping[str, str]]:
        """Inert unless overridden."""
        return name, {"Arn": arn(cls.TYPE.split("::")[1].lower(), name)}

    def remove(self) -> None:
        """Inert unless overridden."""

    def delete(self, account_id: str, region_name: str) -> None:
        self.remove()

    @classmethod
    def delete_from_cloudformation_json(cls, *args: Any, **kwargs: Any) -> None:
        """Never called: moto asks ``delete`` first."""

    def is_created(self) -> bool:
        return True

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return True

    def get_cfn_attribute(self, attribute_name: str) -> str:
        return self.attributes[attribute_name]

    @staticmethod
    def cloudformation_name_type() -> str:
        return "Name"

    @classmethod
    def cloudformation_type(cls) -> str:
        return cls.TYPE

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **kwargs: Any
    ) -> ExtraResource:
        properties = cloudformation_json.get("Properties", {})
        return cls(*cls.apply(resource_name, properties), properties)

    @classmethod
    def update_from_cloudformation_json(
        cls, original_resource: ExtraResource, new_resource_name: str, cloudformation_json: Any, *_where: str, **_: Any
    ) -> ExtraResource:
        original_resource.remove()
        return cls.create_from_cloudformation_json(original_resource.ref, cloudformation_json, ACCOUNT, REGION)


class QueuePolicy(ExtraResource):
    """Sets the policy of each queue, which sending checks."""

    __module__ = "moto.extra"
    TYPE = "AWS::SQS::QueuePolicy"

    @classmethod
    def apply(cls, name: str, properties: Properties) -> tuple[str, Mapping[str, str]]:
        for url in properties["Queues"]:
            queue = find_queue(url)
            if queue is None:
                raise ValueError(f"Queues: there is no queue {url}")
            queue.policy = json.dumps(properties["PolicyDocument"])
        return name, {"Id": name}

    def remove(self) -> None:
        for url in self.properties["Queues"]:
            queue = find_queue(url)
            if queue is not None:
                queue.policy = None


class BucketPolicy(ExtraResource):
    """Sets a bucket's policy, which requests of roles are checked against."""

    __module__ = "moto.extra"
    TYPE = "AWS::S3::BucketPolicy"

    @classmethod
    def apply(cls, name: str, properties: Properties) -> tuple[str, Mapping[str, str]]:
        document = json.dumps(properties["PolicyDocument"]).encode()
        s3_backends[ACCOUNT]["aws"].put_bucket_policy(properties["Bucket"], document)
        return str(properties["Bucket"]), {}

    def remove(self) -> None:
        if self.ref in s3_backends[ACCOUNT]["aws"].buckets:
            s3_backends[ACCOUNT]["aws"].delete_bucket_policy(self.ref)


class EventInvokeConfig(ExtraResource):
    """Retries and failure destination of asynchronous invocations."""

    __module__ = "moto.extra"
    TYPE = "AWS::Lambda::EventInvokeConfig"

    @classmethod
    def apply(cls, name: str, properties: Properties) -> tuple[str, Mapping[str, str]]:
        from moto.awslambda.models import lambda_backends

        config = {k: v for k, v in properties.items() if k not in ("FunctionName", "Qualifier")}
        lambda_backends[ACCOUNT][REGION].put_function_event_invoke_config(properties["FunctionName"], config)
        return name, {}

    def remove(self) -> None:
        function = find_function(self.properties["FunctionName"])
        if function:
            function.event_invoke_config.clear()


class ScheduleGroup(ExtraResource):
    """A group of EventBridge Scheduler."""

    __module__ = "moto.extra"
    TYPE = "AWS::Scheduler::ScheduleGroup"

    @classmethod
    def apply(cls, name: str, properties: Properties) -> tuple[str, Mapping[str, str]]:
        group = scheduler_backends[ACCOUNT][REGION].create_schedule_group(name, [])
        return name, {"Arn": group.arn}

    def remove(self) -> None:
        scheduler_backends[ACCOUNT][REGION].schedule_groups.pop(self.ref, None)


class Schedule(ExtraResource):
    """A schedule of EventBridge Scheduler."""

    __module__ = "moto.extra"
    TYPE = "AWS::Scheduler::Schedule"

    @classmethod
    def apply(cls, name: str, properties: Properties) -> tuple[str, Mapping[str, str]]:
        schedule = scheduler_backends[ACCOUNT][REGION].create_schedule(
            description=properties.get("Description", ""),
            end_date=properties.get("EndDate", ""),
            flexible_time_window=properties["FlexibleTimeWindow"],
            group_name=properties.get("GroupName", "default"),
            kms_key_arn=properties.get("KmsKeyArn", ""),
            name=name,
            schedule_expression=properties["ScheduleExpression"],
            schedule_expression_timezone=properties.get("ScheduleExpressionTimezone", "UTC"),
            start_date=properties.get("StartDate", ""),
            state=properties.get("State", "ENABLED"),
            target=properties["Target"],
            action_after_completion=None,
        )
        return name, {"Arn": schedule.arn}

    def remove(self) -> None:
        group = scheduler_backends[ACCOUNT][REGION].schedule_groups.get(self.properties.get("GroupName", "default"))
        if group:
            group.schedules.pop(self.ref, None)


def _inert(type_name: str) -> type[ExtraResource]:
    return type(type_name.replace("::", ""), (ExtraResource,), {"__module__": "moto.extra", "TYPE": type_name})


_installed: list[type[ExtraResource]] = []


def install() -> None:
    """Make the types known to moto's CloudFormation, once in a process."""
    if _installed:
        return
    stock: Callable[[], list[Any]] = parsing.get_model_list
    known = {model.cloudformation_type() for model in stock() if not issubclass(model, ExtraResource)}
    _installed.extend([BucketPolicy, QueuePolicy, EventInvokeConfig, ScheduleGroup, Schedule])
    _installed.extend(_inert(t) for t in INERT_TYPES if t not in known)
    models = [m for m in stock() if not issubclass(m, ExtraResource)] + _installed
    replace(parsing, "get_model_list", lambda: models)
    parsing.get_model_map.cache_clear()
    parsing.get_name_type_map.cache_clear()
