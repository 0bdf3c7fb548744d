"""The policy evaluator, against what IAM's documentation says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sandbox.cloud.iam import Access, Decision, PolicyError, context, evaluate, parse_policy

NODE = "arn:aws:ec2:eu-west-1:123456789012:instance/i-1"


def decide(
    *statements: dict[str, Any], action: str = "s3:GetObject", resource: str = "arn:aws:s3:::b/k", **keys: Any
) -> Decision:
    full = [{"Effect": "Allow", "Action": "*", "Resource": "*", **s} for s in statements]
    parsed = parse_policy(json.dumps({"Version": "2012-10-17", "Statement": full}))
    return evaluate(parsed, Access(action, resource, context({k.replace("__", ":"): v for k, v in keys.items()})))


def condition(operator: str, key: str, *values: str) -> dict[str, Any]:
    return {"Condition": {operator: {key: list(values)}}}


def test_nothing_is_allowed_by_default() -> None:
    assert decide({"Action": "s3:PutObject"}) == "none"


def test_an_explicit_deny_wins_over_an_allow() -> None:
    assert decide({}, {"Effect": "Deny", "Action": "s3:Get*"}) == "deny"


@pytest.mark.parametrize(
    ("pattern", "allowed"), [("s3:*", True), ("S3:getobject", True), ("s3:Get?bject", True), ("ec2:*", False)]
)
def test_actions_have_wildcards_and_no_case(pattern: str, allowed: bool) -> None:
    assert decide({"Action": pattern}) == ("allow" if allowed else "none")


def test_not_action_and_not_resource_mean_all_others() -> None:
    parsed = parse_policy(json.dumps({"Statement": {"Effect": "Allow", "NotAction": "iam:*", "NotResource": "arn:x"}}))
    assert evaluate(parsed, Access("s3:GetObject", "arn:y")) == "allow"
    assert evaluate(parsed, Access("iam:GetRole", "arn:y")) == "none"
    assert evaluate(parsed, Access("s3:GetObject", "arn:x")) == "none"


def test_resources_take_policy_variables() -> None:
    statement = {"Resource": "arn:aws:s3:::b/${aws:userid}/*"}
    assert decide(statement, resource="arn:aws:s3:::b/AROA:i-1/x", aws__userid="AROA:i-1") == "allow"
    assert decide(statement, resource="arn:aws:s3:::b/AROA:i-2/x", aws__userid="AROA:i-1") == "none"


def test_a_variable_without_a_value_matches_nothing() -> None:
    assert decide({"Resource": "arn:aws:s3:::b/${aws:userid}"}, resource="arn:aws:s3:::b/") == "none"


def test_a_variable_with_a_default_uses_it() -> None:
    assert decide({"Resource": "arn:aws:s3:::b/${aws:userid, 'none'}"}, resource="arn:aws:s3:::b/none") == "allow"


def test_wildcards_in_a_variables_value_are_plain_characters() -> None:
    assert (
        decide({"Resource": "arn:aws:s3:::b/${aws:userid}"}, resource="arn:aws:s3:::b/any", aws__userid="*") == "none"
    )


def test_a_key_that_is_absent_fails_a_condition_unless_it_says_if_exists() -> None:
    assert decide(condition("StringEquals", "aws:userid", "x")) == "none"
    assert decide(condition("StringEqualsIfExists", "aws:userid", "x")) == "allow"
    assert decide(condition("StringEqualsIfExists", "aws:userid", "x"), aws__userid="y") == "none"


def test_a_negated_condition_matches_an_absent_key() -> None:
    assert decide(condition("StringNotEquals", "aws:userid", "x")) == "allow"
    assert decide(condition("StringNotEquals", "aws:userid", "x", "y"), aws__userid="y") == "none"


def test_null_asks_whether_a_key_is_there() -> None:
    there = condition("Null", "ec2:SourceInstanceARN", "false")
    assert decide(there) == "none"
    assert decide(there, ec2__SourceInstanceARN=NODE) == "allow"
    assert decide(condition("Null", "ec2:SourceInstanceARN", "true")) == "allow"


def test_string_like_and_bool() -> None:
    assert decide(condition("StringLike", "aws:userid", "*:i-?"), aws__userid="AROA:i-1") == "allow"
    assert decide(condition("StringLike", "aws:userid", "*:i-?"), aws__userid="AROA:i-12") == "none"
    assert decide(condition("Bool", "aws:SecureTransport", "false"), aws__SecureTransport="true") == "none"


def test_arns_are_compared_part_by_part() -> None:
    assert decide(condition("ArnLike", "aws:SourceArn", "arn:*:ec2:*:*:instance/*"), aws__SourceArn=NODE) == "allow"
    assert decide(condition("ArnEquals", "aws:SourceArn", "arn:*:instance/i-1"), aws__SourceArn=NODE) == "none"


def test_for_all_values_wants_every_value_and_holds_for_an_absent_key() -> None:
    mine = condition("ForAllValues:StringEquals", "dynamodb:LeadingKeys", "${ec2:SourceInstanceARN}")
    keys = {"ec2__SourceInstanceARN": NODE}
    assert decide(mine, dynamodb__LeadingKeys=[NODE], **keys) == "allow"
    assert decide(mine, dynamodb__LeadingKeys=[NODE, "other"], **keys) == "none"
    assert decide(mine, **keys) == "allow"


def test_for_any_value_wants_one_and_fails_for_an_absent_key() -> None:
    one = condition("ForAnyValue:StringEquals", "aws:TagKeys", "berth:cluster")
    assert decide(one, aws__TagKeys=["x", "berth:cluster"]) == "allow"
    assert decide(one, aws__TagKeys=["x"]) == "none"
    assert decide(one) == "none"


def test_all_conditions_of_a_statement_must_hold() -> None:
    both = {"Condition": {"StringEquals": {"a:x": "1", "a:y": "2"}, "Null": {"a:z": "true"}}}
    assert decide(both, a__x="1", a__y="2") == "allow"
    assert decide(both, a__x="1", a__y="3") == "none"
    assert decide(both, a__x="1", a__y="2", a__z="there") == "none"


def test_condition_keys_have_no_case() -> None:
    assert (
        decide(
            condition("StringEquals", "AWS:ResourceTag/Berth:Cluster", "d"), **{"aws__resourcetag/berth:cluster": "d"}
        )
        == "allow"
    )


def test_a_resource_policy_names_its_principals() -> None:
    def of(principal: Any, **who: str) -> Decision:
        statement = {"Effect": "Allow", "Principal": principal, "Action": "sqs:SendMessage", "Resource": "*"}
        return evaluate(parse_policy(json.dumps({"Statement": [statement]})), Access("sqs:SendMessage", "q"), who)

    role = "arn:aws:iam::123456789012:role/r"
    assert of("*", AWS=role) == "allow"
    assert of({"AWS": role}, AWS=role) == "allow"
    assert of({"AWS": "arn:aws:iam::123456789012:root"}, AWS=role) == "allow"
    assert of({"AWS": "arn:aws:iam::999999999999:root"}, AWS=role) == "none"
    assert of({"Service": "events.amazonaws.com"}, Service="events.amazonaws.com") == "allow"
    assert of({"Service": "events.amazonaws.com"}, AWS=role) == "none"


@pytest.mark.parametrize(
    "statement",
    [
        {"Effect": "allow"},
        {"Condition": {"StringAlmostEquals": {"a": "b"}}},
        {"Condition": {"ForSomeValues:StringEquals": {"a": "b"}}},
    ],
)
def test_a_policy_that_is_not_understood_is_an_error(statement: dict[str, Any]) -> None:
    full = {"Effect": "Allow", "Action": "*", "Resource": "*", **statement}
    with pytest.raises(PolicyError):
        parse_policy(json.dumps({"Statement": [full]}))
