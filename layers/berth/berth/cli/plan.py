"""``berth plan``: whether a group of nodes fits, before it is launched."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from berth.buckets import Buckets, parse_buckets
from berth.capacity import (
    INTERFACE_QUOTA,
    USAGE_QUOTA,
    Calls,
    Demand,
    NodeNeed,
    Room,
    Verdict,
    calls,
    fit,
    need,
)
from berth.cli.account import aws_errors, session
from berth.cli.command import (
    DIFFERENT,
    OK,
    CliError,
    UsageError,
    add_account_options,
    add_command,
    add_json_option,
    show_json,
    table,
)
from berth.contract import MODES
from berth.free_blocks import BlockMap, usable_size
from berth.model import Limits

if TYPE_CHECKING:
    from berth.cli.command import Commands

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
What a group of full nodes takes: addresses and interfaces, room in the subnets (whole /28 blocks too), quotas, and EC2
calls with the time that their documented buckets take for them. Describes the instance type and the subnets with your
credentials; offline where --interfaces and --addresses-per-interface are given and each --subnet is a CIDR, as in
10.0.0.0/20, or 10.0.0.0/20=900 with the addresses that are free in it. (What Berth would do for a node that is there:
`berth look --dry-run`.) Exit code 3: it does not fit."""


def add_parser(commands: Commands) -> None:
    """Add the command's options."""
    parser = add_command(commands, "plan", "whether a group of nodes fits, before it is launched", _DESCRIPTION)
    parser.add_argument("--instance-type", required=True, metavar="TYPE")
    parser.add_argument("--mode", choices=MODES, default="prefixes", help="default: prefixes")
    parser.add_argument("--max-pods", type=_count, default=110, metavar="N", help="of each node; default: 110")
    own = "pods of each node with security groups of their own, so with an interface of their own; default: 0"
    parser.add_argument("--pods-with-groups", type=_own_count, default=0, metavar="N", help=own)
    spared = "as with berth:primary-serves-pods=false; --subnet are those of pods"
    parser.add_argument("--primary-serves-no-pods", action="store_true", help=spared)
    parser.add_argument("--nodes", type=_count, required=True, metavar="N")
    parser.add_argument("--subnet", action="append", required=True, metavar="SUBNET", help="id or CIDR; repeatable")
    offline = parser.add_argument_group("without asking AWS")
    offline.add_argument("--interfaces", type=_count, metavar="N", help="that the type can have")
    offline.add_argument("--addresses-per-interface", type=_count, metavar="N", help="IPv4, its own included")
    offline.add_argument("--no-prefixes", action="store_true", help="the type is not on Nitro")
    bounds = parser.add_argument_group("quotas and buckets that differ from the defaults")
    bounds.add_argument("--interface-quota", type=_count, default=INTERFACE_QUOTA, metavar="N", help="in a zone")
    bounds.add_argument("--usage-quota", type=_count, default=USAGE_QUOTA, metavar="N", help="network address usage")
    bounds.add_argument("--buckets", default="", metavar="LIST", help="as the stack's parameter BudgetBuckets")
    bounds.add_argument("--percent", type=_count, default=100, metavar="N", help="as BudgetPercent")
    add_json_option(parser)
    add_account_options(parser)
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


def _own_count(text: str) -> int:
    return 0 if text == "0" else _count(text)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    try:
        buckets = Buckets(parse_buckets(arguments.buckets), arguments.percent)
    except ValueError as error:
        raise UsageError(f"--buckets: {error}") from None
    ids = [s for s in arguments.subnet if s.startswith("subnet-")]
    given = _given_limits(arguments)
    ec2: Any = session(arguments).client("ec2") if ids or given is None else None
    limits = given or _described_limits(ec2, arguments.instance_type)
    rooms = [_offline(s) for s in arguments.subnet if s not in ids] + (_described_rooms(ec2, ids) if ids else [])
    spared, own = arguments.primary_serves_no_pods, arguments.pods_with_groups
    demand = Demand(limits, arguments.mode, arguments.max_pods, arguments.nodes, spared, own)
    verdict = fit(demand, rooms, arguments.interface_quota, arguments.usage_quota)
    made = calls(demand, buckets)
    if arguments.json:
        show_json(_json(demand, rooms, made, verdict))
    else:
        print(_text(arguments, demand, rooms, made, verdict))
    return DIFFERENT if verdict.problems else OK


# ------------------------------------------------------------------------------------------------------ reading


def _given_limits(arguments: argparse.Namespace) -> Limits | None:
    pair = (arguments.interfaces, arguments.addresses_per_interface)
    if pair == (None, None):
        return None
    if None in pair:
        raise UsageError("--interfaces and --addresses-per-interface go together")
    return Limits(*pair, prefixes=not arguments.no_prefixes)


def _described_limits(ec2: Any, kind: str) -> Limits:
    from berth.ec2_wire import read_limits

    with aws_errors(f"describe the type {kind}"):
        return read_limits(ec2.describe_instance_types(InstanceTypes=[kind])["InstanceTypes"][0])


