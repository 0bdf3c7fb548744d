"""``berth replay``: makes a logged decision again, with the planner of today."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from berth.cli.command import DIFFERENT, OK, CliError, add_command, add_json_option, show_json, warn
from berth.cli.decoding import UnreadableError, decode
from berth.decision import Decision, replan
from berth.plan import Plan

if TYPE_CHECKING:
    from berth.cli.command import Commands

__all__ = ["add_parser", "lines_of", "run"]

_DESCRIPTION = """\
Read log lines of Berth's functions, make each decision in them again with the planner of this version, and show what
differs. Input is lines as `aws logs tail` prints them (with or without the time in front), or the JSON that
`aws logs filter-log-events` answers with; lines without a decision are passed over. To get some:
    aws logs filter-log-events --log-group-name GROUP --filter-pattern '{ $.message = "decision" && $.node = "i-..." }'

exit codes: 0 all the same, 1 nothing to replay, 2 wrong usage, 3 at least one plan differs"""


def add_parser(commands: Commands) -> None:
    """Add the command's options."""
    parser = add_command(commands, "replay", "make logged decisions again and show what differs", _DESCRIPTION)
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="default: -, the standard input")
    parser.add_argument("--line", type=int, metavar="N", help="only the one in this line of the input, from 1")
    add_json_option(parser)
    parser.set_defaults(run=run)


@dataclass(frozen=True, slots=True)
class _Logged:
    """A decision with what its line says around it."""

    line: int
    around: dict[str, Any]
    decision: Decision
    unknown: tuple[str, ...]


def run(arguments: argparse.Namespace) -> int:
    """Replay every decision in the input."""
    wanted = list(_read(lines_of(_text(arguments.file)), arguments.line))
    if not wanted:
        where = f"line {arguments.line}" if arguments.line else "the input"
        raise CliError(
            f"{where} holds no decision: look for lines whose message is decision (quiet looks, which have nothing "
            "to do, log theirs only with the stack's parameter LogLevel at DEBUG)"
        )
    shown = [_replay(logged) for logged in wanted]
    if arguments.json:
        show_json(shown)
    else:
        print("\n\n".join(map(_report, shown)))
    return OK if all(s["same"] for s in shown) else DIFFERENT


def _text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read {name}: {error}") from None


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Numbered log lines: those of the text, or the messages of a filter-log-events answer."""
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    # a line of ours has events too, by their ids
    if isinstance(whole, dict) and isinstance(whole.get("events"), list) and "decision" not in whole:
        yield from enumerate((str(e.get("message", "")) for e in whole["events"] if isinstance(e, dict)), 1)
    elif isinstance(whole, dict):
        yield 1, text
    else:
        yield from enumerate(text.splitlines(), 1)


def _read(lines: Iterable[tuple[int, str]], only: int | None) -> Iterator[_Logged]:
    for number, text in lines:
        if only not in (None, number):
            continue
        try:
            # a time and a stream's name may stand before the object
            item = json.loads(text[text.index("{") :])
        except ValueError:
            continue
        if isinstance(item, dict) and "decision" in item:
            try:
                decision, unknown = decode(item["decision"])
            except UnreadableError as error:
                raise CliError(f"line {number}: {error}") from None
            yield _Logged(number, item, decision, unknown)


def _replay(logged: _Logged) -> dict[str, Any]:
    if logged.unknown:
        warn(f"line {logged.line} knows {', '.join(logged.unknown)}, which this version does not: upgrade to be sure")
    then, today = logged.decision.plan, replan(logged.decision)
    return {
        "line": logged.line,
        "node": logged.decision.view.instance.id,
        "time": logged.around.get("timestamp", ""),
        "reasons": logged.around.get("reasons", []),
        "events": logged.around.get("events", []),
        "then": _plain(then),
        "today": _plain(today),
        "same": then == today,
    }


def _plain(plan: Plan) -> dict[str, Any]:
    return {
        "calls": [str(call) for call in plan.calls],
        "unmet": plan.unmet,
        "reason": plan.reason,
        "waiting": plan.waiting,
        "unwanted": list(plan.unwanted),
    }


def _report(shown: dict[str, Any]) -> str:
    verdict = "today's plan is the same" if shown["same"] else "today's plan differs (- then, + today)"
    head = f"line {shown['line']}: {shown['node']} {shown['time']}".rstrip()
    why = "; ".join([*shown["reasons"], *(f"event {e}" for e in shown["events"])])
    then, today = _lines(shown["then"]), _lines(shown["today"])
    body = (line for line in difflib.ndiff(then, today) if not line.startswith("?"))
    return "\n".join([head, *([f"  because: {why}"] if why else []), f"  {verdict}", *(f"  {line}" for line in body)])


def _lines(plan: dict[str, Any]) -> list[str]:
    lines = list(plan["calls"]) or ["no call"]
    lines += [f"{plan['unmet']} addresses unmet: {plan['reason']}"] if plan["unmet"] else []
    lines += [f"waiting: {plan['waiting']}"] if plan["waiting"] else []
    return lines + [f"unwanted: {interface}" for interface in plan["unwanted"]]
