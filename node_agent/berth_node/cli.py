"""``berth-node``: runs the agent, and shows what a running one does."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from berth_node.admin import AgentDownError, ask
from berth_node.config import DEFAULT_PATH, ConfigError, load
from berth_node.install.parsers import add_parsers

__all__ = ["main"]

_SOCKET = Path("/run/berth/admin.sock")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="berth-node", description="Berth's node agent: pods' VPC addresses.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    agent = commands.add_parser("agent", help="run the agent until SIGTERM")
    agent.add_argument("--config", type=Path, default=DEFAULT_PATH, help="default: %(default)s")
    for name, text in (
        ("status", "is the node ready, how many addresses it has, what is wrong"),
        ("pods", "each pod with its address and interface"),
        ("interfaces", "each interface with its prefixes and addresses"),
        ("explain", "why the node, a pod or an address is as it is"),
        ("check", "compare every pod and the node with the kernel; exit code 3 if something differs"),
        ("metrics", "what the agent has counted and measured since it started"),
    ):
        command = commands.add_parser(name, help=text)
        if name == "explain":
            command.add_argument("subject", nargs="?", help="an address, a container id, or namespace/pod")
        command.add_argument("--json", action="store_true", help="as JSON")
        command.add_argument("--socket", type=Path, default=_SOCKET, help="default: %(default)s")
    add_parsers(commands)
    return parser


def _run_agent(path: Path) -> int:
    # Imported here: the other commands need neither netlink nor AWS, and start in a fraction of the time.
    from berth_node.agent import AlreadyRunningError, run
    from berth_node.dataplane import KernelDataplane
    from berth_node.log import set_up

    config = load(path)
    set_up(config.log_level, config.log_format)
    try:
        run(config, KernelDataplane)
    except AlreadyRunningError as error:
        print(f"berth-node: {error}", file=sys.stderr)
        return 1
    return 0


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in texts)


def _show(view: str, answer: Mapping[str, Any]) -> str:
    match view:
        case "status":
            return "\n".join(f"{name.replace('_', ' '):16} {_plain(value)}" for name, value in answer.items())
        case "pods":
            pods: list[tuple[Any, ...]] = [
                (p["namespace"] or "-", p["name"] or p["container_id"][:13], _addresses(p), p["interface"] or "-",
                 p["host_ifname"], f"{p['age_seconds']:.0f} s")
                for p in answer["pods"]
            ]  # fmt: skip
            return _table(("NAMESPACE", "POD", "ADDRESS", "INTERFACE", "HOST LINK", "AGE"), pods)
        case "interfaces":
            rows = [
                (i["id"], i["device_index"], i["primary_address"], b["cidr"], b["state"],
                 f"{b['in_use']}/{b['addresses']}", b["cooling"])
                for i in answer["interfaces"]
                for b in i["blocks"] or [{"cidr": "-", "state": "-", "in_use": 0, "addresses": 0, "cooling": 0}]
            ]  # fmt: skip
            for i in answer["interfaces"]:
                for p in i.get("ipv6_prefixes", ()):
                    rows.append((i["id"], i["device_index"], "-", p["cidr"], p["state"], f"{p['in_use']}/2^48", "-"))
            return _table(("INTERFACE", "DEVICE", "PRIMARY", "BLOCK", "STATE", "IN USE", "COOLING"), rows)
        case "check":
            return "\n".join(_check_lines(answer))
        case "metrics":
            samples: list[tuple[str, str, str]] = [
                (m["name"], _plain(sample["labels"]), _sample(m["name"], sample))
                for m in answer["metrics"]
                for sample in m["samples"]
            ]
            return _table(("METRIC", "LABELS", "VALUE"), samples)
        case _:
            return "\n".join(answer["lines"])


def _addresses(pod: Mapping[str, Any]) -> str:
    public = f"({pod['public_address']})" if pod.get("public_address") else ""
    return " ".join(text for text in (pod["address"], public, pod.get("address6")) if text)


def _check_lines(answer: Mapping[str, Any]) -> list[str]:
    wrong = [p for p in answer["pods"] if p["problems"]]
    lines = [f"{len(answer['pods'])} pods compared with the kernel, {len(wrong)} differ"]
    for p in wrong:
        who = f"{p['namespace']}/{p['name']}" if p["name"] else p["container_id"]
        lines += [f"{who} {_addresses(p)}: {problem}" for problem in p["problems"]]
    return lines + [f"node: {problem}" for problem in answer["node"]]


def _sample(name: str, sample: Mapping[str, Any]) -> str:
    if "value" in sample:
        return f"{sample['value']:g}" if sample["value"] < 1e6 else f"{sample['value']:.0f}"
    if not sample["count"]:
        return "none"
    unit = " s" if name.endswith("_seconds") else ""
    ends = (f"{which} {'beyond all buckets' if end is None else f'<= {end:g}{unit}'}" for which, end in
            (("p50", sample["p50"]), ("p99", sample["p99"])))  # fmt: skip
    return f"{sample['count']} times, mean {sample['sum'] / sample['count']:.3g}{unit}, {', '.join(ends)}"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit codes: 0 fine, 1 the agent is down or runs already, 2 wrong usage or configuration, 3
    ``check`` found a difference."""
    options = _parser().parse_args(arguments)
    if options.command in ("install", "uninstall"):
        from berth_node.install.command import run as run_install

        return run_install(options)
    try:
        if options.command == "agent":
            return _run_agent(options.config)
        answer = ask(options.socket, {"view": options.command, "subject": getattr(options, "subject", None)})
    except ConfigError as error:
        print(f"berth-node: {error}", file=sys.stderr)
        return 2
    except AgentDownError as error:
        print(f"berth-node: {error}", file=sys.stderr)
        return 1
    if "error" in answer:
        print(f"berth-node: {answer['error']}", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2) if options.json else _show(options.command, answer))
    return 0 if answer.get("same", True) else 3
