"""What every command is made of: its options, its errors, how it shows what it found.

A command is a module with ``add_parser(commands)``, which adds its parser with ``set_defaults(run=...)``, and a
function ``run(arguments)`` that returns an exit code. Libraries that are slow to import are imported in ``run``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = [
    "DIFFERENT",
    "FAILED",
    "OK",
    "USAGE",
    "CliError",
    "UsageError",
    "add_account_options",
    "add_command",
    "add_json_option",
    "show_json",
    "table",
    "warn",
]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
DIFFERENT: Final = 3


class CliError(Exception):
    """Something the user can put right. The message says what is wrong and what to do about it; exit code 1."""

    code = FAILED


class UsageError(CliError):
    """Options that do not go together; exit code 2, as argparse's own errors have."""

    code = USAGE


def add_command(commands: Commands, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    """A command's parser. ``summary`` is its line in ``berth --help``, ``description`` heads its own help."""
    return commands.add_parser(
        name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def add_account_options(parser: argparse.ArgumentParser) -> None:
    """Where the AWS calls go; credentials are found as every AWS tool finds them."""
    parser.add_argument("--region", help="AWS region; default: the environment's or the profile's")
    parser.add_argument("--profile", help="profile of the AWS configuration; default: the environment's")


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their widest cell."""
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in texts)


def warn(message: str) -> None:
    """On the error output, so that what is printed can be piped on."""
    print(f"berth: warning: {message}", file=sys.stderr)
