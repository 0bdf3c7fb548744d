"""What a deployed stack says of itself: its parameters and outputs as the functions' own settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from berth.cli.account import aws_errors
from berth.cli.command import CliError
from berth.settings import Settings

if TYPE_CHECKING:
    import argparse

    import boto3

__all__ = ["DEFAULT_STACK", "add_stack_option", "stack_settings"]

DEFAULT_STACK = "berth"
_PARAMETERS = {
    "CLUSTER_NAMES": "ClusterNames",
    "DEFAULT_MODE": "DefaultMode",
    "DEFAULT_WARM_ADDRESSES": "DefaultWarmAddresses",
    "DEFAULT_MINIMUM_ADDRESSES": "DefaultMinimumAddresses",
    "DEFAULT_MAX_PODS": "DefaultMaxPods",
    "DEFAULT_COOLDOWN_SECONDS": "DefaultCooldownSeconds",
    "NO_SNAT_CIDRS": "NoSnatCidrs",
    "RECONCILE_DELAY_SECONDS": "ReconcileDelaySeconds",
    "SUBNET_LOW_PERCENT": "SubnetLowPercent",
    "STANDBY_POOLS": "StandbyPools",
}
_OUTPUTS = {"TABLE_NAME": "TableName", "NODE_EVENTS_QUEUE_URL": "NodeEventsQueueUrl", "BUS_NAME": "BusName"}


def add_stack_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stack", metavar="NAME", help="Berth's stack, whose defaults and table are used")


def stack_settings(session: boto3.Session, name: str) -> Settings:
    """The settings that the functions of this stack have. Raises :class:`CliError`."""
    with aws_errors(f"read the stack {name}"):
        stack = session.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    parameters = {p["ParameterKey"]: p.get("ParameterValue", "") for p in stack.get("Parameters", ())}
    outputs = {o["OutputKey"]: o["OutputValue"] for o in stack.get("Outputs", ())}
    try:
        environ = {k: parameters[v] for k, v in _PARAMETERS.items()} | {k: outputs[v] for k, v in _OUTPUTS.items()}
    except KeyError as error:
        raise CliError(f"the stack {name} has no {error}: is it Berth's, and finished? See --stack") from None
    return Settings.from_environment({**environ, **_places(stack["StackId"])})


def _places(stack_id: str) -> Mapping[str, str]:
    """A stack's id is an ARN: it tells partition, region and account."""
    _, partition, _, region, account, _ = stack_id.split(":", 5)
    prefix = f"arn:{partition}:ec2:{region}:{account}:instance/"
    return {"INSTANCE_ARN_PREFIX": prefix, "NODE_REPORTS_QUEUE_ARN": ""}
