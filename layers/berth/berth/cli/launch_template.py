"""``berth launch-template``: nodes that boot with their addresses, and so need no mutating call at all."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from berth.cli.account import aws_errors, session
from berth.cli.command import OK, CliError, UsageError, add_account_options, add_command, show_json, warn
from berth.cli.stack import add_stack_option, stack_settings
from berth.cli.template_data import Sizing, merge, size, template_data
from berth.contract import IP_FAMILIES, MODES, Policy
from berth.ec2_wire import read_limits
from berth.model import Limits

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_ec2.type_defs import RequestLaunchTemplateDataTypeDef

    from berth.cli.command import Commands

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Print a launch template (or create one) whose first interface carries its prefixes from the launch on. A node that boots
from it needs no mutating call until its pods outgrow what it booted with. The template names no subnet and no instance
profile, so managed node groups take it. What is printed goes into
    aws ec2 create-launch-template --cli-input-json file://template.json
The policy that is given here is put on the instances as berth: tags; what is not given is the stack's (--stack)."""

_GROUP: Final = re.compile(r"sg-[0-9a-f]{8,17}")
_POLICY: Final = ("mode", "ip_families", "max_pods", "minimum_addresses", "warm_addresses")
_SPARE: Final = "primary_serves_pods"
_CLUSTER: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")


