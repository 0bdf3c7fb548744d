"""Reading the lease ledger for ``berth who`` and ``berth where``, and showing leases and times."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from berth.cli.account import aws_errors, session
from berth.cli.command import CliError, UsageError, table
from berth.cli.stack import DEFAULT_STACK, stack_settings
from berth.history import Held
from berth.ledger_reader import LedgerReader

__all__ = ["LedgerReader", "as_json", "iso", "leases_table", "parse_time", "reader"]


def reader(arguments: argparse.Namespace) -> LedgerReader:
    """For the stack that the arguments name. Raises :class:`CliError`."""
    account = session(arguments)
    name = arguments.stack or DEFAULT_STACK
    settings = stack_settings(account, name)
    if not settings.ledger_table:
        raise CliError(f"the stack {name} keeps no ledger: its parameter LedgerRetentionDays is 0")
    with aws_errors("read the ledger"):
        return LedgerReader(account.client("dynamodb"), settings)


# ------------------------------------------------------------------------------------------------------ times


def parse_time(text: str) -> float:
    """ISO 8601 with a zone, as Unix seconds. Raises :class:`UsageError`: without a zone it could be any of 26 hours."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time; write it as in 2026-11-22T10:00:00Z") from None
    if when.tzinfo is None:
        raise UsageError(f"{text!r} names no time zone; add Z for UTC, or an offset such as +01:00")
    return when.timestamp()


def iso(when: float) -> str:
    """UTC, to the millisecond where there is more than a second."""
    text = datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
    return text.replace(".000", "").replace("+00:00", "Z")


# ------------------------------------------------------------------------------------------------------ showing


def leases_table(leases: Iterable[Held]) -> str:
    """A line for each lease."""
    header = ("ADDRESS", "POD", "UID", "NODE", "INTERFACE", "SUBNET", "FROM", "TO")
    return table(header, (_row(lease) for lease in leases))


def _row(lease: Held) -> tuple[str, ...]:
    where = (lease.instance_id, lease.interface_id or "-", lease.subnet_id or "-")
    return lease.address, lease.pod, lease.uid or "-", *where, iso(lease.began), _end(lease)


def _end(lease: Held) -> str:
    if lease.live:
        return f"goes on, as of {iso(lease.held_until)}"
    if lease.over_by == lease.held_until:
        return iso(lease.over_by)
    until = f"between that and {iso(lease.over_by)}" if lease.over_by else "nobody knows"
    return f"held until {iso(lease.held_until)}, then unknown ({until}: {lease.why})"


def as_json(lease: Held) -> Mapping[str, Any]:
    """``to`` is null unless the very end is known."""
    exact = bool(lease.over_by) and lease.over_by == lease.held_until
    return {
        "address": lease.address,
        "namespace": lease.namespace,
        "name": lease.name,
        "uid": lease.uid,
        "node": lease.instance_id,
        "interface": lease.interface_id,
        "subnet": lease.subnet_id,
        "from": iso(lease.began),
        "to": iso(lease.over_by) if exact else None,
        "held_until": iso(lease.held_until),
        "over_by": iso(lease.over_by) if lease.over_by else None,
        "goes_on": lease.live,
        "why": lease.why,
        "told": iso(lease.received) if lease.received else None,
    }
