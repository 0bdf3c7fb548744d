"""Least privilege, judged by what the whole suite needed: nothing was missing, and nothing is allowed without use.

Whatever the policies allow beyond that is listed in ``UNUSED`` with the reason why it is kept; what is listed and used
after all fails as well, so that the list stays true.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from tests.iam.usage import NODE, Grant, deployed, documents_of, grants, uses
from tests.sandbox.cloud.iam import Access, evaluate, parse_policy

_BY_LAMBDA = "Lambda itself asks with the function's role; the sandbox keeps logs and visibility without asking"
_BY_INSTANCE = (
    "the Service Authorization Reference names the instance as a resource that may be asked about; the sandbox asks "
    "about the interface and the Elastic IP address. Limited to instances of the stack's clusters"
)
UNUSED: Final[dict[str, str]] = {
    "AttributeRole/attribute/Logs: logs:CreateLogStream": _BY_LAMBDA,
    "AttributeRole/attribute/TakeMessages: sqs:ChangeMessageVisibility": _BY_LAMBDA,
    "DriftRole/drift/Logs: logs:CreateLogStream": _BY_LAMBDA,
    "DriftRole/drift/TakeMessages: sqs:ChangeMessageVisibility": _BY_LAMBDA,
    "FillRole/fill/Logs: logs:CreateLogStream": _BY_LAMBDA,
    "FlatCheckRole/flat-check/Logs: logs:CreateLogStream": _BY_LAMBDA,
    "FlatCheckRole/network-changes/TakeMessages: sqs:ChangeMessageVisibility": _BY_LAMBDA,
    "FollowRole/follow/Logs: logs:CreateLogStream": _BY_LAMBDA,
    "FollowRole/route-changes/TakeMessages: sqs:ChangeMessageVisibility": _BY_LAMBDA,
    "ReconcileRole/runtime/Logs: logs:CreateLogStream": _BY_LAMBDA,
    "ReconcileRole/runtime/TakeMessages: sqs:ChangeMessageVisibility": _BY_LAMBDA,
    "SweepRole/sweep/Logs: logs:CreateLogStream": _BY_LAMBDA,
    "ReconcileRole/instances/0: ec2:ModifyNetworkInterfaceAttribute": (
        "the Service Authorization Reference names the instance as a resource of this action without saying when it is "
        "asked about; the sandbox asks about the interface alone. Limited to instances of the stack's clusters"
    ),
    "ReconcileRole/instances/0: ec2:AssociateAddress": _BY_INSTANCE,
    "ReconcileRole/instances/0: ec2:DisassociateAddress": _BY_INSTANCE,
}
"""``role/policy/statement: action`` → why it is there although no test made use of it."""


_NOT_OURS = "a test has a group without the cluster's tag use the hook's name: it is none of ours to complete"
REFUSED: Final = {
    (
        "logs:CreateLogGroup",
        "*",
    ): "Lambda asks, and goes on: the template makes the log groups, with a retention",
    ("autoscaling:CompleteLifecycleAction", "*/untagged"): _NOT_OURS,
    ("autoscaling:RecordLifecycleActionHeartbeat", "*/untagged"): _NOT_OURS,
}
"""(Action, resource's pattern) that functions are refused on purpose, with the reason."""


def test_the_run_shows_functions_and_nodes_at_work() -> None:
    assert {"ReconcileRole", "SweepRole", NODE} <= {u.role for u in uses() if u.allowed}


def test_no_function_lacks_a_permission() -> None:
    refused = {
        f"{u.role}: {u.access.action} on {u.access.resource}"
        for u in uses()
        # tests have nodes try what they must not
        if not u.allowed and u.role != NODE and not _on_purpose(u.access)
    }
    assert not refused


def test_each_call_is_allowed_by_the_policies_as_they_were_deployed_last() -> None:
    """The decision again, from the request and the policies alone: actions, resources and condition keys."""
    wrong = [
        f"{u.role}: {u.access.action} on {u.access.resource}"
        for u in uses()
        if u.allowed
        and evaluate([s for text in documents_of(u.named) for s in parse_policy(text)], u.access) != "allow"
    ]
    assert not wrong


def test_nodes_send_reports_and_read_their_record_and_nothing_else() -> None:
    allowed = {u.access.action for u in uses() if u.role == NODE and u.allowed}
    assert allowed == {"sqs:SendMessage", "dynamodb:GetItem"}
    assert {g.action for g in grants() if g.role == NODE} == allowed


def test_every_permission_was_used_or_says_why_it_is_there() -> None:
    idle = {str(g) for g in grants() if not _uses_of(g)}
    assert idle == UNUSED.keys(), (
        "unexplained: "
        + ", ".join(sorted(idle - UNUSED.keys()))
        + "; used after all: "
        + ", ".join(UNUSED.keys() - idle)
    )


def test_every_condition_key_was_there_to_be_tested() -> None:
    """A condition with IfExists or ForAllValues is true for a key that no request carries: then it guards nothing."""
    missing = [
        f"{g}: {', '.join(sorted(g.keys - found))}"
        for g in grants()
        if (seen := _uses_of(g)) and not g.keys <= (found := frozenset().union(*seen))
    ]
    assert not missing


def test_no_wildcard_names_an_action_and_only_describes_reach_everything() -> None:
    for role, policies in deployed().items():
        for policy, text in policies.items():
            for s in parse_policy(text):
                assert not any("*" in a for a in s.actions), f"{role}/{policy}/{s.sid}"
                wide = "*" in s.resources and not s.conditions
                assert not wide or all(":Describe" in a or ":Get" in a for a in s.actions), f"{role}/{policy}/{s.sid}"


def test_the_list_of_calls_is_kept_for_readers() -> None:
    """``build/iam-usage.json``: by role, each action with the resources' kinds that it was used on."""
    table: dict[str, dict[str, list[str]]] = {}
    for use in uses():
        if use.allowed:
            kinds = table.setdefault(use.role, {}).setdefault(use.access.action, [])
            kind = use.access.resource.partition("/")[0]
            if kind not in kinds:
                kinds.append(kind)
    path = Path("build") / "iam-usage.json"
    path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    assert table


def _on_purpose(access: Access) -> bool:
    return any(access.action == action and fnmatchcase(access.resource, glob) for action, glob in REFUSED)


def _uses_of(grant: Grant) -> list[frozenset[str]]:
    """The condition keys that were there, for each use of this grant."""
    return [
        keys
        for use in uses()
        if use.allowed and use.role == grant.role and use.access.action.lower() == grant.action.lower()
        for policy, statement, keys in use.granted
        if (policy, statement) == (grant.policy, grant.statement)
    ]
