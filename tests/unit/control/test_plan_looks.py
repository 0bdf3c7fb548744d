"""What the planner's choices come to over several looks, with an EC2 that refuses."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from berth.calls import AssignAddresses, AssignIpv6Prefixes, AssignPrefixes, SetGroups
from berth.contract import Policy
from berth.ec2_wire import Trouble

from tests.unit.control.fakes import SUBNET, Scene, refusal
from tests.unit.control.test_reconcile import Agent, look, record

PODS = "sg-22222222"


def test_a_fragmented_subnet_gives_addresses_for_one_look_and_prefixes_again_in_the_next() -> None:
    scene = Scene(Policy(warm_addresses=4))
    free = scene.ec2._free[SUBNET]
    scene.ec2._free[SUBNET] = [ipaddress.IPv4Network(f"10.0.1.{n}/32") for n in range(1, 250, 2)]
    scene.ec2.launch()
    look(scene)
    assert scene.ec2.calls == [AssignPrefixes("eni-00000001", 1), AssignAddresses("eni-00000001", 4)]
    assert len(scene.ec2.primary().addresses) == 4
    scene.ec2._free[SUBNET] = free[8:]
    scene.ec2.calls.clear()
    Agent(scene).send(in_use=4, waiting=1)
    assert scene.ec2.calls == [AssignPrefixes("eni-00000001", 1)]
    assert len(scene.ec2.primary().prefixes) == 1


def test_groups_that_the_primary_gets_later_are_set_on_its_other_interfaces() -> None:
    scene = Scene(Policy(minimum_addresses=10 * 16, max_pods=250))
    scene.ec2.groups |= {PODS}
    scene.ec2.launch()
    look(scene)
    first = scene.ec2.primary()
    scene.ec2.all_interfaces[first.id] = replace(first, groups=(PODS,))
    scene.ec2.calls.clear()
    look(scene)
    assert scene.ec2.calls == [SetGroups("eni-00000002", (PODS,))]
    look(scene)
    assert len(scene.ec2.calls) == 1


def dual_stack() -> Scene:
    scene = Scene(Policy(ip_families="dual"))
    scene.ec2.types["m5.large"] = replace(scene.ec2.types["m5.large"], ipv6=True)
    scene.ec2.subnets[SUBNET] = replace(scene.ec2.subnets[SUBNET], ipv6=True)
    scene.ec2.launch()
    return scene


def test_a_dual_stack_node_has_its_ipv6_prefix_in_the_record() -> None:
    scene = dual_stack()
    look(scene)
    assert scene.ec2.calls == [AssignPrefixes("eni-00000001", 1), AssignIpv6Prefixes("eni-00000001")]
    shown = record(scene)
    assert [a.cidr for i in shown.interfaces for a in i.ipv6_assignments] == list(scene.ec2.primary().ipv6_prefixes)
    assert shown.policy.ip_families == "dual"
    look(scene)
    assert len(scene.ec2.calls) == 2
    assert record(scene).revision == shown.revision


def test_a_subnet_that_gives_no_ipv6_prefix_leaves_the_node_with_ipv4() -> None:
    scene = dual_stack()
    scene.ec2.refuse[AssignIpv6Prefixes] = [refusal("InsufficientCidrBlocks", Trouble.FRAGMENTED)]
    look(scene)
    assert scene.ec2.calls == [AssignPrefixes("eni-00000001", 1), AssignIpv6Prefixes("eni-00000001")]
    assert len(scene.ec2.primary().prefixes) == 1
    assert record(scene).interfaces[0].ipv6_assignments == ()


def test_an_ipv6_assignment_that_was_not_answered_is_not_repeated_before_ec2_shows_what_it_did() -> None:
    scene = dual_stack()
    scene.ec2.loses, scene.ec2.loses_answers = AssignIpv6Prefixes, 1
    look(scene)
    look(scene)
    assert [type(c) for c in scene.ec2.calls].count(AssignIpv6Prefixes) == 1
    assert len(record(scene).interfaces[0].ipv6_assignments) == 1


def test_a_policy_that_the_network_does_not_allow_is_told_once() -> None:
    scene = Scene()
    scene.ec2.launch(berth__ip_families="dual")
    look(scene)
    look(scene)
    (told,) = scene.bus.named("Node Policy Invalid")
    assert "berth:ip-families" in str(told.detail)
