"""Policy from tags: overrides, and every bad value reported and replaced by the default."""

from __future__ import annotations

import pytest
from berth.contract import Policy
from berth.policy import POLICY_TAGS, cluster_of, parse_policy

DEFAULTS = Policy(mode="prefixes", warm_addresses=8, minimum_addresses=0, max_pods=110, cooldown_seconds=120)


def test_without_tags_the_defaults_are_in_force() -> None:
    parsed = parse_policy({"Name": "node", "aws:autoscaling:groupName": "nodes"}, DEFAULTS)
    assert parsed.policy == DEFAULTS
    assert parsed.problems == ()


def test_every_tag_overrides_its_default() -> None:
    tags = {
        "berth:mode": "addresses",
        "berth:ip-families": "dual",
        "berth:warm-addresses": "3",
        "berth:minimum-addresses": "20",
        "berth:max-pods": "58",
        "berth:cooldown-seconds": "0",
        "berth:subnets": "pods=yes",
        "berth:security-groups": "sg-22222222 sg-11111111",
        "berth:unmanaged": "true",
        "berth:pod-interfaces": "2",
        "berth:primary-serves-pods": "false",
    }
    parsed = parse_policy(tags, DEFAULTS)
    assert set(tags) == set(POLICY_TAGS)
    assert parsed.policy == Policy("addresses", 3, 20, 58, 0, "dual", spare_primary=True)
    assert (parsed.subnets, parsed.groups) == (("pods", "yes"), ("sg-11111111", "sg-22222222"))
    assert parsed.unmanaged
    assert parsed.pod_interfaces == 2
    assert parsed.problems == ()


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("berth:mode", "prefix"),
        ("berth:ip-families", "IPv6"),
        ("berth:warm-addresses", "-1"),
        ("berth:warm-addresses", "8.5"),
        ("berth:warm-addresses", ""),
        ("berth:warm-addresses", "٣"),
        ("berth:max-pods", "0"),
        ("berth:max-pods", "9999999999999999999999"),
        ("berth:cooldown-seconds", "2m"),
        ("berth:subnets", "=yes"),
        ("berth:security-groups", "default"),
        ("berth:security-groups", ""),
        ("berth:unmanaged", "perhaps"),
        ("berth:primary-serves-pods", "perhaps"),
        ("berth:max-pod", "58"),
    ],
)
def test_a_bad_value_is_reported_and_the_default_used(tag: str, value: str) -> None:
    parsed = parse_policy({tag: value}, DEFAULTS)
    assert parsed.policy == DEFAULTS
    assert (parsed.subnets, parsed.groups, parsed.unmanaged) == (None, None, False)
    (problem,) = parsed.problems
    assert (problem.key, problem.value) == (tag, value)
    assert problem.message


def test_a_selector_may_name_a_tag_alone() -> None:
    assert parse_policy({"berth:subnets": "pods"}, DEFAULTS).subnets == ("pods", None)


@pytest.mark.parametrize(
    ("tags", "cluster"),
    [
        ({"kubernetes.io/cluster/blue": "owned"}, "blue"),
        ({"kubernetes.io/cluster/blue": "shared", "kubernetes.io/cluster/alpha": "owned"}, "alpha"),
        ({"kubernetes.io/cluster/blue": "yes"}, None),
        ({"kubernetes.io/cluster/green": "owned"}, None),
        ({}, None),
    ],
)
def test_an_instance_is_a_node_by_its_cluster_tag(tags: dict[str, str], cluster: str | None) -> None:
    assert cluster_of(tags, ["blue", "alpha"]) == cluster
