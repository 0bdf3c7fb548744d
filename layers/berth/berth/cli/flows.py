"""``berth flows``: who talks to whom, and what was denied, from flow logs with pods' names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from berth.cli.command import (
    DIFFERENT,
    OK,
    UsageError,
    add_account_options,
    add_command,
    add_json_option,
    show_json,
    table,
)
from berth.cli.flow_files import add_source_options, batches, require_pyarrow, span_of
from berth.cli.ledger import iso

if TYPE_CHECKING:
    from berth.cli.command import Commands
    from berth.flows.totals import Amount, Denial

__all__ = ["add_parser", "denied", "top"]

_DESCRIPTION = """\
Questions to flow logs that the function attribute_flows has put pods' names to (FlowAttribution, docs/flow-logs.md).

    berth flows top --by pair --last 6h
    berth flows denied --to shop/cart-5d4f-x2x9k

What stays within a node, no flow log has. Flows reach S3 some ten minutes late. Exit code 3: there are none."""
_BY: Final = ("pod", "pair", "namespace", "node", "port")
_HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "pod": ("POD",),
    "node": ("NODE",),
    "pair": ("FROM", "TO"),
    "namespace": ("FROM", "TO"),
    "port": ("TO", "PROTOCOL", "PORT"),
}
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}


def add_parser(commands: Commands) -> None:
    """Add the command's own commands and their options."""
    parser = add_command(commands, "flows", "who talks to whom, and what was denied, by pod", _DESCRIPTION)
    inner = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")
    most = add_command(inner, "top", "who sends and gets the most", "Who sends and gets the most bytes.")
    most.add_argument("--by", choices=_BY, default="pod", help="what is added up; default: pod")
    most.add_argument("--limit", type=int, default=20, metavar="N", help="lines at the most; default: 20")
    refused = add_command(
        inner, "denied", "what was denied on its way to a pod", "What groups or ACLs denied on its way to a pod."
    )
    refused.add_argument("--to", required=True, metavar="POD", help="NAMESPACE/NAME, or a uid")
    refused.add_argument("--source", default="", metavar="POD", help="from this pod alone")
    for one, run in ((most, top), (refused, denied)):
        add_source_options(one)
        add_json_option(one)
        add_account_options(one)
        one.set_defaults(run=run)


def top(arguments: argparse.Namespace) -> int:
    """Print who sends and gets the most."""
    if arguments.limit < 1:
        raise UsageError(f"--limit {arguments.limit}: expected 1 or more")
    require_pyarrow()
    from berth.flows.totals import COLUMNS, Totals

    totals = Totals(arguments.by)
    for batch in batches(arguments, COLUMNS):
        totals.add(batch)
    rows = totals.top(arguments.limit)
    names, both = _HEADERS[arguments.by], arguments.by in ("pod", "node")
    if arguments.json:
        show_json(_asked(arguments) | {"by": arguments.by, "flows": [_as_json(names, both, *row) for row in rows]})
    elif rows:
        amounts = ("SENT", "RECEIVED", "RECORDS") if both else ("BYTES", "PACKETS", "RECORDS")
        print(table((*names, *amounts), (_line(arguments.by, both, *row) for row in rows)))
    else:
        print("no flows are recorded in that time")
    return OK if rows else DIFFERENT


def _line(by: str, both: bool, key: tuple[Any, ...], sent: Amount, received: Amount) -> tuple[object, ...]:
    shown = (key[0], _protocol(key[1]), key[2] if key[2] is not None else "-") if by == "port" else key
    if both:
        return (*shown, _size(sent.bytes), _size(received.bytes), sent.records + received.records)
    return (*shown, _size(sent.bytes), sent.packets, sent.records)


def _as_json(
    names: tuple[str, ...], both: bool, key: tuple[Any, ...], sent: Amount, received: Amount
) -> Mapping[str, Any]:
    found = dict(zip((n.lower() for n in names), key, strict=True))
    if both:
        found |= {"received_bytes": received.bytes, "received_packets": received.packets}
        return found | {
            "sent_bytes": sent.bytes,
            "sent_packets": sent.packets,
            "records": sent.records + received.records,
        }
    return found | {"bytes": sent.bytes, "packets": sent.packets, "records": sent.records}


def _size(octets: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if octets < 1000:
            return f"{octets:.3g} {unit}"
        octets = octets / 1000  # type: ignore[assignment]
    return f"{octets:.4g} TB"


def _protocol(number: int | None) -> str:
    return _PROTOCOLS.get(number or 0, str(number) if number is not None else "-")


def denied(arguments: argparse.Namespace) -> int:
    """Print what was denied."""
    require_pyarrow()
    from berth.flows.totals import COLUMNS, Denials

    denials = Denials(arguments.to, arguments.source)
    for batch in batches(arguments, COLUMNS):
        denials.add(batch)
    found = denials.found()
    if arguments.json:
        told = {"to": arguments.to, "denied": [_denial(d) for d in found], "perhaps_records": denials.perhaps}
        show_json(_asked(arguments) | told)
    else:
        print(_denied_text(arguments.to, found, denials.perhaps))
    return OK if found else DIFFERENT


def _denied_text(pod: str, found: list[Denial], perhaps: int) -> str:
    lines = [f"nothing that was denied to {pod} is recorded in that time"]
    if found:
        header = ("FROM", "PROTOCOL", "PORT", "DENIED", "REASON", "PACKETS", "RECORDS", "FIRST", "LAST")
        rows = (
            (
                d.source,
                _protocol(d.protocol),
                d.port,
                d.at,
                d.reason or "-",
                d.packets,
                d.records,
                iso(d.first),
                iso(d.last),
            )
            for d in found
        )
        lines = [table(header, rows)]
    if perhaps:
        lines.append(f"{perhaps} more records are of addresses that it may have had: see dst_pod_candidates")
    return "\n".join(lines)


def _denial(denial: Denial) -> Mapping[str, Any]:
    return {
        "from": denial.source,
        "protocol": denial.protocol,
        "port": denial.port,
        "at": denial.at,
        "reason": denial.reason or None,
        "packets": denial.packets,
        "records": denial.records,
        "first": iso(denial.first),
        "last": iso(denial.last),
    }


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    span = span_of(arguments)
    return {"since": iso(span.since), "until": iso(span.until)}
