"""Which permissions a call needs: its IAM actions, resources and condition keys, service by service.

Source: Service Authorization Reference, "Actions, resources, and condition keys for …". The API lock must be held: the
keys come from the state of the account.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from moto.autoscaling.models import autoscaling_backends
from moto.dynamodb.models import dynamodb_backends
from moto.s3.models import s3_backends

from .accesses_ec2 import ec2_accesses
from .calls import Call
from .iam import Access, context
from .identity import ACCOUNT, REGION, arn
from .sqs import queue_arn_of

__all__ = ["accesses_of"]


def accesses_of(call: Call) -> list[Access]:
    """All must be allowed for the call to be."""
    return _SERVICES.get(call.service, _any_resource)(call)


def _any_resource(call: Call) -> list[Access]:
    prefix = {"monitoring": "cloudwatch"}.get(call.service, call.service)
    return [Access(f"{prefix}:{call.action}", "*")]


def _sqs(call: Call) -> list[Access]:
    # a batch needs the permission of its single form; there is none of its own
    action = call.action.removesuffix("Batch")
    return [Access(f"sqs:{action}", queue_arn_of(call) or "*")]


# ----------------------------------------------------------------------------------------------------- DynamoDB

_TRANSACT: Final = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
}
_BATCH_WRITE: Final = {"PutRequest": "Item", "DeleteRequest": "Key"}
_HASH_CONDITION: Final = re.compile(r"([\w.#-]+)\s*=\s*(:\w+)")


def _dynamodb(call: Call) -> list[Access]:
    params = call.params
    if call.action in ("BatchGetItem", "BatchWriteItem"):
        return [_table(call.action, table, _batch_items(request), params) for table, request in _requests(params)]
    if call.action == "TransactGetItems":
        return [_item("GetItem", entry["Get"]) for entry in params.get("TransactItems", ())]
    if call.action == "TransactWriteItems":
        entries = params.get("TransactItems", ())
        return [_item(_TRANSACT[kind], body) for entry in entries for kind, body in entry.items() if kind in _TRANSACT]
    if "TableName" not in params:
        return _any_resource(call)
    return [_item(call.action, params)]


def _requests(params: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return dict(params.get("RequestItems") or {}).items()


def _batch_items(request: Any) -> list[Mapping[str, Any]]:
    if isinstance(request, Mapping):
        return list(request.get("Keys", ()))
    return [body[_BATCH_WRITE[kind]] for entry in request for kind, body in entry.items() if kind in _BATCH_WRITE]


def _item(action: str, body: Mapping[str, Any]) -> Access:
    items = [body[name] for name in ("Key", "Item") if name in body]
    return _table(action, str(body["TableName"]), items, body)


def _table(action: str, table: str, items: list[Mapping[str, Any]], body: Mapping[str, Any]) -> Access:
    name = table.rpartition("/")[2]
    key = _hash_key(name)
    leading = [_plain(item[key]) for item in items if key and key in item]
    if not items and key:
        leading = _queried(body, key)
    keys = context(
        {
            "dynamodb:LeadingKeys": leading or None,
            "dynamodb:FirstPartitionKeyValues": leading or None,
            "dynamodb:Attributes": _attributes(items, body) or None,
            "dynamodb:Select": "SPECIFIC_ATTRIBUTES" if "ProjectionExpression" in body else body.get("Select"),
            "dynamodb:ReturnValues": body.get("ReturnValues"),
        }
    )
    of = f"table/{name}/index/{body['IndexName']}" if body.get("IndexName") else f"table/{name}"
    return Access(f"dynamodb:{action}", arn("dynamodb", of), keys)


def _hash_key(table: str) -> str | None:
    found = dynamodb_backends[ACCOUNT][REGION].tables.get(table)
    return str(found.hash_key_attr) if found else None


def _plain(value: Mapping[str, Any]) -> str:
    return str(next(iter(value.values())))


def _queried(body: Mapping[str, Any], key: str) -> list[str]:
    """The partition key that a Query names in its key condition."""
    names = body.get("ExpressionAttributeNames") or {}
    values = body.get("ExpressionAttributeValues") or {}
    pairs = _HASH_CONDITION.findall(str(body.get("KeyConditionExpression", "")))
    return [_plain(values[value]) for name, value in pairs if names.get(name, name) == key and value in values]


def _attributes(items: list[Mapping[str, Any]], body: Mapping[str, Any]) -> list[str]:
    names = body.get("ExpressionAttributeNames") or {}
    projected = [part.strip() for part in str(body.get("ProjectionExpression", "")).split(",") if part.strip()]
    return sorted({*(names.get(p, p) for p in projected), *(name for item in items for name in item)})


# -------------------------------------------------------------------------------------------------- other services


def _events(call: Call) -> list[Access]:
    if call.action != "PutEvents":
        name = call.params.get("Name") or call.params.get("Rule")
        return [Access(f"events:{call.action}", arn("events", f"rule/{name}") if name else "*")]
    found = []
    for entry in call.params.get("Entries", ()):
        bus = str(entry.get("EventBusName") or "default").rpartition("/")[2]
        keys = {"events:source": entry.get("Source"), "events:detail-type": entry.get("DetailType")}
        found.append(Access("events:PutEvents", arn("events", f"event-bus/{bus}"), context(keys)))
    return found


def _lambda(call: Call) -> list[Access]:
    action = {"Invoke": "InvokeFunction"}.get(call.action, call.action)
    name = str(call.params.get("FunctionName", "")).rpartition(":function:")[2].partition(":")[0]
    return [Access(f"lambda:{action}", arn("lambda", f"function:{name}") if name else "*")]


def _logs(call: Call) -> list[Access]:
    group = call.params.get("logGroupName")
    return [Access(f"logs:{call.action}", arn("logs", f"log-group:{group}:*") if group else "*")]


def _s3(call: Call) -> list[Access]:
    bucket, key = call.params.get("Bucket"), call.params.get("Key")
    action = {"ListObjectsV2": "ListBucket", "HeadObject": "GetObject"}.get(call.action, call.action)
    asked = [Access(f"s3:{action}", f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket or '*'}")]
    if key and action == "GetObject" and _is_gone(str(bucket), str(key)):
        # S3 API Reference, GetObject, "Permissions": who may not list the bucket is told AccessDenied, not NoSuchKey
        asked.append(Access("s3:ListBucket", f"arn:aws:s3:::{bucket}"))
    return asked


def _is_gone(bucket: str, key: str) -> bool:
    backend = s3_backends[ACCOUNT]["aws"]
    return bucket in backend.buckets and backend.get_object(bucket, key) is None


def _autoscaling(call: Call) -> list[Access]:
    """Service Authorization Reference, Amazon EC2 Auto Scaling: groups have both spellings of the tag key."""
    name = call.params.get("AutoScalingGroupName")
    if not name or call.action.startswith("Describe"):
        return [Access(f"autoscaling:{call.action}", "*")]
    group = autoscaling_backends[ACCOUNT][REGION].autoscaling_groups.get(str(name))
    tags = {str(t["Key"]): str(t.get("Value") or "") for t in group.tags} if group else {}
    keys = {f"{service}:ResourceTag/{k}": v for service in ("aws", "autoscaling") for k, v in tags.items()}
    resource = group.arn if group else arn("autoscaling", f"autoScalingGroup:*:autoScalingGroupName/{name}")
    return [Access(f"autoscaling:{call.action}", resource, context(keys))]


def _cloudwatch(call: Call) -> list[Access]:
    keys = context({"cloudwatch:namespace": call.params.get("Namespace")})
    return [Access(f"cloudwatch:{call.action}", "*", keys)]


def _ssm(call: Call) -> list[Access]:
    name = str(call.params.get("Name", "")).removeprefix("/")
    return [Access(f"ssm:{call.action}", arn("ssm", f"parameter/{name}") if name else "*")]


_SERVICES: Final[dict[str, Callable[[Call], list[Access]]]] = {
    "autoscaling": _autoscaling,
    "dynamodb": _dynamodb,
    "ec2": ec2_accesses,
    "events": _events,
    "lambda": _lambda,
    "logs": _logs,
    "monitoring": _cloudwatch,
    "s3": _s3,
    "sqs": _sqs,
    "ssm": _ssm,
}
