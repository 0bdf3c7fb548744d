"""``berth where``: which addresses a pod has had."""

from __future__ import annotations

import argparse
import re
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

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
from berth.history import Held, State
from berth.ledger_items import POD, PODS_INDEX, UID, UIDS_INDEX, latest

if TYPE_CHECKING:
    from berth.cli.command import Commands

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Which addresses POD has had, the latest first, by the lease ledger: from when to when, on which node and interface. POD
is NAMESPACE/NAME, or the pod's uid. A name may have been several pods', one after the other (a StatefulSet's), or one
in each of several clusters: node and uid tell them apart. With --at only what it had at that time, or may have had.
Exit code 3: nothing is recorded."""

_UID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_FACTS: Final = 2
"""Items of one lease: its begin and its end, seldom more."""


def add_parser(commands: Commands) -> None:
    """Add the command's options."""
    parser = add_command(commands, "where", "which addresses a pod has had", _DESCRIPTION)
    parser.add_argument("pod", metavar="POD", help="NAMESPACE/NAME, or a uid")
    parser.add_argument("--at", metavar="TIME", help="ISO 8601 with a zone, as in 2026-11-22T10:00Z")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="leases at the most; default: 20")
    add_stack_option(parser, DEFAULT_STACK)
    add_json_option(parser)
    add_account_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print its leases."""
    index, key, value = _which(arguments.pod)
    at = parse_time(arguments.at) if arguments.at else None
    if arguments.limit < 1:
        raise UsageError(f"--limit {arguments.limit}: expected 1 or more")
    ledger = reader(arguments)
    with aws_errors("read the ledger"):
        leases = _leases(ledger, index, key, value, at, arguments.limit)
    if arguments.json:
        show_json({"pod": value, "at": iso(at) if at else None, "leases": [as_json(lease) for lease in leases]})
    elif leases:
        print(leases_table(leases))
    else:
        print(f"no lease of {value} is recorded" + (f" at {iso(at)}" if at else ""))
    return OK if leases else DIFFERENT


def _which(pod: str) -> tuple[str, str, str]:
    """(index, its key, the key's value). Raises :class:`UsageError`."""
    if "/" in pod:
        return PODS_INDEX, POD, pod
    if _UID.fullmatch(pod):
        return UIDS_INDEX, UID, pod.lower()
    raise UsageError(f"{pod!r} is neither NAMESPACE/NAME nor a uid; a pod of the default namespace is default/{pod}")


def _leases(ledger: LedgerReader, index: str, key: str, value: str, at: float | None, limit: int) -> list[Held]:
    """From one Query, unless there is more than 1 MB of leases."""
    facts = chain.from_iterable(ledger.pages(index, key, value, latest(at) if at else None))
    if at is None:
        # a lease's items come together: one that is cut off in the middle is the last, and is left out
        return ledger.leases([*islice(facts, _FACTS * (limit + 1))])[:limit]
    found = ledger.leases([*facts])
    return [lease for lease in found if lease.at(at) in (State.HELD, State.UNKNOWN)][:limit]
