"""``berth who``: which pod had an address at some time."""

from __future__ import annotations

import argparse
import ipaddress
import time
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from berth.cli.account import aws_errors
from berth.cli.command import (
    DIFFERENT,
    OK,
    UsageError,
    add_account_options,
    add_command,
    add_json_option,
    show_json,
)
from berth.cli.ledger import LedgerReader, as_json, iso, leases_table, parse_time, reader
from berth.cli.stack import DEFAULT_STACK, add_stack_option
from berth.history import Answer, Held, State, ask
from berth.ledger_items import ADDRESS, latest

if TYPE_CHECKING:
    from berth.cli.command import Commands

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Which pod had ADDRESS at a time, by the lease ledger, and from when to when. The answer is "held", "none" (no lease is
recorded then), "unknown" (a lease had begun and nobody told whether it had ended; the reason is given, and who held the
address beside it) or "conflict" (several nodes claim it). Times are of the node's clock. Without --at the question is
about now: a node that was heard of within two minutes counts as going on. The same address may be in several networks;
--subnet asks about one. Exit code 3: the answer is not "held"."""


def add_parser(commands: Commands) -> None:
    """Add the command's options."""
    parser = add_command(commands, "who", "which pod had an address at some time", _DESCRIPTION)
    parser.add_argument("address", metavar="ADDRESS", help="IPv4 or IPv6")
    parser.add_argument("--at", metavar="TIME", help="ISO 8601 with a zone, as in 2026-11-22T10:00Z; default: now")
    parser.add_argument("--subnet", metavar="ID", help="the address in this subnet alone")
    add_stack_option(parser, DEFAULT_STACK)
    add_json_option(parser)
    add_account_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print who it was."""
    try:
        address = str(ipaddress.ip_address(arguments.address))
    except ValueError:
        raise UsageError(f"{arguments.address!r} is no IP address") from None
    now = time.time()
    at = parse_time(arguments.at) if arguments.at else now
    ledger = reader(arguments)
    with aws_errors("read the ledger"):
        answer = _answer(ledger, address, at, arguments.subnet, None if arguments.at else now)
    if arguments.json:
        leases = [as_json(lease) for lease in answer.leases]
        found = {"address": address, "at": iso(at), "state": answer.state.value, "reason": answer.reason}
        show_json({**found, "leases": leases})
    else:
        print(_text(address, at, answer))
    return OK if answer.state is State.HELD else DIFFERENT


def _answer(ledger: LedgerReader, address: str, at: float, subnet: str | None, now: float | None) -> Answer:
    """From one Query for each MB of leases begun before: the very first of them may have gone on until then."""
    facts = chain.from_iterable(ledger.pages(None, ADDRESS, address, latest(at)))
    return ask(_of(ledger.leases([*facts]), subnet), at, now)


def _of(leases: Sequence[Held], subnet: str | None) -> list[Held]:
    return [lease for lease in leases if subnet in (None, lease.subnet_id)]


def _text(address: str, at: float, answer: Answer) -> str:
    match answer.state:
        case State.HELD:
            told = " and ".join(f"held by {lease.pod}" for lease in answer.leases)
        case State.NONE:
            told = f"none: {answer.reason}" + ("; the last one before it was" if answer.leases else "")
        case _:
            told = f"{answer.state.value}: {answer.reason}"
    return "\n".join([f"{address} at {iso(at)}: {told}", *([leases_table(answer.leases)] if answer.leases else ())])
