"""All that an account holds, as its services list it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Inventory", "inventory"]

Inventory = dict[str, set[str]]


def inventory(client: Callable[[str], Any]) -> Inventory:
    """Names by kind. ``client`` makes a client of a service. Only kinds that hold something are in it."""
    found: dict[str, set[str]] = {}
    for kind, name in _all(client):
        found.setdefault(kind, set()).add(name)
    return found


def _all(client: Callable[[str], Any]) -> Iterator[tuple[str, str]]:
    stacks = client("cloudformation").describe_stacks()["Stacks"]
    yield from (("stack", s["StackName"]) for s in stacks)
    yield from _lambda(client("lambda"))
    yield from (("queue", url.rpartition("/")[2]) for url in client("sqs").list_queues().get("QueueUrls", ()))
    yield from (("table", name) for name in client("dynamodb").list_tables()["TableNames"])
    yield from (("log group", g["logGroupName"]) for g in client("logs").describe_log_groups()["logGroups"])
    yield from _events(client("events"))
    yield from _iam(client("iam"))
    yield from _s3(client("s3"))


def _lambda(api: Any) -> Iterator[tuple[str, str]]:
    for function in api.list_functions()["Functions"]:
        yield "function", function["FunctionName"]
    for layer in api.list_layers()["Layers"]:
        for version in api.list_layer_versions(LayerName=layer["LayerName"])["LayerVersions"]:
            yield "layer version", version["LayerVersionArn"]
    for mapping in api.list_event_source_mappings()["EventSourceMappings"]:
        yield "event source mapping", mapping["UUID"]


def _events(api: Any) -> Iterator[tuple[str, str]]:
    for bus in api.list_event_buses()["EventBuses"]:
        yield "event bus", bus["Name"]
        for rule in api.list_rules(EventBusName=bus["Name"])["Rules"]:
            yield "rule", rule["Arn"]


def _iam(api: Any) -> Iterator[tuple[str, str]]:
    for role in api.list_roles()["Roles"]:
        yield "role", role["Arn"]
    for policy in api.list_policies(Scope="Local")["Policies"]:
        yield "managed policy", policy["Arn"]


def _s3(api: Any) -> Iterator[tuple[str, str]]:
    for bucket in api.list_buckets()["Buckets"]:
        yield "bucket", bucket["Name"]
        for item in api.list_objects_v2(Bucket=bucket["Name"]).get("Contents", ()):
            yield "object", item["Key"]