def _offline(text: str) -> Room:
    cidr, _, free = text.partition("=")
    try:
        network = ipaddress.IPv4Network(cidr)
        left = int(free) if free else usable_size(cidr)
    except ValueError as error:
        raise UsageError(f"--subnet {text}: {error}; expected an id, a CIDR, or CIDR=FREE") from None
    if not 16 <= network.prefixlen <= 28 or not 0 <= left <= usable_size(cidr):
        raise UsageError(f"--subnet {text}: a subnet is a /16 to /28, with at most {usable_size(cidr)} addresses free")
    return Room(cidr, cidr, left, min(BlockMap(cidr).room().free_prefixes, left // 16))


def _described_rooms(ec2: Any, ids: list[str]) -> list[Room]:
    from berth.ec2_wire import read_interface, read_subnet

    with aws_errors("describe the subnets"):
        subnets = [read_subnet(item) for item in ec2.describe_subnets(SubnetIds=ids)["Subnets"]]
        maps = {s.id: BlockMap(s.cidr) for s in subnets if s.cidr}
        if len(maps) < len(ids):
            raise CliError(f"no IPv4 in {', '.join(sorted(set(ids) - maps.keys()))}")
        pages = ec2.get_paginator("describe_network_interfaces")
        for page in pages.paginate(Filters=[{"Name": "subnet-id", "Values": ids}]):
            for view in map(read_interface, page["NetworkInterfaces"]):
                maps[view.subnet_id].use((view.primary_address, *view.addresses, *view.prefixes))
    return [Room(s.id, s.zone, s.free, maps[s.id].room().free_prefixes) for s in subnets]


# ------------------------------------------------------------------------------------------------------ showing


def _json(demand: Demand, rooms: Iterable[Room], made: Iterable[Calls], verdict: Verdict) -> dict[str, Any]:
    node = need(demand)
    return {
        "fits": not verdict.problems,
        "most_pods": {mode: demand.most_pods(mode) for mode in MODES},
        "pods_with_groups": demand.pods_own,
        "node": asdict(node),
        "all": {name: value * demand.nodes for name, value in asdict(node).items()},
        "subnets": [asdict(room) for room in rooms],
        "calls": [asdict(c) | {"seconds": round(c.seconds, 1)} for c in made],
        "seconds": round(max(c.seconds for c in made), 1),
        **asdict(verdict),
    }


def _text(
    arguments: argparse.Namespace, demand: Demand, rooms: Iterable[Room], made: Iterable[Calls], verdict: Verdict
) -> str:
    node, made = need(demand), tuple(made)
    slowest = max(made, key=lambda c: c.seconds)
    last = f"{slowest.seconds:.0f} s: {slowest.action}, ({slowest.count:,} − {slowest.capacity:g}) / {slowest.refill:g}"
    paragraphs = [
        "\n".join(_arithmetic(arguments.instance_type, demand, node)),
        table(("SUBNET", "FREE", "WHOLE /28"), ((r.name, f"{r.free:,}", f"{r.prefixes:,}") for r in rooms)),
        f"Full nodes that fit: {verdict.nodes_packed:,}; {verdict.nodes_scattered:,} if single addresses lie scattered",
        table(("EC2 CALLS", "COUNT", "BUCKET", "SECONDS"),
              ((c.action, f"{c.count:,}", f"{c.capacity:g} + {c.refill:g}/s", f"{c.seconds:.0f}") for c in made)),
        f"All nodes at once, from nothing to full: {last if slowest.seconds else 'the buckets hold it all'}",
        "\n".join([*(f"Does not fit: {p}" for p in verdict.problems or ()), *(f"Note: {r}" for r in verdict.remarks)]),
        "It fits." if not verdict.problems else "It does not fit.",
    ]  # fmt: skip
    return "\n\n".join(filter(None, paragraphs))


def _arithmetic(kind: str, demand: Demand, node: NodeNeed) -> Iterable[str]:
    limits, n = demand.limits, demand.nodes
    slots = limits.addresses_per_interface - 1
    yield f"{kind}: {limits.interfaces} interfaces of {limits.addresses_per_interface} addresses, one each its own"
    by_mode = (f"{demand.most_pods(mode):,} with {mode}" for mode in MODES)
    alone = limits.interfaces - demand.shared.interfaces
    beside = f" on {demand.shared.interfaces} interfaces, and {alone} with one of their own" if alone else ""
    yield f"most pods: {', '.join(by_mode)}{beside}"
    what, size = ("prefixes", 16) if demand.mode == "prefixes" else ("addresses", 1)
    own = node.interfaces - demand.spare_primary
    spared = ", and a primary without pods in its own subnet" if demand.spare_primary else ""
    rest = f" + {alone} on interfaces of their own" if alone else ""
    on = f"{node.blocks} {what}, on {own - alone} interfaces of {slots}"
    yield f"a full node: {node.pods} pods = {on}{rest}{spared}"
    taken = f"{node.blocks} × {size} + {own}"
    yield f"addresses: {taken} = {node.subnet_addresses} a node, × {n:,} = {n * node.subnet_addresses:,}"
    yield f"interfaces: {node.interfaces} a node, × {n:,} = {n * node.interfaces:,}"
    usage = f"{node.blocks} + {node.interfaces} + {node.interfaces - 1} further interfaces"
    yield f"network address usage: {usage} = {node.usage} a node, × {n:,} = {n * node.usage:,}"
