"""Makes the edges on boto3: once for each execution environment, since clients are slow to make."""

from __future__ import annotations

import boto3

from berth.absent import NoHooks
from berth.bus import EventBus
from berth.ec2 import CLIENT_CONFIG, MUTATING_CONFIG, Boto3Ec2
from berth.edges import Edges
from berth.hooks import HOOKS_CONFIG, AutoScalingHooks, Hooks
from berth.looks import LookQueue
from berth.settings import Settings
from berth.store import DynamoStore

__all__ = ["connect", "connect_bus", "connect_ec2", "connect_looks", "connect_store"]


def connect_ec2(settings: Settings) -> Boto3Ec2:
    reader = boto3.client("ec2", config=CLIENT_CONFIG)
    writer = boto3.client("ec2", config=MUTATING_CONFIG)
    return Boto3Ec2(reader, writer, settings.arn_prefix)


def connect_store(settings: Settings) -> DynamoStore:
    return DynamoStore(boto3.client("dynamodb", config=CLIENT_CONFIG), settings.table)


def connect_bus(settings: Settings) -> EventBus:
    return EventBus(boto3.client("events", config=CLIENT_CONFIG), settings.bus)


def connect_looks(settings: Settings) -> LookQueue:
    return LookQueue(boto3.client("sqs", config=CLIENT_CONFIG), settings.events_queue_url)


def connect_hooks(settings: Settings) -> Hooks:
    """Nothing is connected before the first hook is told something."""
    if not settings.launch_hook:
        return NoHooks()
    return AutoScalingHooks(lambda: boto3.client("autoscaling", config=HOOKS_CONFIG))


def connect(settings: Settings) -> Edges:
    """Every edge, in the region and with the credentials of the environment."""
    return Edges(
        ec2=connect_ec2(settings),
        store=connect_store(settings),
        bus=connect_bus(settings),
        looks=connect_looks(settings),
        settings=settings,
        hooks=connect_hooks(settings),
    )
