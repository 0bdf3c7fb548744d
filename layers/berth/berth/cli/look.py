"""``berth look``: has the functions look at a node, or shows what they would do."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from berth.cli.account import aws_errors, session
from berth.cli.command import OK, CliError, UsageError, add_account_options, add_command, show_json, table
from berth.cli.stack import DEFAULT_STACK, add_stack_option, stack_settings
from berth.contract import PodRequest
from berth.decision import Decision, encode, prune
from berth.events import Signal
from berth.growth import deficit
from berth.own_interfaces import for_itself
from berth.pod_interfaces import grants
from berth.settings import Settings

if TYPE_CHECKING:
    import boto3

    from berth.cli.command import Commands

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Ask for a look at one node, as an event would. With --dry-run look from here instead: describe the node with your own
credentials, and show what Berth sees, what it would do and why. A dry run changes nothing: not EC2, not the table, no
message is sent. It needs to read the stack, its function's configuration, its table, and to describe instances,
instance types, interfaces, subnets, VPCs and security groups."""

_INSTANCE: Final = re.compile(r"i-[0-9a-f]{8,17}")


def add_parser(commands: Commands) -> None:
    """Add the command's options."""
    parser = add_command(commands, "look", "have a node looked at, or show what would be done", _DESCRIPTION)
    parser.add_argument("instance", metavar="INSTANCE_ID")
    parser.add_argument("--dry-run", action="store_true", help="look from here and change nothing")
    parser.add_argument("--json", action="store_true", help="with --dry-run: as JSON")
    add_stack_option(parser, DEFAULT_STACK)
    add_account_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask for the look, or do it dry."""
    if not _INSTANCE.fullmatch(arguments.instance):
        raise UsageError(f"{arguments.instance!r} is no instance id such as i-0123456789abcdef0")
    if arguments.json and not arguments.dry_run:
        raise UsageError("--json goes with --dry-run")
    account = session(arguments)
    settings = stack_settings(account, arguments.stack)
    if not arguments.dry_run:
        _ask(account, settings, arguments.instance)
        return OK
    outcome, decision = _dry_run(account, settings, arguments.instance)
    if arguments.json:
        show_json({"outcome": outcome, "decision": encode(prune(decision)) if decision else None})
    else:
        print("\n\n".join([*(_describe(decision) if decision else ()), f"Outcome: {outcome}"]))
    return OK


def _ask(account: boto3.Session, settings: Settings, instance_id: str) -> None:
    from berth.looks import LookQueue

    with aws_errors("put the request on the queue"):
        LookQueue(account.client("sqs"), settings.events_queue_url).ask([instance_id], "asked for by an operator")
    print(f"asked for a look at {instance_id}; its log line has the reason 'asked for by an operator'")


# --------------------------------------------------------------------------------------------------- looking dry


def _dry_run(account: boto3.Session, settings: Settings, instance_id: str) -> tuple[str, Decision | None]:
    """What came of it, in words, and the first decision; None where there was nothing to decide."""
    from berth.brake import Level
    from berth.cli.dry_edges import dry_edges
    from berth.decision import Recorder
    from berth.ec2_wire import Ec2Error
    from berth.look import Look
    from berth.visit import Visit
    from berth.world import describe

    edges = dry_edges(account, settings)
    signals = [Signal(instance_id, "dry run")]
    deadline = edges.clock() + 600
    with aws_errors("describe the node"):
        try:
            world = describe(edges, [instance_id])
            visit = Visit(edges, deadline, signals, level=Level.READ_ONLY, claimed=world.claimed, at=world.at)
            outcome = Look(edges, deadline, signals).node(visit, instance_id, world)
        except (Ec2Error, ValueError, TimeoutError) as error:
            raise CliError(f"cannot look at {instance_id}: {error}") from None
    recorder = visit.ran.planner if visit.ran else None
    decided = recorder.decisions if isinstance(recorder, Recorder) else []
    return outcome, decided[0] if decided else None


# --------------------------------------------------------------------------------------------------- showing it


def _describe(decision: Decision) -> list[str]:
    """Paragraphs: the node, its interfaces, what is wanted of it, the plan."""
    view, rules = decision.view, decision.rules
    instance, report = view.instance, view.report
    facts: list[tuple[str, Any]] = [
        ("node", f"{instance.id} {instance.type} {instance.state} in {instance.zone}, cluster {view.cluster or '-'}"),
        ("record", f"revision {view.record.revision}" if view.record else "none yet"),
        ("assigned", f"{view.assigned()} addresses"),
        ("in use", f"{report.in_use}, {len(report.waiting)} pods wait, {report.cooling} cooling, "
                   f"{len(report.surrendered)} blocks given back" if report else "the node has not reported"),
    ]  # fmt: skip
    if rules:
        policy = rules.policy.policy
        facts += [
            ("policy", f"{policy.mode}, minimum {policy.minimum_addresses}, warm {policy.warm_addresses}, "
                       f"max-pods {policy.max_pods}{', the primary serves no pods' if policy.spare_primary else ''}"),
            ("missing", f"{deficit(view, rules.policy)} addresses"),
            *(("pod", f"{r.namespace}/{r.name or r.id} asks for {r.groups or 'the groups it has'}: {told}")
              for r, told in _own(decision)),
            *(("bad value", f"{p.key}={p.value}: {p.message}") for p in rules.policy.problems),
        ]  # fmt: skip
    return [
        "\n".join(f"{name:10} {text}" for name, text in facts),
        table(("INTERFACE", "DEVICE", "STATUS", "SUBNET", "WHOSE", "BLOCKS"), _interfaces(decision)),
        "\n".join(["Plan:", *(f"  {line}" for line in _plan(decision))]),
    ]


def _own(decision: Decision) -> Iterable[tuple[PodRequest, str]]:
    """Pods that ask for an interface of their own, and what they are told."""
    view, rules = decision.view, decision.rules
    if rules is None:
        return
    told = {g.id: g.problem or g.interface_id for g in grants(view, rules.policy, rules.limits, rules.subnets)}
    for name, request in for_itself(view).items():
        yield request, told.get(name, "on its way")


def _interfaces(decision: Decision) -> Iterable[tuple[object, ...]]:
    view = decision.view
    ours = {i.id for i in view.ours}
    for interface in view.interfaces:
        at = interface.attachment
        primary = interface.is_primary_of(view.instance.id)
        whose = "primary" if primary else "Berth's" if interface.id in ours else "foreign"
        if interface.pod and interface.id in ours:
            whose = f"one pod's ({interface.pod_asks})"
        device, status = (at.device_index, at.status) if at else ("-", "unattached")
        yield interface.id, device, status, interface.subnet_id, whose, " ".join(interface.blocks) or "-"


def _plan(decision: Decision) -> list[str]:
    plan = decision.plan
    lines = [str(call) for call in plan.calls] or ["nothing to do"]
    lines += [f"{plan.unmet} addresses cannot be had: {plan.reason}"] if plan.unmet else []
    return lines + ([f"waiting: {plan.waiting}"] if plan.waiting else [])
