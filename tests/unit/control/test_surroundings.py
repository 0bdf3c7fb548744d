"""What the network around a node does not allow is reported, and the default used."""

from __future__ import annotations

from dataclasses import replace

from berth.calls import CreateInterface, SetGroups
from berth.contract import Policy
from berth.model import NodePolicy, SubnetView
from berth.plan import plan
from berth.surroundings import fit_network

from tests.unit.control.test_plan import GROUP, LIMITS, SUBNETS, eni, primary, rules, view

IPV6 = replace(LIMITS, ipv6=True)
DUAL = NodePolicy(Policy(ip_families="dual"))


def told(policy: NodePolicy) -> list[tuple[str, str]]:
    return [(p.key, p.value) for p in policy.problems]


def test_what_can_be_followed_is_left_as_it_is() -> None:
    subnets = [replace(SUBNETS[0], ipv6=True, tags=(("pods", "yes"),))]
    policy = replace(DUAL, subnets=("pods", "yes"), groups=(GROUP,))
    assert fit_network(policy, view(primary()), IPV6, subnets) == policy
    assert fit_network(NodePolicy(), view(primary()), LIMITS, SUBNETS) == NodePolicy()


def test_a_selector_that_finds_no_subnet_is_reported_and_any_allowed_one_used() -> None:
    elsewhere = SubnetView("subnet-b", "10.1.0.0/24", "vpc-1", "az-b", 100, True, (("pods", "yes"),))
    fitted = fit_network(
        replace(rules(minimum=70, max_pods=200), subnets=("pods", "yes")),
        view(primary(4)),
        LIMITS,
        [*SUBNETS, elsewhere],
    )
    assert told(fitted) == [("berth:subnets", "pods=yes")]
    got = plan(view(primary(4)), fitted, LIMITS, [*SUBNETS, elsewhere]).calls
    assert got == (CreateInterface("subnet-a", (GROUP,), prefixes=1),)


def test_groups_that_are_not_allowed_are_reported_and_new_interfaces_get_the_primarys() -> None:
    v = view(primary(4), eni(1, 4, index=1, groups=("sg-22222222",)))
    fitted = fit_network(replace(rules(minimum=140, max_pods=200), groups=("sg-22222222",)), v, LIMITS, SUBNETS)
    assert told(fitted) == [("berth:security-groups", "sg-22222222")]
    got = plan(v, fitted, LIMITS, SUBNETS).calls
    assert CreateInterface("subnet-a", (GROUP,), prefixes=1) in got
    assert not [c for c in got if isinstance(c, SetGroups)], "what is there keeps the groups it has"


def test_a_node_without_ipv6_in_its_subnet_or_type_goes_on_with_ipv4() -> None:
    with_ipv6 = [replace(SUBNETS[0], ipv6=True)]
    for limits, subnets in ((IPV6, SUBNETS), (LIMITS, with_ipv6)):
        fitted = fit_network(DUAL, view(primary()), limits, subnets)
        assert told(fitted) == [("berth:ip-families", "dual")]
        assert fitted.policy.ip_families == "ipv4"
    assert fit_network(DUAL, view(primary()), IPV6, []) == DUAL, "a subnet that nobody has described yet is no reason"
