"""Parses the command line, runs the command, and says in words what a user can put right."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from berth.cli.command import FAILED, CliError
from berth.cli.registry import COMMANDS

__all__ = ["main"]

_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage; a command's own help names others"


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="berth", description="Berth's operator commands.", epilog=_CODES)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; argparse itself leaves with 2 (SystemExit)."""
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except CliError as error:
        print(f"berth: {error}", file=sys.stderr)
        return error.code
    except BrokenPipeError:
        # the reader (`head`) has seen enough; Python would complain again when it closes the output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 128 + 2
    return code
