"""What a deployed stack says of itself: the settings that its functions have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from berth.cli.account import aws_errors
from berth.cli.command import CliError
from berth.settings import Settings

if TYPE_CHECKING:
    import argparse

    import boto3

__all__ = ["DEFAULT_STACK", "add_stack_option", "stack_outputs", "stack_settings"]

DEFAULT_STACK: Final = "berth"
_FUNCTION: Final = "ReconcileFunctionName"
"""The output that names the function whose environment is read."""


def add_stack_option(parser: argparse._ActionsContainer, default: str | None = None) -> None:
    shown = f"; default: {default}" if default else ""
    parser.add_argument("--stack", metavar="NAME", default=default, help=f"Berth's stack{shown}")


def stack_outputs(session: boto3.Session, name: str) -> dict[str, str]:
    """The outputs of a stack. Raises :class:`CliError`."""
    with aws_errors(f"read the stack {name}"):
        stack = session.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
        return {o["OutputKey"]: o["OutputValue"] for o in stack.get("Outputs", ())}


def stack_settings(session: boto3.Session, name: str) -> Settings:
    """The settings that the functions of this stack have, from the environment of one. Raises :class:`CliError`."""
    outputs = stack_outputs(session, name)
    with aws_errors(f"read the stack {name}"):
        if _FUNCTION not in outputs:
            raise CliError(f"the stack {name} has no output {_FUNCTION}: is it Berth's, and finished? See --stack")
        about = session.client("lambda").get_function_configuration(FunctionName=outputs[_FUNCTION])
    try:
        return Settings.from_environment(about.get("Environment", {}).get("Variables", {}))
    except (KeyError, ValueError) as error:
        raise CliError(f"the stack {name} is of another version: {error}; use the command of that version") from None
