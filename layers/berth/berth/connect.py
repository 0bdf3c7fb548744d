"""Makes the edges on boto3: once for each execution environment, since clients are slow to make."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from berth.absent import NoHooks, NoLedger, Released, Unlimited
from berth.brake import BRAKE_CONFIG, Brake, SsmBrake
from berth.budget import BUDGET_CONFIG, Budget, DynamoBudget, paying
from berth.bus import EventBus
from berth.clients import make_client
from berth.ec2 import CLIENT_CONFIG, MUTATING_CONFIG, Boto3Ec2, call_ec2
from berth.ec2_errors import ec2_name
from berth.edges import Edges
from berth.hooks import HOOKS_CONFIG, AutoScalingHooks, Hooks
from berth.ledger import DynamoLedger, Ledger
from berth.looks import LookQueue
from berth.meters import Meters
from berth.public_store import AwsPublics, Publics
from berth.settings import Settings
from berth.standby_pools import parse_pools
from berth.standby_store import DynamoStandby
from berth.store import DynamoStore
from berth.world import pay

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from mypy_boto3_dynamodb.client import DynamoDBClient

    from berth.drift import DriftEdges
    from berth.follow import FollowEdges
    from berth.standby_work import FillEdges
    from berth.sweep_run import SweepEdges

__all__ = [
    "connect",
    "connect_brake",
    "connect_budget",
    "connect_bus",
    "connect_drift",
    "connect_ec2",
    "connect_fill",
    "connect_follow",
    "connect_hooks",
    "connect_ledger",
    "connect_looks",
    "connect_standby",
    "connect_sweep",
    "count_calls",
]


def connect_ec2(settings: Settings, meters: Meters | None = None, budget: Budget | None = None) -> Boto3Ec2:
    client = make_client("ec2", config=MUTATING_CONFIG)
    meters, budget = _counting(client, meters), budget or Unlimited()
    return Boto3Ec2(client, client, settings.arn_prefix, pay=lambda action: pay(budget, meters, time.time(), action))


def connect_bus(settings: Settings) -> EventBus:
    return EventBus(make_client("events", config=CLIENT_CONFIG), settings.bus)


def connect_looks(settings: Settings) -> LookQueue:
    return LookQueue(make_client("sqs", config=CLIENT_CONFIG), settings.events_queue_url)


def connect_standby(settings: Settings, table: DynamoDBClient) -> DynamoStandby:
    """Without any pool too: what a node has claimed is its own, whether or not its pool is still wanted."""
    pools: dict[str, list[str]] = {}
    for pool in parse_pools(settings.standby_pools, settings.clusters)[0]:
        pools.setdefault(pool.subnet_id, []).append(pool.key)
    return DynamoStandby(table, settings.table, settings.arn, pools)


def connect_publics(settings: Settings, ec2: Boto3Ec2, table: DynamoDBClient) -> Publics:
    """Without any pool too: what was claimed before is to be given back."""
    return AwsPublics(ec2.reader, table, settings.table, settings.public_pools, settings.arn, ec2.pay)


def connect_fill(settings: Settings) -> FillEdges:
    """What the filler works with. Its modules are imported here, so that no other function starts later for them."""
    from berth.standby_ec2 import Boto3StandbyEc2
    from berth.standby_stock import DynamoStock
    from berth.standby_work import FillEdges

    reader, writer = make_client("ec2", config=CLIENT_CONFIG), make_client("ec2", config=MUTATING_CONFIG)
    meters = _counting(reader, _counting(writer))
    table = make_client("dynamodb", config=CLIENT_CONFIG)
    return FillEdges(
        ec2=Boto3StandbyEc2(reader, writer),
        stock=DynamoStock(table, settings.table),
        leases=DynamoStore(table, settings.table),
        looks=connect_looks(settings),
        bus=connect_bus(settings),
        settings=settings,
        budget=connect_budget(settings),
        brake=connect_brake(settings),
        meters=meters,
    )


def connect_drift(settings: Settings, meters: Meters | None = None) -> DriftEdges:
    """What the search for changes by others works with. Imported here, as for the filler."""
    from berth.drift import DriftEdges
    from berth.drift_records import DynamoDriftRecords
    from berth.survey import Boto3Survey

    ec2 = make_client("ec2", config=CLIENT_CONFIG)
    _counting(ec2, meters)
    budget, table = connect_budget(settings), make_client("dynamodb", config=CLIENT_CONFIG)
    pay = paying(budget, time.time)
    return DriftEdges(
        survey=Boto3Survey(ec2, lambda: make_client("autoscaling", config=CLIENT_CONFIG), settings.arn_prefix),
        records=DynamoDriftRecords(table, settings.table),
        looks=connect_looks(settings),
        settings=settings,
        publics=AwsPublics(ec2, table, settings.table, settings.public_pools, settings.arn, pay),
        budget=budget,
    )


def connect_follow(settings: Settings, meters: Meters | None = None) -> FollowEdges:
    """What the follower of routes works with. Imported here, as for the filler."""
    from berth.follow import FollowEdges
    from berth.route_records import DynamoRouteRecords
    from berth.route_tables import RouteTables
    from berth.survey import Boto3Survey

    ec2 = make_client("ec2", config=CLIENT_CONFIG)
    _counting(ec2, meters)
    budget = connect_budget(settings)
    pay = paying(budget, time.time)

    def describe(action: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        pay(ec2_name(action))
        return call_ec2(ec2, action, parameters)

    return FollowEdges(
        routes=RouteTables(describe),
        instances=Boto3Survey(ec2, lambda: make_client("autoscaling", config=CLIENT_CONFIG), settings.arn_prefix),
        records=DynamoRouteRecords(make_client("dynamodb", config=CLIENT_CONFIG), settings.table),
        looks=connect_looks(settings),
        settings=settings,
        bus=connect_bus(settings),
        budget=budget,
    )


def connect_hooks(settings: Settings) -> Hooks:
    """Nothing is connected before the first hook is told something."""
    if not settings.launch_hook:
        return NoHooks()
    return AutoScalingHooks(lambda: make_client("autoscaling", config=HOOKS_CONFIG))


def connect_ledger(settings: Settings, table: DynamoDBClient) -> Ledger:
    if not settings.ledger_table:
        return NoLedger()
    return DynamoLedger(table, settings.ledger_table, settings.ledger_days)


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
    meters, budget = Meters(), connect_budget(settings)
    table = make_client("dynamodb", config=CLIENT_CONFIG)
    ec2 = connect_ec2(settings, meters, budget)
    return Edges(
        ec2=ec2,
        store=DynamoStore(table, settings.table),
        bus=connect_bus(settings),
        looks=connect_looks(settings),
        settings=settings,
        budget=budget,
        brake=connect_brake(settings),
        hooks=connect_hooks(settings),
        standby=connect_standby(settings, table),
        ledger=connect_ledger(settings, table),
        publics=connect_publics(settings, ec2, table),
        meters=meters,
    )


def connect_sweep(settings: Settings, meters: Meters | None = None) -> SweepEdges:
    """What the sweep works with. The client of Auto Scaling is made when an instance may wait in a hook."""
    from berth.survey import Boto3Survey
    from berth.sweep_run import SweepEdges
    from berth.sweep_store import DynamoSweepStore

    ec2 = make_client("ec2", config=CLIENT_CONFIG)
    _counting(ec2, meters)
    return SweepEdges(
        survey=Boto3Survey(ec2, lambda: make_client("autoscaling", config=CLIENT_CONFIG), settings.arn_prefix),
        store=DynamoSweepStore(make_client("dynamodb", config=CLIENT_CONFIG), settings.table),
        looks=connect_looks(settings),
        bus=connect_bus(settings),
        settings=settings,
        budget=connect_budget(settings),
    )


def _counting(client: BaseClient, meters: Meters | None = None) -> Meters:
    """``meters``, or new ones, which from now on count the client's calls."""
    meters = meters if meters is not None else Meters()
    count_calls(client, meters)
    return meters


def count_calls(client: BaseClient, meters: Meters) -> None:
    """Have every attempt at a call counted, also those that botocore repeats: each takes a token of EC2's bucket."""

    def received(event_name: str, parsed_response: Mapping[str, Any] | None = None, **_: Any) -> None:
        error = (parsed_response or {}).get("Error", {}) if parsed_response is not None else {"Code": "NoAnswer"}
        meters.called(event_name.rpartition(".")[2], error.get("Code") or "ok")

    client.meta.events.register("response-received", received)
