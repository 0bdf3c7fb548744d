"""``berth standby``: what the standby pools hold, and how many addresses lie idle for it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from berth.cli.account import aws_errors, session
from berth.cli.command import (
    DIFFERENT,
    OK,
    add_account_options,
    add_command,
    add_json_option,
    show_json,
    table,
    warn,
)
from berth.cli.stack import DEFAULT_STACK, add_stack_option, stack_settings
from berth.standby_items import REAPER, StandbyItem
from berth.standby_pools import StandbyPool, parse_pools

if TYPE_CHECKING:
    from berth.cli.command import Commands

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Show the pools of the stack's parameter StandbyPools and what the table knows of each: interfaces that are ready, those
that nodes have claimed and not yet made wholly theirs, and the addresses that lie idle on the ready ones. A pool that
is no longer in the parameter is shown until nothing of it is left. Exit code 3: an entry cannot be used."""


def add_parser(commands: Commands) -> None:
    """Add the command's options."""
    parser = add_command(commands, "standby", "show what the standby pools hold", _DESCRIPTION)
    add_stack_option(parser)
    add_json_option(parser)
    add_account_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the pools."""
    from berth.standby_stock import DynamoStock

    account = session(arguments)
    settings = stack_settings(account, arguments.stack or DEFAULT_STACK)
    pools, problems = parse_pools(settings.standby_pools, settings.clusters)
    wanted = {p.key: p for p in pools}
    with aws_errors("read the standby pools"):
        stock = DynamoStock(account.client("dynamodb"), settings.table)
        held = {key: stock.items(key)[0] for key in sorted({*wanted, *stock.pools()})}
    rows = [_row(key, wanted.get(key), items) for key, items in held.items()]
    if arguments.json:
        show_json({"pools": rows, "problems": [{"entry": p.value, "message": p.message} for p in problems]})
    else:
        print(_text(rows))
        for problem in problems:
            warn(f"{problem.value}: {problem.message}")
    return DIFFERENT if problems else OK


def _row(key: str, pool: StandbyPool | None, items: Sequence[StandbyItem]) -> dict[str, Any]:
    ready = [i for i in items if not i.claimed_by]
    claimed = [i for i in items if i.claimed_by not in ("", REAPER) and not i.settled_at]
    first = items[0].interface if items else None
    return {
        "pool": key,
        "cluster": pool.cluster if pool else (first.cluster if first else ""),
        "subnet": pool.subnet_id if pool else (first.subnet_id if first else ""),
        "groups": list(pool.groups if pool else (first.groups if first else ())),
        "prefixes": pool.prefixes if pool else (len(first.prefixes) if first else 0),
        "count": pool.count if pool else 0,
        "ready": len(ready),
        "claimed": len(claimed),
        "idle_addresses": sum(1 + 16 * len(i.interface.prefixes) + len(i.interface.addresses) for i in ready),
        "oldest_claim_seconds": round(time.time() - min((i.claimed_at for i in claimed), default=time.time())),
        "in_parameter": pool is not None,
    }


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "no standby pool: the stack's parameter StandbyPools is empty, and nothing is left of an earlier one"
    header = ("POOL", "CLUSTER", "SUBNET", "GROUPS", "PREFIXES", "READY", "CLAIMED", "IDLE ADDRESSES")
    return table(
        header,
        (
            (
                r["pool"] if r["in_parameter"] else f"{r['pool']} (removed)",
                r["cluster"],
                r["subnet"],
                "+".join(r["groups"]),
                r["prefixes"],
                f"{r['ready']}/{r['count']}",
                r["claimed"],
                r["idle_addresses"],
            )
            for r in rows
        ),
    )
