"""The deployed policies under a linter that knows each action's resource types and condition keys."""

from __future__ import annotations

import warnings
from typing import Any, Final

from tests.iam.usage import deployed
from tests.sandbox.cloud.iam import parse_policy

_ONE_RESOURCE_TYPE: Final = "RESOURCE_MISMATCH"
"""An action with several resource types, of which the statement names one. Each type has a statement of its own, since
a condition key that one of them lacks makes the whole check fail (EC2 User Guide, "IAM policies for Amazon EC2")."""


_ALL_OF_A_TYPE: Final = "RESOURCE_EFFECTIVELY_STAR"
"""Every group, instance or interface of the account: which ones exist is not known when the stack is deployed. Whoever
tags them decides: allowed only in statements with a condition on a tag."""


_READS_ALONE: Final = frozenset({"ReadPrefixLists"})
"""Statements that read all things of a type and change none: AWS's own prefix lists carry no tag of anybody's."""


def _findings(text: str) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the linter's own imports
        import parliament

        return list(parliament.analyze_policy_string(text).findings)


def test_the_linter_finds_what_is_wrong() -> None:
    wrong = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:AttachNetworkInterfaces",'
        '"Resource":"*"},{"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::b/x",'
        '"Condition":{"StringEquals":{"ec2:Vpc":"v"}}}]}'
    )
    assert {f.issue for f in _findings(wrong)} >= {"UNKNOWN_ACTION"}


def test_the_linter_finds_nothing_in_the_deployed_policies() -> None:
    found = [
        f"{role}/{policy}: {f.issue}: {f.detail} {f.location}"
        for role, policies in deployed().items()
        for policy, text in policies.items()
        for f in _findings(text)
        if f.issue not in (_ONE_RESOURCE_TYPE, _ALL_OF_A_TYPE)
    ]
    assert not found


def test_whatever_names_all_things_of_a_type_asks_for_a_tag() -> None:
    for role, policies in deployed().items():
        for policy, text in policies.items():
            if any(f.issue == _ALL_OF_A_TYPE for f in _findings(text)):
                untagged = [
                    s.sid or str(n)
                    for n, s in enumerate(parse_policy(text))
                    if any(r.endswith("/*") for r in s.resources)
                    and not any("tag" in c.key for c in s.conditions)
                    and s.sid not in _READS_ALONE
                ]
                assert not untagged, f"{role}/{policy}"


def test_each_resource_type_of_an_action_has_its_statement() -> None:
    """What the linter misses in one statement must be made good by another one of the same role."""
    for role, policies in deployed().items():
        statements = [s for text in policies.values() for s in parse_policy(text)]
        for finding in (f for text in policies.values() for f in _findings(text) if f.issue == _ONE_RESOURCE_TYPE):
            for detail in finding.detail:
                named = {_type(r) for s in statements if detail["action"] in s.actions for r in s.resources}
                assert _type(detail["required_format"]) in named | {"*"}, f"{role}: {detail}; only {sorted(named)}"


def _type(arn: str) -> str:
    return arn.split(":", 5)[-1].partition("/")[0]
