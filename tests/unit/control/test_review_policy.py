"""A policy that changes on a node at rest: reports no longer bring a look, so the sweep has to see it."""

from __future__ import annotations

from dataclasses import replace

from berth.contract import Policy

from tests.unit.control.fakes import ARN, NODE
from tests.unit.control.test_sweep import Site, settled


def tag(site: Site, **tags: str) -> None:
    node = site.ec2.all_instances[NODE]
    named = {f"berth:{k.replace('_', '-')}": v for k, v in tags.items()}
    site.ec2.all_instances[NODE] = replace(node, tags=tuple(sorted((dict(node.tags) | named).items())))


def in_force(site: Site) -> Policy:
    record = site.store.record()
    assert record is not None
    return record.policy


def test_a_changed_tag_of_a_node_at_rest_is_followed_after_the_next_sweep() -> None:
    site = settled()
    tag(site, minimum_addresses="160")
    counts = site.sweep()
    assert (counts["NodesPolicyChanged"], counts["SweepRepairs"]) == (1, 0)
    site.look()
    assert in_force(site).minimum_addresses == 160
    site.pass_time(100)
    assert site.asked() == []


def test_changed_defaults_of_the_stack_are_followed_by_nodes_at_rest() -> None:
    site = settled()
    changed = replace(site.edges.settings, defaults=Policy(cooldown_seconds=300))
    site.edges = replace(site.edges, settings=changed)
    site.sweep_edges = replace(site.sweep_edges, settings=changed)
    assert site.asked() == [NODE]
    site.look()
    assert in_force(site).cooldown_seconds == 300
    site.pass_time(100)
    assert site.asked() == []


def test_security_groups_that_a_changed_tag_names_reach_a_node_at_rest() -> None:
    site = settled()
    site.ec2.groups |= {"sg-22222222"}
    tag(site, security_groups="sg-22222222")
    assert site.sweep()["NodesGroupsDiffer"] == 1
    site.look()
    assert {i.groups for i in site.ec2.ours()} == {("sg-22222222",)}
    site.pass_time(100)
    assert site.asked() == []


def test_a_bad_tag_is_looked_at_once() -> None:
    site = settled()
    tag(site, warm_addresses="many", security_groups="sg-33333333")
    assert site.asked() == [NODE]
    site.look()
    assert len(site.bus.named("Node Policy Invalid")) == 1
    site.pass_time(100)
    assert site.asked() == []


def test_a_type_or_network_that_cannot_follow_the_policy_is_no_change_of_it() -> None:
    site = settled()
    tag(site, ip_families="dual")
    assert site.asked() == [NODE]
    site.look()
    assert in_force(site).ip_families == "ipv4"
    site.pass_time(100)
    assert site.asked() == []


def test_addresses_that_were_kept_for_a_request_are_not_kept_for_ever_after_it() -> None:
    """Also where no report came just after it had ended."""
    site = settled()
    state, record = site.store.load([ARN])[ARN], site.store.record()
    assert record is not None
    asked = replace(record, revision=record.revision + 1, policy=replace(record.policy, minimum_addresses=170))
    site.store.save(ARN, asked, state.marked, state.notes)
    site.store.items[ARN].notes = replace(state.notes, requested=170, requested_until=site.machine.now - 3600)
    assert site.asked() == [NODE]
    site.look()
    assert in_force(site).minimum_addresses == 150