def add_parser(commands: Commands) -> None:
    """Add the command's options."""
    parser = add_command(commands, "launch-template", "make nodes boot with their addresses", _DESCRIPTION)
    add = parser.add_argument
    add("--cluster", required=True, help="as the stack's parameter ClusterNames has it")
    add("--instance-type", action="append", required=True, metavar="TYPE", dest="types",
        help="once: goes into the template; several: what fits all of them, and the template names none")  # fmt: skip
    add("--security-group", action="append", default=[], metavar="SG", dest="groups",
        help="of the first interface, several allowed; on EKS the cluster's own must be among them")  # fmt: skip
    add("--name", help="the template's name; default: berth-CLUSTER")
    add("--format", choices=("json", "cloudformation"), default="json", help="default: json, as the AWS CLI takes it")
    add("--hop-limit", type=int, default=1, metavar="N", help="of instance metadata; default: %(default)s")
    policy = parser.add_argument_group("policy of these nodes")
    policy.add_argument("--mode", choices=MODES)
    policy.add_argument("--ip-families", choices=IP_FAMILIES)
    policy.add_argument("--max-pods", type=int, metavar="N")
    policy.add_argument("--minimum-addresses", type=int, metavar="N", help="what a node is to have at the least")
    policy.add_argument(
        "--primary-serves-pods", choices=("true", "false"), help="false: pods on further interfaces alone"
    )
    policy.add_argument("--warm-addresses", type=int, metavar="N", help="what it is to have beyond its pods")
    policy.add_argument("--no-instance-tags", action="store_true", help="tag the interface alone")
    add_stack_option(policy)
    limits = parser.add_argument_group("limits of the instance type, where EC2 is not to be asked")
    limits.add_argument("--interfaces", type=int, metavar="N")
    limits.add_argument("--addresses-per-interface", type=int, metavar="N", help="the primary one included")
    create = parser.add_argument_group("creating")
    create.add_argument("--create", action="store_true",
                        help="create the template, or a version that keeps what else the latest one has")  # fmt: skip
    create.add_argument("--set-default", action="store_true", help="with --create: nodes get the new version")
    create.add_argument("--json", action="store_true", help="with --create: what was done, as JSON")
    add_account_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print or create the template."""
    _check(arguments)
    policy = _policy(arguments)
    sizing = size(policy, _limits(arguments))
    kinds = sorted(set(arguments.types))
    data = template_data(
        sizing,
        arguments.cluster,
        arguments.groups,
        kind=kinds[0] if len(kinds) == 1 else None,
        policy_tags=_given(arguments),
        instance_tags=not arguments.no_instance_tags,
        hop_limit=arguments.hop_limit,
    )
    _caution(sizing)
    name = arguments.name or f"berth-{arguments.cluster}"
    if arguments.create:
        _show(_create(arguments, name, data), as_json=arguments.json)
    else:
        template = {"LaunchTemplateName": name, "LaunchTemplateData": data}
        cloudformation = {"Type": "AWS::EC2::LaunchTemplate", "Properties": template}
        show_json(cloudformation if arguments.format == "cloudformation" else template)
    return OK


def _check(arguments: argparse.Namespace) -> None:
    if not _CLUSTER.fullmatch(arguments.cluster):
        raise UsageError(f"--cluster {arguments.cluster!r}: expected letters, digits, - and _, as in ClusterNames")
    for group in arguments.groups:
        if not _GROUP.fullmatch(group):
            raise UsageError(f"--security-group {group!r}: expected an id such as sg-0123456789abcdef0")
    if not arguments.groups and not arguments.create:
        raise UsageError("--security-group is missing: a template with an interface names its groups there")
    if (arguments.interfaces is None) != (arguments.addresses_per_interface is None):
        raise UsageError("--interfaces and --addresses-per-interface go together; without both EC2 is asked")
    for name, lowest, highest in (
        ("max_pods", 1, 4096), ("minimum_addresses", 0, 4096), ("warm_addresses", 0, 4096),
        ("hop_limit", 1, 64), ("interfaces", 1, 4096), ("addresses_per_interface", 1, 4096),
    ):  # fmt: skip
        value = getattr(arguments, name)
        if value is not None and not lowest <= value <= highest:
            raise UsageError(f"--{name.replace('_', '-')} {value}: expected {lowest} to {highest}")


def _given(arguments: argparse.Namespace) -> dict[str, str]:
    """Policy tags for what the command line says of it."""
    given = {name: getattr(arguments, name) for name in (*_POLICY, _SPARE)}
    return {f"berth:{name.replace('_', '-')}": str(v) for name, v in given.items() if v is not None}


def _policy(arguments: argparse.Namespace) -> Policy:
    defaults = stack_settings(session(arguments), arguments.stack).defaults if arguments.stack else Policy()
    if (serves := getattr(arguments, _SPARE)) is not None:
        defaults = replace(defaults, spare_primary=serves == "false")
    return replace(defaults, **{n: getattr(arguments, n) for n in _POLICY if getattr(arguments, n) is not None})


def _limits(arguments: argparse.Namespace) -> Mapping[str, Limits]:
    if arguments.interfaces is not None:
        return {
            kind: Limits(arguments.interfaces, arguments.addresses_per_interface, ipv6=True) for kind in arguments.types
        }
    filters: Any = [{"Name": "instance-type", "Values": sorted(set(arguments.types))}]
    with aws_errors("ask EC2 for the limits of the instance type"):
        shown = session(arguments).client("ec2").describe_instance_types(Filters=filters)["InstanceTypes"]
    found: dict[str, Limits] = {item["InstanceType"]: read_limits(item) for item in shown}
    unknown = sorted(set(arguments.types) - found.keys())
    if unknown:
        raise CliError(f"EC2 knows no {', '.join(unknown)} in this region; correct --instance-type or --region")
    return found


def _caution(sizing: Sizing) -> None:
    """What the operator must know, on the error output."""
    if sizing.missing:
        warn(
            f"{sizing.wanted} addresses are wanted and {sizing.wanted - sizing.missing} fit the first interface; Berth "
            f"adds interfaces for the other {sizing.missing} once the node runs, three calls for each"
        )
    if sizing.prefixes:
        warn(
            f"in a subnet without {sizing.prefixes} free /28 ranges the launch itself fails (InsufficientCidrBlocks) "
            "and no node comes, where Berth would have fallen back to single addresses. Reserve room for prefixes: "
            "aws ec2 create-subnet-cidr-reservation --reservation-type prefix --subnet-id SUBNET --cidr RANGE"
        )
    elif sizing.addresses:
        warn(f"in a subnet with fewer than {sizing.addresses + 1} free addresses the launch itself fails")


# ------------------------------------------------------------------------------------------------ creating


def _create(arguments: argparse.Namespace, name: str, data: dict[str, Any]) -> dict[str, Any]:
    """Create the template or its next version. Returns what was done."""
    ec2 = session(arguments).client("ec2")
    with aws_errors(f"create the launch template {name}"):
        latest = _latest(ec2, name)
        if latest is None:
            if not arguments.groups:
                raise UsageError("--security-group is missing: a template with an interface names its groups there")
            made = ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=_request(data))
            return {"name": name, "id": made["LaunchTemplate"]["LaunchTemplateId"], "version": 1, "default": True}
        known: dict[str, Any] = latest["LaunchTemplateData"]
        merged = merge(known, data)
        if not merged["NetworkInterfaces"][0]["Groups"]:
            raise UsageError(f"--security-group is missing, and {name} names no group either")
        done = {"name": name, "id": latest["LaunchTemplateId"], "version": latest["VersionNumber"], "default": False}
        if merged != known:
            made_version = ec2.create_launch_template_version(
                LaunchTemplateName=name, LaunchTemplateData=_request(merged)
            )
            done["version"] = made_version["LaunchTemplateVersion"]["VersionNumber"]
        if arguments.set_default:
            ec2.modify_launch_template(LaunchTemplateName=name, DefaultVersion=str(done["version"]))
            done["default"] = True
        return {**done, "unchanged": merged == known}


def _request(data: dict[str, Any]) -> RequestLaunchTemplateDataTypeDef:
    """EC2 answers with the very fields that it takes."""
    request: Any = data
    return request  # type: ignore[no-any-return]


def _latest(ec2: EC2Client, name: str) -> Any:
    """The latest version of a template, or None if there is no such template."""
    named: Any = [{"Name": "launch-template-name", "Values": [name]}]
    if not ec2.describe_launch_templates(Filters=named)["LaunchTemplates"]:
        return None
    versions = ec2.describe_launch_template_versions(LaunchTemplateName=name, Versions=["$Latest"])
    return versions["LaunchTemplateVersions"][0]


def _show(done: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(done)
        return
    what = "is so already" if done.get("unchanged") else "created"
    default = "" if done["default"] else "; not the default version (--set-default)"
    print(f"{done['name']} ({done['id']}) version {done['version']} {what}{default}")
