"""Makes the edges on boto3: once for each execution environment, since clients are slow to make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from berth.absent import NoHooks, Released, Unlimited
from berth.brake import BRAKE_CONFIG, Brake, SsmBrake
from berth.budget import BUDGET_CONFIG, Budget, DynamoBudget
from berth.bus import EventBus
from berth.clients import make_client
from berth.ec2 import CLIENT_CONFIG, MUTATING_CONFIG, Boto3Ec2
from berth.edges import Edges
from berth.hooks import HOOKS_CONFIG, AutoScalingHooks, Hooks
from berth.looks import LookQueue
from berth.meters import Meters
from berth.settings import Settings
from berth.store import DynamoStore
from berth.survey import Boto3Survey
from berth.sweep_run import SweepEdges
from berth.sweep_store import DynamoSweepStore

if TYPE_CHECKING:
    from botocore.client import BaseClient

__all__ = [
    "connect",
    "connect_brake",
    "connect_budget",
    "connect_bus",
    "connect_ec2",
    "connect_looks",
    "connect_store",
    "connect_sweep",
    "count_calls",
]


def connect_ec2(settings: Settings, meters: Meters | None = None) -> Boto3Ec2:
    reader = make_client("ec2", config=CLIENT_CONFIG)
    writer = make_client("ec2", config=MUTATING_CONFIG)
    for client in (reader, writer) if meters is not None else ():
        count_calls(client, meters)
    return Boto3Ec2(reader, writer, settings.arn_prefix)


def connect_store(settings: Settings) -> DynamoStore:
    return DynamoStore(make_client("dynamodb", config=CLIENT_CONFIG), settings.table)


def connect_bus(settings: Settings) -> EventBus:
    return EventBus(make_client("events", config=CLIENT_CONFIG), settings.bus)


def connect_looks(settings: Settings) -> LookQueue:
    return LookQueue(make_client("sqs", config=CLIENT_CONFIG), settings.events_queue_url)


def connect_hooks(settings: Settings) -> Hooks:
    """Nothing is connected before the first hook is told something."""
    if not settings.launch_hook:
        return NoHooks()
    return AutoScalingHooks(lambda: make_client("autoscaling", config=HOOKS_CONFIG))


def connect_budget(settings: Settings) -> Budget:
    if not settings.budget_table:
        return Unlimited()
    client = make_client("dynamodb", config=BUDGET_CONFIG)
    return DynamoBudget(client, settings.budget_table, settings.budget_scope, settings.buckets)


def connect_brake(settings: Settings) -> Brake:
    """The client is made at the first reading."""
    if not settings.brake_parameter:
        return Released()
    return SsmBrake(lambda: make_client("ssm", config=BRAKE_CONFIG), settings.brake_parameter)


def connect(settings: Settings) -> Edges:
    """Every edge, in the region and with the credentials of the environment."""
    meters = Meters()
    return Edges(
        ec2=connect_ec2(settings, meters),
        store=connect_store(settings),
        bus=connect_bus(settings),
        looks=connect_looks(settings),
        settings=settings,
        budget=connect_budget(settings),
        brake=connect_brake(settings),
        hooks=connect_hooks(settings),
        meters=meters,
    )


def connect_sweep(settings: Settings, meters: Meters | None = None) -> SweepEdges:
    """What the sweep works with. The client of Auto Scaling is made when an instance may wait in a hook."""
    ec2 = make_client("ec2", config=CLIENT_CONFIG)
    if meters is not None:
        count_calls(ec2, meters)
    return SweepEdges(
        survey=Boto3Survey(ec2, lambda: make_client("autoscaling", config=CLIENT_CONFIG), settings.arn_prefix),
        store=DynamoSweepStore(make_client("dynamodb", config=CLIENT_CONFIG), settings.table),
        looks=connect_looks(settings),
        bus=connect_bus(settings),
        settings=settings,
        budget=connect_budget(settings),
    )


def count_calls(client: BaseClient, meters: Meters) -> None:
    """Have every attempt at a call counted, also those that botocore repeats: each takes a token of EC2's bucket."""

    def received(event_name: str, parsed_response: Mapping[str, Any] | None = None, **_: Any) -> None:
        error = (parsed_response or {}).get("Error", {}) if parsed_response is not None else {"Code": "NoAnswer"}
        meters.called(event_name.rpartition(".")[2], error.get("Code") or "ok")

    client.meta.events.register("response-received", received)
