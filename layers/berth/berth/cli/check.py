"""``berth check``: is the network flat? From Describe calls, or from a saved snapshot without any."""

from __future__ import annotations

import argparse
import ipaddress
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from berth.cli.command import (
    FAILED,
    OK,
    CliError,
    UsageError,
    add_account_options,
    add_command,
    add_json_option,
    show_json,
)

if TYPE_CHECKING:
    from berth.cli.command import Commands
    from berth.flat.snapshot import Snapshot

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Decide from what EC2 describes whether TCP, UDP and ICMP pass, with their answers, between pods of all subnets, pods and
nodes, pods and the internet, pods and every peered or VPN network. For each failure: the rule that breaks it, and the
change that mends it. Nothing is sent and nothing is changed. See docs/flat-network.md.

    berth check --cluster prod                        the account's network now
    berth check --cluster prod --save net.json        and keep what was described
    berth check --from net.json --html net.html       judge it again, with no account

exit codes: 0 everything passes, 1 something does not or is not known (or the command failed), 2 wrong usage"""


def add_parser(commands: Commands) -> None:
    """Add the command's options."""
    parser = add_command(commands, "check", "is the network flat for pods, and what breaks it", _DESCRIPTION)
    for option, metavar, what in (
        ("--cluster", "NAME", "cluster of the nodes"),
        ("--no-snat", "CIDR", "destination that sees the pods' own addresses, as the stack's NoSnatCidrs"),
        ("--snat", "CIDR", "destination that sees the nodes' addresses, as the stack's SnatCidrs"),
        ("--cidr", "CIDR", "check this network too, beside those of routes and peerings"),
    ):
        parser.add_argument(option, action="append", default=[], metavar=metavar, help=f"{what}; may be repeated")
    parser.add_argument("--stack", metavar="NAME", help="take clusters and (no-)SNAT CIDRs from this stack of Berth")
    for option, what in (
        ("--from", "judge a saved snapshot, with no account"),
        ("--save", "keep what was described"),
        ("--html", "write a page with the picture"),
    ):
        parser.add_argument(option, dest=f"{option[2:]}_file", type=Path, metavar="FILE", help=what)
    add_json_option(parser)
    add_account_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check, show, and say by the exit code whether everything passes."""
    from berth.flat.matrix import check
    from berth.flat.report import as_json, as_text

    networks = _networks([*arguments.cidr])
    _networks([*arguments.no_snat, *arguments.snat])
    snapshot = _saved(arguments.from_file) if arguments.from_file else _described(arguments)
    if arguments.save_file:
        _write(arguments.save_file, _dumped(snapshot))
    matrix = check(snapshot, networks)
    if not matrix.cells:
        raise CliError(
            "nothing to check: no node of the cluster and no subnet tagged berth:allowed; see --cluster and --region"
        )
    if arguments.html_file:
        from berth.flat.picture import as_html

        _write(arguments.html_file, as_html(matrix, snapshot.taken_at))
    if arguments.json:
        show_json(as_json(matrix, snapshot.taken_at))
    else:
        print(as_text(matrix))
    return OK if matrix.flat else FAILED


def _networks(cidrs: list[str]) -> list[str]:
    for cidr in cidrs:
        try:
            ipaddress.IPv4Network(cidr)
        except ValueError as error:
            raise UsageError(f"{cidr} is no IPv4 CIDR: {error}") from None
    return cidrs


def _saved(path: Path) -> Snapshot:
    from berth.flat.documents import UnreadableSnapshotError, load

    try:
        return load(json.loads(path.read_text()))
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read {path}: {error}") from None
    except (UnreadableSnapshotError, json.JSONDecodeError) as error:
        raise CliError(f"{path} is no snapshot of `berth check --save`: {error}") from None


def _dumped(snapshot: Snapshot) -> str:
    from berth.flat.documents import dump

    return json.dumps(dump(snapshot), indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error}") from None


def _described(arguments: argparse.Namespace) -> Snapshot:
    from berth.cli.account import aws_errors, session
    from berth.cli.stack import stack_settings
    from berth.flat_survey import take_snapshot

    made: Any = session(arguments)
    clusters, no_snat, snat = list(arguments.cluster), list(arguments.no_snat), list(arguments.snat)
    if arguments.stack:
        settings = stack_settings(made, arguments.stack)
        clusters += settings.clusters
        no_snat += settings.no_snat_cidrs
        snat += settings.snat_cidrs
    if not clusters:
        raise UsageError("which nodes? give --cluster NAME or --stack NAME, or --from FILE")
    with aws_errors("describe the network"):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        wanted = sorted(set(clusters)), sorted(set(no_snat))
        return take_snapshot(made.client("ec2"), *wanted, now, snat=sorted(set(snat)))
